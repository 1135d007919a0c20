//! The actions of one recipient and of its kind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use eventbox::{Event, Recipient, admin};

use crate::browser::REASON;
use crate::stage::{Play, about, on_stage, order};
use crate::support::{CellEngine, SOON, eventually, on_every_engine};

on_every_engine! {
    async fn a_recipient_is_paused_and_resumed(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            browser.open(&about(&order("7"))).await;
            browser.act("#action-pause", "This pauses order/7", "The recipient is paused.").await;
            assert!(admin::standing(&db.pool, &order("7")).await.unwrap().paused);
            stage.emit(&order("7"), "5").await;
            browser.see_by_reloads("#why-sentence", "order/7 is paused by an operator; 1 event waits.").await;
            browser.act("#action-resume", "This resumes order/7", "The recipient is resumed.").await;
            stage.totals("7", 5).await;
            browser.see_by_reloads("#why-sentence", "Nothing is wrong").await;
            browser.click("#nav-operations").await;
            browser.see("#operations", REASON).await;
            let noted = admin::operations(&db.pool, None, 10).await.unwrap();
            let noted: Vec<_> = noted.iter().map(|one| (one.who.as_str(), one.why.as_deref())).collect();
            assert_eq!(noted, [("dashboard", Some(REASON)); 2]);
        })
        .await;
    }

    async fn a_kind_is_paused_and_resumed(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            browser.open("/recipients?kind=order").await;
            browser.act("#pause-kind", "This pauses the kind order", "The kind is paused.").await;
            assert_eq!(admin::paused_kinds(&db.pool).await.unwrap()[0].kind, "order");
            stage.emit_to_paused_kind(&order("7"), "5").await;
            browser.see_by_reloads("#recipients", "order/7").await;
            browser.act("#resume-kind", "This resumes the kind order", "The kind is resumed.").await;
            assert!(admin::paused_kinds(&db.pool).await.unwrap().is_empty());
            stage.totals("7", 5).await;
        })
        .await;
    }

    async fn a_failing_recipient_is_tried_now(db) {
        on_stage(db, Play::default(), async |stage| {
            let (browser, ada) = (&stage.browser, Recipient::new("mail", "ada").unwrap());
            stage.mail_is_away.store(true, Ordering::SeqCst);
            stage.emit(&ada, "hello").await;
            browser.open(&about(&ada)).await;
            browser.see_by_reloads("#why-sentence", "the mail server is away").await;
            browser.see("#standing", "failing").await;
            stage.mail_is_away.store(false, Ordering::SeqCst);
            browser.act("#action-try-now", "of mail/ada", "The recipient is tried at once.").await;
            eventually(SOON, async || db.count("eventbox_event").await == 0).await;
            browser.see_by_reloads("#standing", "in order").await;
        })
        .await;
    }

    async fn one_event_is_quarantined_deleted_and_replayed(db) {
        on_stage(db, Play::default(), async |stage| {
            let (browser, seven) = (&stage.browser, order("7"));
            admin::pause(&db.pool, &seven).await.unwrap();
            for value in ["1", "2", "4"] {
                stage.emit(&seven, value).await;
            }
            let events = admin::events(&db.pool, &seven, None, 10).await.unwrap();
            let [first, second] = [0, 1].map(|at| events[at].id().to_string());
            browser.open(&about(&seven)).await;
            assert_eq!(browser.count("#payload").await, 0);
            browser.follow("#events", "Show the payload").await;
            browser.see("#payload", "1").await;
            browser.act(&format!("#quarantine-{first}"), "1 event of order/7", "1 event moved to the dead letters.").await;
            browser.see("#quarantined", REASON).await;
            assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (2, 1));
            browser.act(&format!("#purge-{second}"), "This deletes 1 event of order/7 for good.", "1 event deleted.").await;
            browser.act("#action-resume", "This resumes order/7", "The recipient is resumed.").await;
            stage.totals("7", 4).await;
            browser.open(&about(&seven)).await;
            let letter = format!("#replay-{}-{first}", seven.shard());
            browser.act(&letter, "This puts the dead letter", "1 dead letter put back.").await;
            stage.totals("7", 5).await;
        })
        .await;
    }

    async fn events_and_timers_are_deleted(db) {
        on_stage(db, Play::default(), async |stage| {
            let (browser, seven) = (&stage.browser, order("7"));
            admin::pause(&db.pool, &seven).await.unwrap();
            for value in ["1", "2", "4"] {
                stage.emit(&seven, value).await;
                let later = Event::new(value).due_in(Duration::from_secs(3_600));
                Engine::emit_all_on(&db.pool, &[(seven.clone(), later)]).await.unwrap();
            }
            browser.open(&about(&seven)).await;
            let first = browser.element("#timers form").await.id().await.unwrap().unwrap();
            browser.act(&format!("#{first}"), "This deletes 1 event of order/7 for good.", "1 event deleted.").await;
            assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (3, 2));
            browser.act("#action-cancel-timers", "This deletes 2 timers of order/7", "2 timers cancelled.").await;
            assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (3, 0));
            browser.act("#action-purge-all", "This deletes 3 events of order/7 for good.", "3 events deleted.").await;
            assert_eq!(db.count("eventbox_event").await, 0);
            // There is nothing left to delete, and the page says so before it asks.
            browser.click("#action-purge-all button").await;
            browser.see("#nothing", "order/7 has no events and no timers.").await;
            browser.click("#go-back").await;
            browser.see("h1", "order/7").await;
        })
        .await;
    }

    async fn a_state_is_replaced_and_cleared(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            stage.emit(&order("7"), "5").await;
            stage.totals("7", 5).await;
            browser.open(&about(&order("7"))).await;
            browser.fill("#state-text", "12").await;
            browser.act("#action-set-state", "This replaces the state of order/7 at turn 1", "The state is replaced.").await;
            stage.emit(&order("7"), "1").await;
            stage.totals("7", 13).await;
            // The page of turn 2 comes too late for turn 3.
            browser.fill("#state-text", "0").await;
            browser.click("#action-set-state button").await;
            browser.see("#failure", "order/7").await;
            stage.totals("7", 13).await;
            browser.open(&about(&order("7"))).await;
            browser.act("#action-clear-state", "This deletes the state of order/7 at turn 3", "The state is cleared.").await;
            stage.emit(&order("7"), "3").await;
            stage.totals("7", 3).await;
            // The refusal has the status of a conflict, which the console notes.
            assert_eq!(browser.errors_but("status of 409").await, Vec::<String>::new());
        })
        .await;
    }

    async fn an_event_is_emitted_once_under_its_name(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            for _ in 0..2 {
                browser.open(&about(&order("7"))).await;
                browser.fill("#emit-name", "click-1").await;
                browser.fill("#emit-value", "41").await;
                if db.count("eventbox_state").await == 0 {
                    browser.act("#action-emit", "named click-1 of 2 bytes to order/7", "1 event emitted.").await;
                    stage.totals("7", 41).await;
                } else {
                    browser.click("#action-emit button").await;
                    browser.see("#nothing", "An event of this name was consumed").await;
                }
            }
            assert_eq!(admin::standing(&db.pool, &order("7")).await.unwrap().turn, 1);
        })
        .await;
    }

    async fn an_old_recipient_is_forgotten(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            stage.emit(&order("7"), "5").await;
            stage.totals("7", 5).await;
            browser.open(&about(&order("7"))).await;
            browser.click("#action-forget button").await;
            browser.see("#nothing", "Its last write is less than an hour ago.").await;
            db.run("UPDATE eventbox_state SET updated_at_us = 1").await;
            browser.click("#go-back").await;
            browser.act("#action-forget", "its turns begin again at 1", "The recipient is forgotten.").await;
            assert_eq!(db.count("eventbox_state").await, 0);
        })
        .await;
    }
}
