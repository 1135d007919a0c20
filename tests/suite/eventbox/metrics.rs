//! The instruments of the inbox, with real numbers after a known run.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::{
    Event, Mutation, PoisonPolicy, Pruner, PrunerConfig, Recipient, Sender, Transition, TurnOptions, admin,
    metrics::INSTRUMENTS,
};

use crate::support::recorded::{Recorded, recorded};
use crate::support::{CellEngine, Cells, TestDb, create_cells, noting, with_database};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn cell() -> Recipient {
    Recipient::new("cell", "1").unwrap()
}

/// The first half is consumed in two steps, the rest is garbage.
fn halving<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| {
        let (first, rest) = events.split_at(events.len().div_ceil(2));
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let one = Transition::to(population + 1).consuming(&first[..1]);
        Ok(Mutation::from(one)
            .then(Transition::stay().consuming(&first[1..]).side_effect(noting("rest")))
            .garbage(rest))
    })
}

/// Emits 12 events of which 2 are duplicates. Consumes 4 in 2 turns, removes 2 as garbage, loses one race, fails twice
/// and quarantines 1.
async fn a_known_run<B: CellEngine>(db: &TestDb<B>) {
    create_cells(db).await;
    Sender::new(db.pool.clone()).emit(&cell(), Event::new("a")).await.unwrap();
    for value in ["b", "c", "d"] {
        eventbox_emit(db, Event::new(value)).await;
    }
    for _ in 0..3 {
        eventbox_emit(db, Event::new("e").named("e")).await;
    }
    let backlog = admin::backlog(&db.pool, &cell()).await.unwrap();
    assert_eq!((backlog.events, backlog.oldest.is_some()), (5, true));

    // Of 5 events 3 are consumed and 2 are garbage. Another writer commits first once.
    let other = db.open(1);
    let overtaken = halving::<B>().before_deciding(move |attempt| {
        let other = other.clone();
        async move {
            if attempt == 1 {
                admin::pause(&other, &cell()).await.unwrap();
                admin::resume(&other, &cell()).await.unwrap();
            }
        }
    });
    let turn = eventbox::process_batch(&db.pool, &cell(), &overtaken, MANY).await.unwrap();
    assert_eq!((turn.consumed, turn.garbage, turn.contention), (3, 2, 1));
    assert_eq!(eventbox::process_batch(&db.pool, &cell(), &halving(), MANY).await.unwrap().number, None);

    // One event is consumed, and one event fails alone and goes to quarantine.
    eventbox_emit(db, Event::new("good")).await;
    assert_eq!(eventbox::process_batch(&db.pool, &cell(), &halving(), MANY).await.unwrap().consumed, 1);
    eventbox_emit(db, Event::new("bad")).await;
    let failing = Cells::<B>::deciding(|_, events, _| match events {
        [] => Ok(Mutation::none()),
        _ => Err("bad".into()),
    });
    eventbox::process_batch(&db.pool, &cell(), &failing, MANY).await.unwrap_err();
    let isolating = TurnOptions::new(MANY).poison(PoisonPolicy::Isolate { after: NonZeroU32::MIN });
    let isolated = eventbox::process_batch_with(&db.pool, &cell(), &failing, &isolating).await.unwrap();
    assert_eq!(isolated.quarantined, 1);

    // A listing that fails.
    db.run("ALTER TABLE eventbox_event RENAME TO away").await;
    eventbox::process_batch(&db.pool, &cell(), &halving(), MANY).await.unwrap_err();
    db.run("ALTER TABLE away RENAME TO eventbox_event").await;

    // The last listing: three events wait, and are left.
    for _ in 0..3 {
        eventbox_emit(db, Event::new("waits")).await;
    }
    let leaving = Cells::<B>::deciding(|_, _, _| Ok(Mutation::none()));
    let _ = eventbox::process_batch(&db.pool, &cell(), &leaving, MANY).await.unwrap();
    Pruner::new(db.pool.clone(), PrunerConfig::default().with_tombstone_delay(Duration::from_secs(300)))
        .run_once()
        .await
        .unwrap();
}

async fn eventbox_emit<B: CellEngine>(db: &TestDb<B>, event: Event) {
    B::emit_on(&db.pool, &cell(), event).await.unwrap();
}

