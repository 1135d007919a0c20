//! The journal: what became of events, as turns, repairs and a runtime write it.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::admin::{self, Fate, JournalOutcome, Operator};
use eventbox::runtime::Runtime;
use eventbox::{
    Backend, BoxError, Error, Event, EventId, Mutation, Outcome, PoisonPolicy, Processor, Recipient, Reducer,
    Transition, Turn, TurnOptions, process_batch_with,
};

use super::{MANY, cell, emit, turn};
use crate::support::running::{STOP, config};
use crate::support::{
    Decider, SOON, TestDb, TestEngine, create_cells, drain, effects, eventually, failing, noting, on_every_engine,
};

pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) fn journaled() -> TurnOptions {
    TurnOptions::new(MANY).journaled()
}

pub(super) fn consume<B: Backend>(events: &[Event]) -> Mutation<B, ()> {
    Transition::stay().consuming(events).into()
}

/// Takes a journaled turn.
pub(super) async fn process<B: TestEngine>(db: &TestDb<B>, processor: impl Processor<B>) -> eventbox::Result<Turn> {
    process_batch_with(&db.pool, &cell(), &processor, &journaled()).await
}

/// Consumes all events in journaled turns.
async fn consume_all<B: TestEngine>(db: &TestDb<B>) {
    while process(db, Decider(consume::<B>)).await.unwrap().more_remain {}
}

/// Returns the journal, the oldest event first: name, turn, outcome.
async fn journal<B: TestEngine>(db: &TestDb<B>) -> Vec<(String, i64, JournalOutcome)> {
    let history = admin::history(&db.pool, &cell(), None, 1_000).await.unwrap();
    let entry = |entry: &admin::JournalEntry| (entry.name.clone().unwrap_or_default(), entry.turn, entry.outcome);
    history.iter().rev().map(entry).collect()
}

async fn fate_of<B: TestEngine>(db: &TestDb<B>, id: EventId) -> Fate {
    admin::fate(&db.pool, &cell(), &id.into()).await.unwrap()
}

async fn fate_of_name<B: TestEngine>(db: &TestDb<B>, name: &str) -> Fate {
    admin::fate(&db.pool, &cell(), &name.into()).await.unwrap()
}

/// Lets operators note what they remove from recipients of this kind, as the start of a runtime does.
pub(super) async fn keep_journal<B: TestEngine>(db: &TestDb<B>, kind: &str) {
    db.run(format_args!("INSERT INTO eventbox_journal_kind (kind, keep_us) VALUES ('{kind}', 3600000000)")).await;
}

fn named(name: &str, turn: i64, outcome: JournalOutcome) -> (String, i64, JournalOutcome) {
    (name.to_owned(), turn, outcome)
}

/// Consumes everything.
pub(super) struct All;

