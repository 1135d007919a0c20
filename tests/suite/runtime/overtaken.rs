//! Rounds that another writer overtakes between their listing and their commit.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};

use eventbox::runtime::Runtime;
use eventbox::testing::Clock;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use tokio::sync::oneshot;

use super::{STOP, Tally, emit, idle, one_round, seen, tally, turn_of};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Deletes the oldest event of a recipient, as a foreign transaction could.
async fn delete_oldest<B: TestEngine>(db: &TestDb<B>, to: &Recipient) {
    db.run(format_args!(
        "DELETE FROM eventbox_event WHERE recipient = '{to}'
         AND id = (SELECT id FROM eventbox_event WHERE recipient = '{to}' ORDER BY id LIMIT 1)"
    ))
    .await;
}

/// A tally whose first decision on an event `stop` waits, so that the test can act between listing and commit.
struct Stopping(Mutex<Option<(oneshot::Sender<()>, mpsc::Receiver<()>)>>);

impl Stopping {
    fn new() -> (Self, oneshot::Receiver<()>, mpsc::Sender<()>) {
        let ((reached, is_reached), (go_on, goes_on)) = (oneshot::channel(), mpsc::channel());
        (Stopping(Mutex::new(Some((reached, goes_on)))), is_reached, go_on)
    }
}

impl Reducer for Stopping {
    type State = Vec<String>;

    fn reduce(&self, to: &Recipient, events: &[Event], state: Vec<String>) -> Result<Outcome<Vec<String>>, BoxError> {
        if events.iter().any(|event| event.value() == b"stop")
            && let Some((reached, goes_on)) = self.0.lock().unwrap().take()
        {
            let _ = reached.send(());
            tokio::task::block_in_place(|| goes_on.recv_timeout(SOON))?;
        }
        Tally.reduce(to, events, state)
    }
}

