//! Audits: every event has exactly one fate, also while everybody moves them.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::admin::{self, Place};
use eventbox::runtime::Runtime;
use eventbox::{Error, Event, EventId, Recipient, TurnOptions, process_batch_with};

use super::journal::{All, HOUR, consume, keep_journal, process};
use super::{cell, emit};
use crate::support::running::{STOP, config};
use crate::support::{CellEngine, Decider, SOON, TestDb, eventually, on_every_engine};

/// Events of many kinds of fates, moved by operators and consumed by two runtimes at once: every event has one fate.
async fn nothing_is_lost_in_a_storm<B: CellEngine>(db: &TestDb<B>) {
    const EVENTS: usize = 600;
    let to = |n: usize| Recipient::new("cell", (n % 5).to_string()).unwrap();
    let runtimes = [db.open(5), db.open(5)]
        .map(|pool| Runtime::builder(pool).reducer("cell", All).journal("cell", HOUR).config(config()));
    let [first, second] = runtimes;
    let (first, second) = (first.start().await.unwrap(), second.start().await.unwrap());
    let sending = async {
        let mut emitted = Vec::with_capacity(EVENTS);
        for n in 0..EVENTS {
            let event = if n % 10 == 0 { Event::new("x").due_in(Duration::from_millis(20)) } else { Event::new("x") };
            let receipt = B::emit_on(&db.pool, &to(n), event).await.unwrap();
            emitted.push((to(n), receipt.id().unwrap()));
        }
        emitted
    };
    let repairing = async {
        for n in 0..EVENTS / 20 {
            let waiting = admin::events(&db.pool, &to(n), None, 3).await.unwrap();
            let ids: Vec<EventId> = waiting.iter().map(Event::id).collect();
            let repaired = match n % 3 {
                0 => admin::quarantine(&db.pool, &to(n), &ids, "why").await,
                1 => admin::purge(&db.pool, &to(n), &ids).await,
                _ => {
                    let dead = admin::quarantined(&db.pool, &to(n + 3), None, 2).await.unwrap();
                    let dead: Vec<EventId> = dead.iter().map(|dead| dead.event.id()).collect();
                    admin::replay(&db.pool, &to(n + 3), &dead).await
                }
            };
            if let Err(error) = repaired {
                assert!(error.is_transient(), "{error:?}");
            }
        }
    };
    let auditing = async {
        for _ in 0..5 {
            let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
            assert!(audit.is_conserved(), "{audit:?}");
        }
    };
    let (emitted, (), ()) = tokio::join!(sending, repairing, auditing);
    // Timers first: one that is moved between the two counts is an event then.
    eventually(SOON, async || db.count("eventbox_timer").await == 0 && db.count("eventbox_event").await == 0).await;
    assert!(first.stop(STOP).await.complete && second.stop(STOP).await.complete);
    let audit = admin::audit(&db.pool, emitted).await.unwrap();
    assert!(audit.is_conserved() && audit.events() == EVENTS as u64, "{audit:?}");
    assert_eq!(audit.consumed + audit.purged + audit.quarantined, EVENTS as u64, "{audit:?}");
}

on_every_engine! {
    /// An audit of what was emitted finds an event that is gone without an entry, and one that is there although the
    /// journal says that it was consumed.
    async fn an_audit_finds_a_loss_and_a_double(db) {
        let ids = emit(db, &["a", "b", "c", "d", "e"]).await;
        let _ = process(db, Decider(|events: &[Event]| consume::<Engine>(&events[..3]))).await.unwrap();
        let emitted = || ids.iter().map(|id| (cell(), *id));
        let audit = admin::audit(&db.pool, emitted()).await.unwrap();
        assert_eq!((audit.consumed, audit.waiting, audit.unknown, audit.twice), (3, 2, 0, 0));
        assert!(audit.is_conserved() && audit.unknown_events.is_empty() && audit.twice_events.is_empty());

        // A row of the journal is lost, an event of the box too, and a consumed event comes back.
        db.run("DELETE FROM eventbox_journal WHERE name = 'a'").await;
        db.run("DELETE FROM eventbox_event WHERE name = 'd'").await;
        db.run("INSERT INTO eventbox_event (shard, recipient, id, name, value)
                SELECT j.shard, j.recipient, j.id, j.name, e.value FROM eventbox_journal j
                JOIN eventbox_event e ON e.name = 'e' WHERE j.name = 'b'").await;
        let audit = admin::audit(&db.pool, emitted()).await.unwrap();
        assert_eq!((audit.consumed, audit.waiting, audit.unknown, audit.twice), (1, 1, 2, 1));
        assert!(!audit.is_conserved());
        let lost: Vec<_> = audit.unknown_events.iter().map(|event| (event.recipient.clone(), event.id)).collect();
        assert_eq!(lost, [(cell(), ids[0]), (cell(), ids[3])]);
        let twice = &audit.twice_events[0];
        assert_eq!((twice.id, twice.places.as_slice()), (ids[1], &[Place::Waiting, Place::Consumed][..]));

        // Without a list of what was emitted, the double is found, and the loss is not.
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert_eq!((audit.events(), audit.unknown, audit.twice, audit.twice_events[0].id), (3, 0, 1, ids[1]));
    }

    /// The audit of a kind finds an event whose journal says that it is in quarantine, where it is no more. It looks at
    /// no other kind.
    async fn an_audit_of_a_kind_finds_a_lost_quarantine(db) {
        keep_journal(db, "cell").await;
        let ids = emit(db, &["a", "b"]).await;
        let other = Recipient::new("cello", "1").unwrap();
        eventbox::emit(&db.pool, &other, Event::new("x")).await.unwrap();
        admin::quarantine(&db.pool, &cell(), &ids, "bad").await.unwrap();
        db.run("DELETE FROM eventbox_dead_letter WHERE name = 'a'").await;
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert_eq!((audit.events(), audit.quarantined, audit.unknown), (2, 1, 1));
        assert_eq!((audit.unknown_events[0].id, audit.unknown_events[0].places.len()), (ids[0], 0));
        assert_eq!(admin::audit_kind(&db.pool, "cello").await.unwrap().waiting, 1);
        assert!(matches!(admin::audit_kind(&db.pool, "ce/ll").await, Err(Error::Misuse { .. })));
    }

    /// An audit reads more events than one statement returns, of many recipients.
    async fn an_audit_reads_to_the_end(db) {
        let to = |n: usize| Recipient::new("cell", (n % 7).to_string()).unwrap();
        let events: Vec<_> = (0..2_500).map(|n| (to(n), Event::new(""))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        let options = TurnOptions::new(NonZeroU32::new(100).unwrap()).journaled();
        for n in 0..7 {
            let _ = process_batch_with(&db.pool, &to(n), &Decider(consume::<Engine>), &options).await.unwrap();
        }
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert_eq!((audit.consumed, audit.waiting, audit.is_conserved()), (700, 1_800, true));
    }

    async fn a_storm_of_writers_loses_nothing(db) {
        nothing_is_lost_in_a_storm(db).await;
    }
}
