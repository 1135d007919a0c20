//! Timers of a decision belong to its turn, in turns and in rounds.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use eventbox::{
    Event,
    timer::{cancel, move_due, timers},
};

use super::by_every_way;
use super::reducers::{Decided, Seen, meddled, reduce, remember, seen, text};
use super::ways::{Bounds, Way, emit, it, turn_of_it, waiting};
use crate::support::{TestDb, TestEngine};

const HOUR: Duration = Duration::from_secs(3_600);

/// Remembers everything. On `start` it also sets a timer with a name, one without a name, and one that is due already.
fn setting(events: &[Event], seen: Seen) -> Decided {
    let outcome = remember(events, seen)?;
    if !events.iter().any(|event| event.value() == b"start") {
        return Ok(outcome);
    }
    Ok(outcome.emitting([
        (it(), Event::new("reminder").named("reminder").due_in(HOUR)),
        (it(), Event::new("unnamed").due_at(SystemTime::now() + HOUR)),
        (it(), Event::new("over").due_at(SystemTime::UNIX_EPOCH)),
    ]))
}

/// Lets two hours pass, and moves due timers. Returns their number.
async fn let_time_pass<B: TestEngine>(db: &TestDb<B>) -> u64 {
    db.run("UPDATE eventbox_timer SET due_at_us = due_at_us - 7200000000").await;
    move_due(&db.pool, &[it().shard()], NonZeroU32::new(100).unwrap()).await.unwrap().moved
}

by_every_way! {
    /// The timers exist when the turn has committed. Each fires once when it is due, in the order of the emits.
    async fn a_decision_sets_timers(db, way) {
        emit(db, ["start"]).await;
        way.work(db, reduce(setting), Bounds::default(), async |_| waiting(db).await == 0 && turn_of_it(db).await > 0)
            .await;
        // A runtime moves due timers by itself; a call does not.
        move_due(&db.pool, &[it().shard()], NonZeroU32::new(100).unwrap()).await.unwrap();
        let set: Vec<_> = timers(&db.pool, &it(), None, 10).await.unwrap().iter().map(text).collect();
        assert_eq!(set, ["reminder", "unnamed"]);
        way.drain(db, reduce(setting)).await;
        assert_eq!(seen(db).await, ["start", "over"]);
        assert_eq!(let_time_pass(db).await, 2);
        way.drain(db, reduce(setting)).await;
        assert_eq!(seen(db).await, ["start", "over", "reminder", "unnamed"]);
    }

    /// Names count for timers too: a second timer of a name is a duplicate, and the name of a cancelled timer is
    /// remembered.
    async fn a_named_timer_is_set_once(db, way) {
        for _ in 0..2 {
            emit(db, ["start"]).await;
            way.drain(db, reduce(setting)).await;
        }
        assert_eq!(db.count("eventbox_timer WHERE name = 'reminder'").await, 1);
        assert!(cancel(&db.pool, &it(), "reminder").await.unwrap());
        emit(db, ["start"]).await;
        way.drain(db, reduce(setting)).await;
        assert_eq!(db.count("eventbox_timer WHERE name = 'reminder'").await, 0, "a cancelled name is remembered");
    }

    /// The timers of a decision that lost its race do not exist.
    async fn a_loser_sets_no_timers(db, way) {
        emit(db, ["start"]).await;
        let rival = db.open(1);
        let loser = meddled(reduce(setting), move |decision| {
            let rival = rival.clone();
            async move {
                if decision == 1 {
                    let _ = eventbox::reduce_batch(&rival, &it(), &reduce(remember), NonZeroU32::MIN).await.unwrap();
                }
            }
        });
        way.work(db, loser, Bounds::default(), async |worked| worked.contention > 0).await;
        assert_eq!((db.count("eventbox_timer").await, seen(db).await), (0, vec!["start".to_owned()]));
    }

    /// A timer too far in the future is a failure of the whole decision.
    async fn a_timer_that_is_too_far_is_refused(db, way) {
        emit(db, ["a"]).await;
        let far = reduce(|events: &[Event], seen: Seen| {
            Ok(remember(events, seen)?.emitting([(it(), Event::new("").due_in(eventbox::timer::MAX_TIMER + HOUR))]))
        });
        let worked = way.work(db, far, Bounds::default(), async |worked| worked.failures > 0).await;
        assert_eq!(
            (turn_of_it(db).await, waiting(db).await, db.count("eventbox_timer").await),
            (0, 1, 0),
            "{worked:?}"
        );
    }
}
