//! The rules of a turn. Each test breaks a rule between the listing and the commit, and the library must notice, in
//! turns and in rounds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use eventbox::testing::Clock;
use eventbox::{Event, Outcome, admin};

use super::by_every_way;
use super::reducers::{Meddled, Notes, Seen, meddled, reduce, remember, seen, text};
use super::ways::{Bounds, Way, emit, it, turn_of_it, waiting};
use crate::support::{CellEngine, TestDb};

/// Returns the clock of an hour ago, plus some seconds.
fn hour_ago(later_s: u64) -> Clock {
    Clock::at(SystemTime::now() - Duration::from_secs(3_600) + Duration::from_secs(later_s))
}

/// Removes the second event of its box.
const THE_SECOND: &str = "DELETE FROM eventbox_event WHERE recipient = 'cell/it' AND id =
    (SELECT id FROM eventbox_event WHERE recipient = 'cell/it' ORDER BY id LIMIT 1 OFFSET 1)";

/// Reduces, while foreign code runs a statement between the first listing and its commit.
fn breaking<B: CellEngine, R>(db: &TestDb<B>, reducer: R, sql: &'static str) -> Meddled<R> {
    let other = db.open(1);
    meddled(reducer, move |decision| {
        let other = other.clone();
        async move {
            if decision == 1 {
                B::run(&other, sql.to_owned()).await.unwrap();
            }
        }
    })
}

by_every_way! {
    /// The count of removals shows that an event was removed without a move of the turn.
    async fn an_event_that_vanished_is_missed(db, way) {
        emit(db, ["stays", "vanishes"]).await;
        let vanishing = breaking(db, reduce(remember), THE_SECOND);
        let worked = way.drain(db, vanishing).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["stays".to_owned()], 1));
        assert!(worked.contention >= 1, "{worked:?}");
    }

    /// The same for old events, which are removed as a range.
    async fn an_old_event_that_vanished_is_missed(db, way) {
        hour_ago(0).scope(emit(db, ["first", "vanishes", "last"])).await;
        let vanishing = breaking(db, reduce(remember), THE_SECOND);
        let worked = way.drain(db, vanishing).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["first".to_owned(), "last".to_owned()], 1));
        assert!(worked.contention >= 1, "{worked:?}");
    }

    /// An event that commits late between old events is not removed with them.
    async fn an_event_that_commits_late_between_old_ones_is_not_lost(db, way) {
        hour_ago(0).scope(emit(db, ["1"])).await;
        hour_ago(20).scope(emit(db, ["3"])).await;
        let other = db.open(1);
        let late = meddled(reduce(remember), move |decision| {
            let other = other.clone();
            async move {
                if decision == 1 {
                    hour_ago(10).scope(eventbox::emit(&other, &it(), Event::new("2"))).await.unwrap();
                }
            }
        });
        way.drain(db, late).await;
        let mut all = seen(db).await;
        all.sort();
        assert_eq!(all, ["1", "2", "3"], "each of them once");
    }

    /// The same for garbage, which counts like consumed events.
    async fn garbage_that_vanished_is_missed(db, way) {
        emit(db, ["stays", "garbage"]).await;
        let sweeping = reduce(|events: &[Event], mut seen: Seen| {
            let Some((first, garbage)) = events.split_first() else { return Ok(Outcome::stay()) };
            seen.push(format!("{} and {}", text(first), garbage.len()));
            Ok(Outcome::to(seen).consuming([first]).garbage(garbage))
        });
        let worked = way.drain(db, breaking(db, sweeping, THE_SECOND)).await;
        assert_eq!(seen(db).await, ["stays and 0"]);
        assert!(worked.contention >= 1 && worked.garbage == 0, "{worked:?}");
    }

    /// A turn whose row is gone does not match: a missing row is no turn 0.
    async fn a_missing_row_matches_no_turn(db, way) {
        emit(db, ["first"]).await;
        way.drain(db, reduce(remember)).await;
        emit(db, ["second"]).await;
        let worked = way
            .drain(db, breaking(db, reduce(remember), "DELETE FROM eventbox_state WHERE recipient = 'cell/it'"))
            .await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["second".to_owned()], 1), "decided again on no state");
        assert!(worked.contention >= 1, "{worked:?}");
    }

    /// An insert of the first turn does not replace a row that came during the decision.
    async fn a_row_that_came_first_is_not_overwritten(db, way) {
        emit(db, ["x"]).await;
        let other = db.open(1);
        let overtaken = meddled(reduce(remember), move |decision| {
            let other = other.clone();
            async move {
                if decision == 1 {
                    assert_eq!(admin::set_state(&other, &it(), 0, Some(br#"["theirs"]"#)).await.unwrap(), 1);
                }
            }
        });
        let worked = way.drain(db, overtaken).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["theirs".to_owned(), "x".to_owned()], 2));
        assert!(worked.contention >= 1, "{worked:?}");
    }

    /// An event that comes after the listing is neither in the batch nor lost, and its emit is no contention.
    async fn an_event_that_comes_after_the_listing_waits(db, way) {
        emit(db, ["listed"]).await;
        let other = db.open(1);
        let batches = Arc::new(Notes::default());
        let noted = Arc::clone(&batches);
        let remembering = reduce(move |events: &[Event], seen: Seen| {
            noted.add(events.iter().map(text).collect::<Vec<_>>().join(" "));
            remember(events, seen)
        });
        let joined = meddled(remembering, move |decision| {
            let other = other.clone();
            async move {
                if decision == 1 {
                    Engine::emit_on(&other, &it(), Event::new("later")).await.unwrap();
                }
            }
        });
        let worked = way.drain(db, joined).await;
        assert_eq!(batches.all()[..2], ["listed".to_owned(), "later".to_owned()]);
        assert_eq!((seen(db).await.len(), turn_of_it(db).await, worked.contention), (2, 2, 0), "{worked:?}");
    }

    /// A batch is bounded in every way of listing, and the last event of a full batch is not taken for the end of the
    /// box.
    async fn exactly_one_batch_leaves_nothing(db, way) {
        for count in [3, 4, 7] {
            emit(db, (0..count).map(|n| n.to_string())).await;
            way.drain_with(db, reduce(remember), Bounds::of_events(3)).await;
            assert_eq!(waiting(db).await, 0);
        }
        assert_eq!((seen(db).await.len(), turn_of_it(db).await), (14, 1 + 2 + 3));
    }
}
