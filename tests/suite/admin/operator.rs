//! Repairs in the name of an operator: what they change, what a rehearsal changes, and what the record has of them.

use std::time::Duration;

use eventbox::admin::{self, DeadFilter, Forgotten, MessageFilter, Operator, Side};
use eventbox::{CloudEvent, Error, Event, EventId, Recipient, outbox};

use super::{cell, emit, turn, values};
use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

fn ana<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    Operator::new(db.pool.clone(), "ana").because("a test")
}

fn rehearsing<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    ana(db).rehearsing(true)
}

/// Returns the record, the oldest first: who, action, target, number of things.
async fn record<B: TestEngine>(db: &TestDb<B>) -> Vec<(String, String, String, u64)> {
    let listed = admin::operations(&db.pool, None, 100).await.unwrap();
    listed.into_iter().rev().map(|done| (done.who, done.action, done.target, done.touched)).collect()
}

fn entry(action: &str, target: &str, touched: u64) -> (String, String, String, u64) {
    ("ana".to_owned(), action.to_owned(), target.to_owned(), touched)
}

async fn quarantine_all<B: CellEngine>(db: &TestDb<B>) -> Vec<EventId> {
    let ids: Vec<_> = admin::events(&db.pool, &cell(), None, 100).await.unwrap().iter().map(Event::id).collect();
    ana(db).quarantine(&cell(), &ids, "bad").await.unwrap();
    ids
}

