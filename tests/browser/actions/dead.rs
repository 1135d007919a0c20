//! Dead letters, one and by filter.

use crate::plants::{dead_message, row_id};
use crate::stage::{Play, on_stage, order};
use crate::support::on_every_engine;

on_every_engine! {
    async fn one_dead_letter_is_replayed_or_deleted(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            for number in [1, 2] {
                dead_message(db, number, "EXPIRED").await;
            }
            let [first, second] = [1, 2].map(|number| row_id::<Engine>(number).1);
            browser.open("/dead").await;
            browser.see("#dead-count", "2 dead letters.").await;
            assert_eq!(browser.count("#payload").await, 0);
            browser.follow("#dead", "Show the payload").await;
            browser.see("#payload", "\"flight\": \"UA 1545\"").await;
            browser.act(&format!("#replay-{first}"), "back to where it came from", "1 dead letter put back.").await;
            assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (1, 1));
            browser.act(&format!("#delete-{second}"), "for good", "1 dead letter deleted.").await;
            assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (1, 0));
            browser.see("#dead", "No dead letter matches.").await;
        })
        .await;
    }

    async fn dead_letters_that_match_are_replayed_and_deleted(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            for (number, code) in [(1, "EXPIRED"), (2, "OTHER"), (3, "EXPIRED")] {
                dead_message(db, number, code).await;
            }
            browser.open("/dead").await;
            browser.fill("#field-code", "EXPIRED").await;
            browser.choose("#field-side", "messages").await;
            browser.click("#filter button").await;
            browser.see("#dead-count", "2 dead letters.").await;
            assert!(browser.path().await.contains("code=EXPIRED"));
            browser.act("#replay-all", "This puts 2 dead letters back", "2 dead letters put back.").await;
            assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (2, 1));
            browser.act("#delete-all", "This deletes 1 dead letter for good", "1 dead letter deleted.").await;
            assert_eq!(db.count("eventbox_dead_letter").await, 0);
        })
        .await;
    }

    /// An event that its reducer cannot read is found by its kind, read, and deleted.
    async fn a_poison_event_is_deleted(db) {
        let patience = std::num::NonZeroU32::MIN;
        on_stage(db, Play { patience, ..Play::default() }, async |stage| {
            let browser = &stage.browser;
            stage.emit(&order("7"), "1").await;
            stage.totals("7", 1).await;
            stage.emit(&order("7"), "seven").await;
            stage.emit(&order("7"), "2").await;
            stage.totals("7", 3).await;
            browser.open("/dead?side=events&kind=order").await;
            browser.see("#dead", eventbox::limits::POISON_CODE).await;
            browser.follow("#dead", "Show the payload").await;
            browser.see("#payload", "seven").await;
            browser.act("#delete-all", "This deletes 1 dead letter for good", "1 dead letter deleted.").await;
            assert_eq!(db.count("eventbox_dead_letter").await, 0);
        })
        .await;
    }
}