/// Every instrument of the table is recorded, and every recorded instrument is in the table, with its kind and labels.
/// The numbers are those of the run.
fn instruments_tell_what_happened(recorded: &Recorded) {
    // By shard only when it is asked for.
    let wanted = INSTRUMENTS.iter().filter(|instrument| instrument.name != "eventbox_shard_phase_seconds");
    recorded.matches_exactly(&wanted.copied().collect::<Vec<_>>());
    let kinds = recorded.0.values().flatten().filter_map(|(_, labels, _)| labels.get("kind"));
    assert_eq!(kinds.collect::<BTreeSet<_>>(), BTreeSet::from([&"cell".to_owned()]));

    let of = |name: &str| recorded.total(name, &[("kind", "cell")]);
    assert_eq!((of("eventbox_sent_total"), of("eventbox_duplicates_total")), (10.0, 2.0));
    assert_eq!((of("eventbox_removed_total"), of("eventbox_garbage_total")), (6.0, 2.0));
    assert_eq!((of("eventbox_transitions_total"), of("eventbox_contention_total")), (4.0, 1.0));
    assert_eq!(of("eventbox_emit_to_commit_seconds"), 4.0, "once for every event that was consumed");
    assert_eq!((of("eventbox_quarantined_total"), of("eventbox_batch_events")), (1.0, 2.0));
    assert_eq!(recorded.total("eventbox_tombstones", &[]), 1.0);
    let results = |name: &str, result: &str| recorded.total(name, &[("kind", "cell"), ("result", result)]);
    // The call that isolates the event commits a turn and has no other outcome.
    let processed =
        ["committed", "nothing", "failed"].map(|result| results("eventbox_process_duration_seconds", result));
    assert_eq!(processed, [3.0, 2.0, 2.0]);
    assert_eq!(of("eventbox_process_duration_seconds"), 7.0);
    assert_eq!(
        (results("eventbox_list_duration_seconds", "FAILURE"), results("eventbox_list_duration_seconds", "TIMEOUT")),
        (1.0, 0.0)
    );
    assert!(results("eventbox_list_duration_seconds", "OK") >= 7.0);
}

#[cfg(feature = "postgres")]
#[test]
fn instruments_tell_what_happened_on_postgres() {
    instruments_tell_what_happened(&recorded(async |_| {
        with_database::<sqlx::Postgres, _>("metrics", a_known_run).await;
    }));
}

#[cfg(feature = "sqlite")]
#[test]
fn instruments_tell_what_happened_on_sqlite() {
    instruments_tell_what_happened(&recorded(async |_| with_database::<sqlx::Sqlite, _>("metrics", a_known_run).await));
}

/// The names, kinds, units and labels, word for word: dashboards are built on them.
#[test]
fn the_table_has_the_specified_instruments() {
    let table: Vec<_> = INSTRUMENTS
        .iter()
        .map(|instrument| (instrument.name, format!("{:?}", instrument.kind), instrument.unit, instrument.labels))
        .collect();
    let specified: [(&str, &str, &str, &[&str]); 15] = [
        ("eventbox_list_duration_seconds", "Histogram", "s", &["kind", "result"]),
        ("eventbox_sent_total", "Counter", "{event}", &["kind"]),
        ("eventbox_removed_total", "Counter", "{event}", &["kind"]),
        ("eventbox_contention_total", "Counter", "{attempt}", &["kind"]),
        ("eventbox_process_duration_seconds", "Histogram", "s", &["kind", "result"]),
        ("eventbox_batch_events", "Histogram", "{event}", &["kind"]),
        ("eventbox_transitions_total", "Counter", "{transition}", &["kind"]),
        ("eventbox_garbage_total", "Counter", "{event}", &["kind"]),
        ("eventbox_send_group_events", "Histogram", "{event}", &[]),
        ("eventbox_emit_to_commit_seconds", "Histogram", "s", &["kind"]),
        ("eventbox_phase_seconds", "Histogram", "s", &["phase"]),
        ("eventbox_shard_phase_seconds", "Gauge", "s", &["shard", "phase"]),
        ("eventbox_quarantined_total", "Counter", "{event}", &["kind"]),
        ("eventbox_duplicates_total", "Counter", "{event}", &["kind"]),
        ("eventbox_tombstones", "Gauge", "{name}", &[]),
    ];
    assert_eq!(table, specified.map(|(name, kind, unit, labels)| (name, kind.to_owned(), unit, labels)));
    let buckets = |name: &str| INSTRUMENTS.iter().find(|instrument| instrument.name == name).unwrap().buckets;
    for name in ["eventbox_list_duration_seconds", "eventbox_process_duration_seconds"] {
        assert_eq!(
            (buckets(name).first(), buckets(name).last()),
            (Some(&0.001), Some(&631.0)),
            "1 ms to about ten minutes"
        );
        assert!(buckets(name).is_sorted());
    }
}
