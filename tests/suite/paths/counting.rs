//! The counters count only committed work, in turns and in rounds.

use std::collections::BTreeSet;

use eventbox::{Event, Outcome, Recipient};

use super::doors::Door;
use super::reducers::{Seen, reduce};
use super::ways::{Bounds, MATES, Way, emit, it};
use crate::support::recorded::{Recorded, Recording, recorded};
use crate::support::{CellEngine, TestDb, with_database};

/// Of five events one is consumed, three are garbage, and the last one waits.
async fn a_known_run<B: CellEngine>(db: &TestDb<B>, _recording: &Recording, way: Way) {
    emit(db, ["1", "2", "3", "4", "5"]).await;
    let deciding = reduce(|events: &[Event], _: Seen| {
        if events.len() < 5 {
            return Ok(Outcome::stay());
        }
        Ok(Outcome::to(vec!["decided".to_owned()]).consuming(&events[..1]).garbage(&events[1..4]))
    });
    let worked = way.work(db, deciding, Bounds::default(), async |worked| worked.garbage > 0).await;
    assert_eq!((worked.consumed, worked.garbage), (1 + way.mates(), 3), "{worked:?}");
}

/// Returns the shards for which a phase was counted.
fn shards(recorded: &Recorded, phase: &str) -> BTreeSet<String> {
    let series = recorded.0["eventbox_shard_phase_seconds"].iter().filter(|(_, labels, _)| labels["phase"] == phase);
    series.map(|(_, labels, _)| labels["shard"].clone()).collect()
}

fn numbers_are_those_of_the_run(way: Way, recorded: &Recorded) {
    let of = |name: &str| recorded.total(name, &[("kind", "cell")]);
    #[allow(clippy::cast_precision_loss, reason = "there are few")]
    let mates = way.mates() as f64;
    assert_eq!(of("eventbox_sent_total"), 5.0 + mates);
    assert_eq!((of("eventbox_removed_total"), of("eventbox_garbage_total")), (4.0 + mates, 3.0));
    assert_eq!(of("eventbox_emit_to_commit_seconds"), 1.0 + mates, "once for every event that was consumed");
    assert_eq!((of("eventbox_batch_events"), of("eventbox_transitions_total")), (1.0 + mates, 1.0 + mates));
    assert_eq!(of("eventbox_contention_total"), 0.0);
    let mut wanted = BTreeSet::from([it().shard().to_string()]);
    if way.has_mates() {
        wanted.extend(MATES.map(|key| Recipient::new("cell", key).unwrap().shard().to_string()));
    }
    for phase in ["preparing", "committing"] {
        assert_eq!(shards(recorded, phase), wanted, "{phase}");
    }
    assert!(recorded.total("eventbox_shard_phase_seconds", &[("phase", "committing")]) > 0.0);
    assert!(recorded.total("eventbox_phase_seconds", &[("phase", "committing")]) >= 1.0);
}

macro_rules! counted_by_every_way {
    ($($case:ident $way:expr);+) => {$(
        mod $case {
            use super::*;

            #[cfg(feature = "postgres")]
            #[test]
            fn postgres() {
                numbers_are_those_of_the_run($way, &recorded(async |recording| {
                    let body = async |db: &TestDb<sqlx::Postgres>| a_known_run(db, recording, $way).await;
                    with_database("counted", body).await;
                }));
            }

            #[cfg(feature = "sqlite")]
            #[test]
            fn sqlite() {
                numbers_are_those_of_the_run($way, &recorded(async |recording| {
                    let body = async |db: &TestDb<sqlx::Sqlite>| a_known_run(db, recording, $way).await;
                    with_database("counted", body).await;
                }));
            }
        }
    )+};
}

counted_by_every_way!(
    turn Way::Turn; round_of_one Way::RoundOfOne; round_of_many Way::RoundOfMany;
    round_of_processor Way::RoundOfProcessor
);

/// Returns an event and its copy.
async fn an_event_twice<B: CellEngine>(db: &TestDb<B>, door: Door) {
    for _ in 0..2 {
        door.send(&db.pool, &it(), "n", b"x").await.unwrap();
    }
}

fn one_was_added_and_one_was_a_duplicate(recorded: &Recorded) {
    let of = |name: &str| recorded.total(name, &[("kind", "cell")]);
    assert_eq!((of("eventbox_sent_total"), of("eventbox_duplicates_total")), (1.0, 1.0));
}

macro_rules! counted_at_every_door {
    ($($case:ident $door:expr);+) => {$(
        mod $case {
            use super::*;

            #[cfg(feature = "postgres")]
            #[test]
            fn postgres() {
                one_was_added_and_one_was_a_duplicate(&recorded(async |_| {
                    let body = async |db: &TestDb<sqlx::Postgres>| an_event_twice(db, $door).await;
                    with_database("counted_at_a_door", body).await;
                }));
            }

            #[cfg(feature = "sqlite")]
            #[test]
            fn sqlite() {
                one_was_added_and_one_was_a_duplicate(&recorded(async |_| {
                    let body = async |db: &TestDb<sqlx::Sqlite>| an_event_twice(db, $door).await;
                    with_database("counted_at_a_door", body).await;
                }));
            }
        }
    )+};
}

mod at_a_door {
    use super::*;

    counted_at_every_door!(
        emit Door::Emit; emit_all Door::EmitAll; in_a_transaction Door::Transaction; sender Door::Sender; set Door::Set
    );
}