on_every_engine! {
    /// Each repair of a recipient: a rehearsal says the number, changes nothing and leaves no record.
    async fn a_rehearsal_says_the_number_and_changes_nothing(db) {
        let ids = emit(db, &["a", "b", "c"]).await;
        let before = (values(db).await, turn(db).await);
        let rehearsed = rehearsing(db);
        let touched = [
            rehearsed.pause(&cell()).await.unwrap().touched,
            rehearsed.resume(&cell()).await.unwrap().touched,
            rehearsed.try_now(&cell()).await.unwrap().touched,
            rehearsed.quarantine(&cell(), &ids[..2], "bad").await.unwrap().touched,
            rehearsed.purge(&cell(), &ids[..1]).await.unwrap().touched,
            rehearsed.purge_all(&cell(), |_| ()).await.unwrap().touched,
            rehearsed.cancel_timers(&cell(), |_| ()).await.unwrap().touched,
            rehearsed.set_state(&cell(), 0, Some(b"1")).await.unwrap().touched,
            rehearsed.pause_kind("cell").await.unwrap().touched,
            rehearsed.resume_kind("cell").await.unwrap().touched,
            rehearsed.release_shard(0).await.unwrap().touched,
        ];
        assert_eq!(touched, [1, 0, 0, 2, 1, 3, 0, 1, 1, 0, 0]);
        rehearsed.emit(&cell(), Event::new("d")).await.unwrap();
        assert_eq!((values(db).await, turn(db).await), before);
        assert_eq!(record(db).await, []);
        assert!(admin::paused_kinds(&db.pool).await.unwrap().is_empty());
    }

    async fn every_repair_is_recorded_with_who_and_why(db) {
        let ids = emit(db, &["a", "b", "c"]).await;
        let ana = ana(db);
        ana.pause(&cell()).await.unwrap();
        ana.pause(&cell()).await.unwrap();
        ana.resume(&cell()).await.unwrap();
        ana.pause_kind("cell").await.unwrap();
        ana.resume_kind("cell").await.unwrap();
        ana.quarantine(&cell(), &ids[..1], "bad").await.unwrap();
        ana.replay(&cell(), &ids[..1]).await.unwrap();
        ana.purge(&cell(), &ids[..2]).await.unwrap();
        let at = turn(db).await;
        ana.set_state(&cell(), at, Some(b"1")).await.unwrap();
        ana.emit(&cell(), Event::new("d")).await.unwrap();
        ana.purge_all(&cell(), |_| ()).await.unwrap();
        assert_eq!(ana.forget(&cell()).await.unwrap(), Forgotten::TooRecent);
        admin::pause(&db.pool, &cell()).await.unwrap();
        let mut recorded = record(db).await;
        let last = recorded.pop().unwrap();
        assert_eq!((last.0.as_str(), last.1.as_str()), ("library", "pause"));
        assert_eq!(recorded, [
            entry("pause", "cell/1", 1),
            entry("resume", "cell/1", 1),
            entry("pause", "the kind cell", 1),
            entry("resume", "the kind cell", 1),
            entry("quarantine", "1 event of cell/1", 1),
            entry("replay", "1 event of cell/1", 1),
            entry("purge", "2 events of cell/1", 2),
            entry("set the state of", &format!("cell/1 at turn {at}"), 1),
            entry("emit to", "cell/1", 1),
            entry("purge", "all events of cell/1", 2),
        ]);
        let page = admin::operations(&db.pool, None, 3).await.unwrap();
        assert_eq!(page[1].why.as_deref(), Some("a test"));
        assert!(page[0].at.elapsed().unwrap() < Duration::from_secs(60));
        let next = admin::operations(&db.pool, Some(page[2].id), 3).await.unwrap();
        assert!(next[0].id < page[2].id && next.len() == 3);
    }

    async fn a_wrong_name_or_reason_is_refused_before_anything_happens(db) {
        emit(db, &["a"]).await;
        let long = "x".repeat(2_000);
        for operator in [
            Operator::new(db.pool.clone(), ""),
            Operator::new(db.pool.clone(), long.as_str()),
            Operator::new(db.pool.clone(), "a\0b"),
            ana(db).because(""),
            ana(db).because(long.as_str()),
        ] {
            let error = operator.pause(&cell()).await.unwrap_err();
            assert!(matches!(error, Error::Misuse { .. }), "{error}");
            assert!(operator.purge_all(&cell(), |_| ()).await.is_err());
        }
        assert_eq!((values(db).await.len(), turn(db).await), (1, 0));
    }

    async fn a_retry_forgets_failures_and_keeps_a_pause(db) {
        let fail = format!(
            "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
             VALUES ({}, 'cell/1', 3, 9000000000000000, 'x')", cell().shard()
        );
        db.run(&fail).await;
        assert_eq!(ana(db).try_now(&cell()).await.unwrap().touched, 1);
        assert_eq!((admin::standing(&db.pool, &cell()).await.unwrap().attempts, turn(db).await), (0, 1));
        db.run(&fail).await;
        ana(db).pause(&cell()).await.unwrap();
        assert_eq!(ana(db).try_now(&cell()).await.unwrap().touched, 0);
        assert!(admin::standing(&db.pool, &cell()).await.unwrap().paused);
    }

    async fn timers_are_cancelled_and_events_stay(db) {
        emit(db, &["a"]).await;
        let timer = |n: u64| (cell(), Event::new("x").due_in(Duration::from_secs(3_600 + n)));
        eventbox::emit_all(&db.pool, &(0..5).map(timer).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(rehearsing(db).cancel_timers(&cell(), |_| ()).await.unwrap().touched, 5);
        assert_eq!(rehearsing(db).purge_all(&cell(), |_| ()).await.unwrap().touched, 6);
        let mut seen = Vec::new();
        assert_eq!(ana(db).cancel_timers(&cell(), |done| seen.push(done)).await.unwrap().touched, 5);
        assert_eq!((seen, db.count("eventbox_timer").await), (vec![5], 0));
        assert_eq!(values(db).await, ["a"]);
        assert_eq!(ana(db).cancel_timers(&cell(), |_| ()).await.unwrap().touched, 0);
        assert_eq!(turn(db).await, 1);
    }

    /// Dead letters of both sides go back by a filter, in slices, and moves of turns go with them.
    async fn dead_letters_are_replayed_by_filter(db) {
        emit(db, &["a", "b"]).await;
        let ids = quarantine_all(db).await;
        let other = Recipient::new("other", "1").unwrap();
        eventbox::emit_all(&db.pool, &[(other.clone(), Event::new("x"))]).await.unwrap();
        let of_other = admin::events(&db.pool, &other, None, 1).await.unwrap()[0].id();
        ana(db).quarantine(&other, &[of_other], "bad").await.unwrap();
        for source in ["flights", "hotels"] {
            let event = CloudEvent::builder(source, "x").payload("x").build().unwrap();
            drop(outbox::publish_in(&db.pool, event).await.unwrap());
        }
        ana(db).bury_messages(&MessageFilter::new(), "closed", |_| ()).await.unwrap();
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (0, 5));

        let of_cells = DeadFilter::new().kind("cell");
        assert_eq!(rehearsing(db).replay_dead(&of_cells, |_| ()).await.unwrap().touched, 2);
        let (before, mut seen) = (turn(db).await, Vec::new());
        assert_eq!(ana(db).replay_dead(&of_cells, |done| seen.push(done)).await.unwrap().touched, 2);
        assert_eq!((seen, turn(db).await), (vec![2], before + 1));
        assert_eq!(values(db).await, ["a", "b"]);
        let listed = admin::events(&db.pool, &cell(), None, 10).await.unwrap();
        assert_eq!(listed.iter().map(Event::id).collect::<Vec<_>>(), ids);

        let flights = DeadFilter::new().side(Side::Messages).source("flights");
        assert_eq!(ana(db).replay_dead(&flights, |_| ()).await.unwrap().touched, 1);
        assert_eq!(db.texts("SELECT source FROM eventbox_outbox").await, ["flights"]);
        assert_eq!(ana(db).delete_dead(&DeadFilter::new(), |_| ()).await.unwrap().touched, 2);
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
        let recorded = record(db).await;
        assert_eq!(recorded[recorded.len() - 3..], [
            entry("replay", "dead letters with kind=cell", 2),
            entry("replay", "messages with source=flights", 1),
            entry("delete", "all dead letters", 2),
        ]);
    }

    /// More dead letters than a slice have one entry in the record, with the sum.
    async fn a_repair_in_slices_has_one_entry(db) {
        let many = 2 * admin::DEAD_SLICE as usize + 7;
        let events: Vec<_> = (0..many).map(|_| (cell(), Event::new(""))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        let mut after = None;
        loop {
            let page = admin::events(&db.pool, &cell(), after, 500).await.unwrap();
            if page.is_empty() {
                break;
            }
            let ids: Vec<_> = page.iter().map(Event::id).collect();
            after = ids.last().copied();
            admin::quarantine(&db.pool, &cell(), &ids, "bad").await.unwrap();
        }
        let mut seen = Vec::new();
        let done = ana(db).replay_dead(&DeadFilter::new(), |done| seen.push(done)).await.unwrap();
        assert_eq!((done.touched, seen), (many as u64, vec![500, 1_000, many as u64]));
        let recorded = record(db).await;
        let of_ana: Vec<_> = recorded.iter().filter(|done| done.0 == "ana").collect();
        assert_eq!(of_ana, [&entry("replay", "all dead letters", many as u64)]);
    }

    async fn one_dead_letter_is_replayed_or_deleted(db) {
        emit(db, &["a", "b"]).await;
        quarantine_all(db).await;
        let dead = admin::dead(&db.pool, &DeadFilter::new(), None, 10).await.unwrap();
        assert_eq!(rehearsing(db).replay_one(dead[0].id).await.unwrap().touched, 1);
        assert_eq!(ana(db).replay_one(dead[0].id).await.unwrap().touched, 1);
        assert_eq!(values(db).await, ["a"]);
        assert_eq!(ana(db).replay_one(dead[0].id).await.unwrap().touched, 0, "it is not there any more");
        assert_eq!(ana(db).delete_one(dead[1].id).await.unwrap().touched, 1);
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
    }

    async fn messages_are_made_due_by_filter(db) {
        for source in ["flights", "flights", "hotels"] {
            let event = CloudEvent::builder(source, "x").payload("x").build().unwrap();
            drop(outbox::publish_in(&db.pool, event).await.unwrap());
        }
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 9000000000000000").await;
        let flights = MessageFilter::new().source("flights");
        assert_eq!(rehearsing(db).retry_messages(&flights, |_| ()).await.unwrap().touched, 2);
        assert_eq!(ana(db).retry_messages(&flights, |_| ()).await.unwrap().touched, 2);
        let late = "SELECT source FROM eventbox_outbox WHERE next_attempt_at_us = 9000000000000000";
        assert_eq!(db.texts(late).await, ["hotels"]);
        assert_eq!(ana(db).retry_messages(&flights, |_| ()).await.unwrap().touched, 0, "they are due already");
        assert_eq!(record(db).await, [entry("retry", "messages with source=flights", 2)]);
    }

    /// A member that would not work on the shard does not get it: its events would wait.
    async fn a_shard_cannot_go_to_a_member_that_takes_none(db) {
        let worker = uuid::Uuid::from_u128(1);
        let (id, now) = match Engine::FOLDER {
            "postgres" => (format!("'{worker}'"), "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"),
            _ => (format!("x'{}'", worker.simple()), "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
        };
        let refused = async |why: &str| {
            for is_rehearsal in [true, false] {
                let error = ana(db).rehearsing(is_rehearsal).move_shard(7, worker).await.unwrap_err();
                assert!(error.to_string().contains(why) && error.to_string().contains("eventbox members"), "{error}");
            }
            assert_eq!(db.count("eventbox_lease WHERE holder IS NOT NULL OR pinned IS NOT NULL").await, 0);
            assert_eq!(record(db).await, []);
        };
        refused("no such member").await;
        for (limit, exiting, silent_s, term, why) in [
            (0, false, 0, "", "runs no processors"),
            (256, true, 0, "", "is stopping"),
            (256, false, 16, "", "no heartbeat"),
            (256, false, 60, r#""lease_ttl_us":59000000"#, "no heartbeat"),
        ] {
            db.run("DELETE FROM eventbox_member").await;
            db.run(format_args!(
                "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
                 VALUES ({id}, 'host-b', {limit}, {exiting}, {now} - {silent_s} * 1000000, '{{{term}}}')"
            ))
            .await;
            refused(why).await;
        }
        // A member with longer terms may be silent for longer.
        db.run("UPDATE eventbox_member SET report = '{\"lease_ttl_us\":600000000}'").await;
        assert_eq!(ana(db).move_shard(7, worker).await.unwrap().touched, 1);
        assert_eq!(db.count("eventbox_lease WHERE pinned IS NOT NULL").await, 1);
    }
}