impl Reducer for All {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

on_every_engine! {
    /// Turns and repairs of a kind without a journal write nothing, and the fate of an event says why it is not known.
    async fn nothing_is_written_by_default(db) {
        let ids = emit(db, &["a", "b", "c", "d"]).await;
        admin::quarantine(&db.pool, &cell(), &ids[..2], "bad").await.unwrap();
        admin::discard(&db.pool, &cell(), &ids[..1]).await.unwrap();
        admin::purge(&db.pool, &cell(), &ids[2..3]).await.unwrap();
        drain(&db.pool, &cell()).await;
        emit(db, &["e"]).await;
        admin::purge_all(&db.pool, &cell()).await.unwrap();
        assert_eq!((db.count("eventbox_journal").await, db.count("eventbox_journal_kind").await), (0, 0));
        for id in [ids[0], ids[2], ids[3]] {
            assert_eq!(fate_of(db, id).await, Fate::Unknown { keeps_journal: false });
        }
        assert!(matches!(fate_of(db, ids[1]).await, Fate::Quarantined { .. }), "it is there");
        assert!(admin::history(&db.pool, &cell(), None, 10).await.unwrap().is_empty());
    }

    /// Consumed and superseded events have their turn, and a time of the database's clock.
    async fn consumed_events_and_garbage_are_told_apart(db) {
        let ids = emit(db, &["a", "b", "old"]).await;
        let decide = |events: &[Event]| -> Mutation<Engine, ()> {
            Mutation::from(Transition::stay().consuming(&events[..2])).garbage(&events[2..])
        };
        let done = process(db, Decider(decide)).await.unwrap();
        assert_eq!((done.consumed, done.garbage), (2, 1));
        let [consumed, garbage] = [JournalOutcome::Consumed, JournalOutcome::Garbage];
        assert_eq!(journal(db).await, [named("a", 1, consumed), named("b", 1, consumed), named("old", 1, garbage)]);
        assert!(matches!(fate_of(db, ids[0]).await, Fate::Consumed { turn: 1, .. }));
        let Fate::Garbage { turn: 1, at } = fate_of(db, ids[2]).await else { panic!("it was garbage") };
        assert!(at.elapsed().unwrap_or_default().as_secs() < 60);
    }

    async fn history_is_listed_page_by_page_from_the_newest(db) {
        let names: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
        emit(db, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        consume_all(db).await;
        let (mut seen, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = admin::history(&db.pool, &cell(), before, 10).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 10);
            (before, pages) = (Some(last.id), pages + 1);
            seen.extend(page.iter().map(|entry| entry.name.clone().unwrap()));
        }
        seen.reverse();
        assert_eq!((seen, pages), (names, 3));
        let other = Recipient::new("cell", "2").unwrap();
        assert!(admin::history(&db.pool, &other, None, 10).await.unwrap().is_empty());
    }

    /// Each fate, by id and by name.
    async fn each_event_has_its_fate(db) {
        keep_journal(db, "cell").await;
        let ids = emit(db, &["consumed", "poison", "purged", "waits", "waits too"]).await;
        let timer = Event::new("later").named("timer").due_in(HOUR);
        let timer = eventbox::emit(&db.pool, &cell(), timer).await.unwrap().id().unwrap();
        admin::quarantine(&db.pool, &cell(), &ids[1..2], "no flight number").await.unwrap();
        admin::purge(&db.pool, &cell(), &ids[2..3]).await.unwrap();
        let _ = process(db, Decider(|events: &[Event]| consume::<Engine>(&events[..1]))).await.unwrap();

        for fate in [fate_of(db, ids[0]).await, fate_of_name(db, "consumed").await] {
            assert!(matches!(fate, Fate::Consumed { turn: 3, .. }), "{fate:?}");
        }
        for fate in [fate_of(db, ids[1]).await, fate_of_name(db, "poison").await] {
            let Fate::Quarantined { code, reason, dead_letter } = fate else { panic!("{fate:?}") };
            assert_eq!((code.as_str(), reason.as_str()), (admin::QUARANTINED, "no flight number"));
            assert_eq!((dead_letter.shard(), dead_letter.id()), (cell().shard().into(), ids[1].as_uuid()));
        }
        for fate in [fate_of(db, ids[2]).await, fate_of_name(db, "purged").await] {
            assert!(matches!(fate, Fate::Purged { turn: 2, .. }), "{fate:?}");
        }
        for (id, name, wanted) in [(ids[3], "waits", 0), (ids[4], "waits too", 1)] {
            for fate in [fate_of(db, id).await, fate_of_name(db, name).await] {
                let Fate::Waiting { ahead } = fate else { panic!("{fate:?}") };
                assert_eq!((ahead.number, ahead.to_string()), (wanted, wanted.to_string()));
            }
        }
        for fate in [fate_of(db, timer).await, fate_of_name(db, "timer").await] {
            let Fate::Timer { due_at } = fate else { panic!("{fate:?}") };
            assert!(due_at > std::time::SystemTime::now() + HOUR / 2);
        }
        let never = EventId::from(uuid::Uuid::now_v7());
        for fate in [fate_of(db, never).await, fate_of_name(db, "never").await] {
            assert_eq!(fate, Fate::Unknown { keeps_journal: true });
        }
        let elsewhere = Recipient::new("other", "1").unwrap();
        let fate = admin::fate(&db.pool, &elsewhere, &ids[0].into()).await.unwrap();
        assert_eq!(fate, Fate::Unknown { keeps_journal: false }, "an event of another recipient");
    }

    /// A name that is forgotten is found in the journal: the newest event of that name.
    async fn a_forgotten_name_is_found_in_the_journal(db) {
        for _ in 0..2 {
            emit(db, &["n"]).await;
            consume_all(db).await;
            db.run("DELETE FROM eventbox_tombstone").await;
        }
        assert!(matches!(fate_of_name(db, "n").await, Fate::Consumed { turn: 2, .. }));
        assert_eq!(journal(db).await.len(), 2);
    }

    /// A turn that is rolled back, and an independent transition that fails, note nothing.
    async fn what_is_rolled_back_is_not_noted(db) {
        create_cells(db).await;
        let ids = emit(db, &["a", "b", "c"]).await;
        let broken = |events: &[Event]| -> Mutation<Engine, ()> {
            Transition::stay().consuming(events).side_effect(failing::<Engine>("no")).into()
        };
        process(db, Decider(broken)).await.unwrap_err();
        assert_eq!((db.count("eventbox_journal").await, turn(db).await), (0, 0));

        let alone = |events: &[Event]| -> Mutation<Engine, ()> {
            let steps = events.iter().map(|event| {
                let effect = if event.name() == Some("b") { failing::<Engine>("no") } else { noting("done") };
                Transition::stay().consuming([event]).side_effect(effect).independent()
            });
            steps.fold(Mutation::none(), Mutation::then)
        };
        let done = process(db, Decider(alone)).await.unwrap();
        assert_eq!((done.consumed, done.failures.len(), effects(db).await.len()), (2, 1, 2));
        let consumed = JournalOutcome::Consumed;
        assert_eq!(journal(db).await, [named("a", 1, consumed), named("c", 1, consumed)]);
        assert!(matches!(fate_of(db, ids[1]).await, Fate::Waiting { .. }));
    }

    /// A poison event is noted, comes back by a replay, and is consumed: one entry, whose last outcome counts.
    async fn a_replayed_event_ends_as_consumed(db) {
        let ids = emit(db, &["a"]).await;
        let isolating = journaled().poison(PoisonPolicy::Isolate { after: NonZeroU32::MIN });
        let refusing = |events: &[Event]| -> Mutation<Engine, ()> {
            // An event that is consumed twice is its own fault.
            Mutation::from(Transition::stay().consuming(events)).garbage(events)
        };
        let done = process_batch_with(&db.pool, &cell(), &Decider(refusing), &isolating).await.unwrap();
        assert_eq!((done.number, done.quarantined), (Some(1), 1));
        assert_eq!(journal(db).await, [named("a", 1, JournalOutcome::Quarantined)]);
        assert!(matches!(fate_of(db, ids[0]).await, Fate::Quarantined { .. }));

        admin::replay(&db.pool, &cell(), &ids).await.unwrap();
        assert!(matches!(fate_of(db, ids[0]).await, Fate::Waiting { .. }), "the box counts, and not the journal");
        consume_all(db).await;
        assert_eq!(journal(db).await, [named("a", 3, JournalOutcome::Consumed)]);
        assert!(admin::audit_kind(&db.pool, "cell").await.unwrap().is_conserved());
    }

    /// Each repair that removes events of a journaled kind notes them in its turn. A rehearsal notes nothing.
    async fn repairs_note_what_they_remove(db) {
        keep_journal(db, "cell").await;
        let ids = emit(db, &["a", "b", "c", "d"]).await;
        let timer = Event::new("later").named("t").due_in(HOUR);
        let timer = eventbox::emit(&db.pool, &cell(), timer).await.unwrap().id().unwrap();
        let rehearsing = Operator::new(db.pool.clone(), "ana").rehearsing(true);
        rehearsing.purge(&cell(), &ids).await.unwrap();
        rehearsing.quarantine(&cell(), &ids, "bad").await.unwrap();
        assert_eq!(db.count("eventbox_journal").await, 0);

        assert_eq!(admin::quarantine(&db.pool, &cell(), &ids[..2], "bad").await.unwrap(), 2);
        let [quarantined, purged] = [JournalOutcome::Quarantined, JournalOutcome::Purged];
        assert_eq!(journal(db).await, [named("a", 1, quarantined), named("b", 1, quarantined)]);
        assert_eq!(admin::discard(&db.pool, &cell(), &ids[..1]).await.unwrap(), 1);
        assert_eq!(admin::purge(&db.pool, &cell(), &[ids[2], timer]).await.unwrap(), 2);
        emit(db, &["e"]).await;
        assert_eq!(admin::purge_all(&db.pool, &cell()).await.unwrap(), 2);
        assert_eq!(
            journal(db).await,
            [
                named("a", 2, purged), named("b", 1, quarantined), named("c", 3, purged), named("d", 4, purged),
                named("t", 3, purged), named("e", 4, purged),
            ]
        );
        assert_eq!(turn(db).await, 4);
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert!(audit.is_conserved(), "{audit:?}");
        assert_eq!((audit.purged, audit.quarantined, audit.events()), (5, 1, 6));
    }

    /// `purge_all` works in slices, and notes all timers and events up to the newest.
    async fn a_purge_of_all_notes_every_slice(db) {
        keep_journal(db, "cell").await;
        let slice = usize::try_from(admin::PURGE_SLICE).unwrap();
        let timers: Vec<_> = (0..slice - 1).map(|_| (cell(), Event::new("").due_in(HOUR))).collect();
        let events: Vec<_> = (0..5).map(|_| (cell(), Event::new(""))).collect();
        for events in timers.chunks(5_000).chain([events.as_slice()]) {
            eventbox::emit_all(&db.pool, events).await.unwrap();
        }
        let all = u64::from(admin::PURGE_SLICE) + 4;
        assert_eq!(admin::purge_all(&db.pool, &cell()).await.unwrap(), all);
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await, turn(db).await), (0, 0, 2));
        let audit = admin::audit_kind(&db.pool, "cell").await.unwrap();
        assert_eq!((audit.purged, audit.events(), audit.is_conserved()), (all, all, true));
    }

    /// A recipient whose turns are journaled by their caller has a journal, also for operators, although its kind has
    /// none.
    async fn repairs_note_for_a_recipient_that_has_entries(db) {
        let ids = emit(db, &["a", "b"]).await;
        let _ = process(db, Decider(|events: &[Event]| consume::<Engine>(&events[..1]))).await.unwrap();
        admin::purge(&db.pool, &cell(), &ids[1..]).await.unwrap();
        assert_eq!(journal(db).await[1], named("b", 2, JournalOutcome::Purged));
        assert_eq!(fate_of(db, EventId::from(uuid::Uuid::now_v7())).await, Fate::Unknown { keeps_journal: true });
    }

    /// A runtime writes its journaled kinds into their table, and deletes the rows that are older than their kind keeps
    /// them. Rows of other kinds stay.
    async fn a_runtime_deletes_old_rows_of_its_kind_only(db) {
        let other = Recipient::new("other", "1").unwrap();
        emit(db, &["old"]).await;
        consume_all(db).await;
        eventbox::emit(&db.pool, &other, Event::new("x")).await.unwrap();
        let _ = process_batch_with(&db.pool, &other, &Decider(consume::<Engine>), &journaled()).await.unwrap();
        db.run("UPDATE eventbox_journal SET at_us = at_us - 7200000000").await;
        emit(db, &["new"]).await;
        consume_all(db).await;
        let old = "SELECT count(*) FROM eventbox_journal WHERE name = 'old'";

        let mut without_pruner = config();
        without_pruner.pruner = None;
        let builder = Runtime::builder(db.open(5)).reducer("cell", All).reducer("other", All).config(without_pruner);
        let runtime = builder.journal("cell", HOUR).start().await.unwrap();
        eventually(SOON, async || db.number(old).await == 0).await;
        assert!(runtime.stop(STOP).await.complete);
        assert_eq!(db.count("eventbox_journal").await, 2, "the new row, and that of the other kind");
        assert_eq!(db.texts("SELECT kind FROM eventbox_journal_kind").await, ["cell"]);
        assert!(matches!(fate_of_name(db, "new").await, Fate::Consumed { .. }));
    }

    /// A journal ends with a time of zero: its rows are deleted, and nothing is written any more.
    async fn a_journal_is_ended(db) {
        let builder = || Runtime::builder(db.open(5)).reducer("cell", All).config(config());
        let runtime = builder().journal("cell", HOUR).start().await.unwrap();
        emit(db, &["a"]).await;
        eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        assert!(runtime.stop(STOP).await.complete);
        assert_eq!(journal(db).await, [named("a", 1, JournalOutcome::Consumed)]);

        let runtime = builder().journal("cell", Duration::ZERO).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_journal").await == 0).await;
        let b = eventbox::emit(&db.pool, &cell(), Event::new("b")).await.unwrap().id().unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        assert!(runtime.stop(STOP).await.complete);
        emit(db, &["c"]).await;
        admin::purge_all(&db.pool, &cell()).await.unwrap();
        assert_eq!(db.count("eventbox_journal").await, 0);
        assert_eq!(fate_of(db, b).await, Fate::Unknown { keeps_journal: false });
    }

    async fn a_journal_of_an_unknown_kind_is_refused(db) {
        let builder = Runtime::builder(db.open(4)).reducer("cell", All).config(config());
        let error = builder.journal("cel", HOUR).start().await.unwrap_err();
        assert!(matches!(error, Error::Setup { .. }) && error.to_string().contains("the kind cel "), "{error}");
        assert_eq!(db.count("eventbox_journal_kind").await, 0);
    }
}