on_every_engine! {
    /// Another writer commits a turn of one recipient between listing and commit. This recipient drops out and decides
    /// again, and the others commit.
    async fn a_recipient_that_loses_its_race_drops_out_alone(db) {
        let (stopping, reached, go_on) = Stopping::new();
        emit(db, &tally("a"), ["1", "2"]).await;
        emit(db, &tally("b"), ["stop"]).await;
        emit(db, &tally("c"), ["1"]).await;
        let runtime =
            Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
        reached.await.unwrap();
        let overtaking = eventbox::reduce_batch(&db.pool, &tally("a"), &Tally, 1.try_into().unwrap()).await.unwrap();
        assert_eq!(overtaking.consumed, 1);
        go_on.send(()).unwrap();
        idle(db).await;
        let stats = runtime.stats();
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally("a")).await, ["1", "2"]);
        assert_eq!(
            (seen(db, &tally("b")).await, seen(db, &tally("c")).await),
            (vec!["stop".to_owned()], vec!["1".to_owned()])
        );
        assert!(stats.contention >= 1, "{stats:?}");
    }

    /// An event commits late, between two old events that a round removes as a range of ids. The round does not remove
    /// the late event, and the event has a turn of its own.
    async fn an_event_that_commits_late_between_old_ones_is_not_removed(db) {
        let (stopping, reached, go_on) = Stopping::new();
        let clock = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        clock
            .scope(async {
                emit(db, &tally("a"), ["1"]).await;
                clock.advance(Duration::from_secs(20));
                emit(db, &tally("a"), ["3"]).await;
                emit(db, &tally("b"), ["stop"]).await;
            })
            .await;
        let runtime =
            Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
        reached.await.unwrap();
        let between = Clock::at(SystemTime::now() - Duration::from_secs(3_590));
        between.scope(emit(db, &tally("a"), ["2"])).await;
        go_on.send(()).unwrap();
        idle(db).await;
        let stats = runtime.stats();
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally("a")).await, ["1", "3", "2"]);
        assert_eq!(seen(db, &tally("b")).await, ["stop"]);
        assert_eq!(stats.contention, 0, "the round was committed: {stats:?}");
    }

    /// An event that a winner listed is gone, and the turn has not moved. No caller of the library does this. The whole
    /// round rolls back, and each recipient decides again alone.
    async fn a_shortfall_rolls_everything_back(db) {
        let (stopping, reached, go_on) = Stopping::new();
        emit(db, &tally("a"), ["1", "2"]).await;
        emit(db, &tally("b"), ["stop"]).await;
        let runtime =
            Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
        reached.await.unwrap();
        delete_oldest(db, &tally("a")).await;
        go_on.send(()).unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(
            (seen(db, &tally("a")).await, seen(db, &tally("b")).await),
            (vec!["2".to_owned()], vec!["stop".to_owned()])
        );
    }

    /// Another writer was faster, and a box is empty when its round comes. The next poll finds the next event, before
    /// the box would have rested.
    async fn a_box_that_was_empty_is_not_left_alone(db) {
        let (stopping, reached, go_on) = Stopping::new();
        let both = [tally("a"), tally("b")];
        for to in &both {
            emit(db, to, ["stop"]).await;
        }
        let mut config = one_round();
        (config.local_wake_ups, config.remote_wake_ups, config.poll_interval) =
            (false, false, Duration::from_secs(3_600));
        (config.round_recipients, config.min_poll_interval) = (1.try_into().unwrap(), Duration::from_millis(10));
        let runtime = Runtime::builder(db.open(5)).reducer("tally", stopping).config(config).start().await.unwrap();
        // One recipient is being decided on and the other waits: one scan found both.
        reached.await.unwrap();
        for to in &both {
            let overtaking = eventbox::reduce_batch(&db.pool, to, &Tally, 1.try_into().unwrap()).await.unwrap();
            assert_eq!(overtaking.consumed, 1);
        }
        go_on.send(()).unwrap();
        eventually(SOON, async || runtime.stats().rounds >= 2).await;
        for to in &both {
            emit(db, to, ["next"]).await;
        }
        idle(db).await;
        runtime.stop(STOP).await;
        for to in &both {
            assert_eq!(seen(db, to).await, ["stop", "next"]);
        }
    }

    /// A round of one recipient has statements of its own. Another writer commits the recipient's turn first, which is
    /// its first turn or a later one.
    async fn a_round_of_one_loses_its_race_too(db) {
        for (of, events_before) in [("new", 0), ("old", 1)] {
            let (stopping, reached, go_on) = Stopping::new();
            for n in 0..events_before {
                emit(db, &tally(of), [n.to_string().as_str()]).await;
                let _ = eventbox::reduce_batch(&db.pool, &tally(of), &Tally, 1.try_into().unwrap()).await.unwrap();
            }
            emit(db, &tally(of), ["stop", "next"]).await;
            let runtime =
                Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
            reached.await.unwrap();
            let overtaking = eventbox::reduce_batch(&db.pool, &tally(of), &Tally, 1.try_into().unwrap()).await.unwrap();
            assert_eq!(overtaking.consumed, 1);
            go_on.send(()).unwrap();
            idle(db).await;
            let stats = runtime.stats();
            runtime.stop(STOP).await;
            assert_eq!(seen(db, &tally(of)).await.split_off(events_before), ["stop", "next"], "{of}");
            assert!(stats.contention >= 1, "{of}: {stats:?}");
            assert_eq!(turn_of(db, &tally(of)).await, 2 + i64::try_from(events_before).unwrap(), "{of}");
        }
    }

    /// A round of one recipient does not remove an event that commits late between old events either. A missing event
    /// rolls the round back.
    async fn a_round_of_one_removes_what_it_listed_or_nothing(db) {
        let (stopping, reached, go_on) = Stopping::new();
        let clock = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        clock
            .scope(async {
                emit(db, &tally("late"), ["1"]).await;
                clock.advance(Duration::from_secs(20));
                emit(db, &tally("late"), ["stop"]).await;
            })
            .await;
        let runtime =
            Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
        reached.await.unwrap();
        let between = Clock::at(SystemTime::now() - Duration::from_secs(3_590));
        between.scope(emit(db, &tally("late"), ["2"])).await;
        go_on.send(()).unwrap();
        idle(db).await;
        let stats = runtime.stats();
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally("late")).await, ["1", "stop", "2"]);
        assert_eq!(stats.contention, 0, "the round was committed: {stats:?}");

        let (stopping, reached, go_on) = Stopping::new();
        emit(db, &tally("gone"), ["1", "stop"]).await;
        let runtime =
            Runtime::builder(db.open(5)).reducer("tally", stopping).config(one_round()).start().await.unwrap();
        reached.await.unwrap();
        delete_oldest(db, &tally("gone")).await;
        go_on.send(()).unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!((seen(db, &tally("gone")).await, turn_of(db, &tally("gone")).await), (vec!["stop".to_owned()], 1));
    }
}
