//! Rounds: many recipients commit together, and each of them still drops out alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::testing::Clock;
use eventbox::{BoxError, CloudEvent, Event, Outcome, PostProcess, Recipient, Reducer, admin};
use tokio::sync::oneshot;

use super::{STOP, Tally, config, emit, emit_all, idle, seen, tally};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

const RECIPIENTS: usize = 50;

fn collector() -> Recipient {
    Recipient::new("collector", "1").unwrap()
}

async fn turn_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> i64 {
    eventbox::state::<Vec<String>>(&db.pool, of).await.unwrap().map_or(0, |at| at.turn)
}

/// Deletes the oldest event of a recipient, as a foreign transaction could.
async fn delete_oldest<B: TestEngine>(db: &TestDb<B>, to: &Recipient) {
    db.run(format_args!(
        "DELETE FROM eventbox_event WHERE recipient = '{to}'
         AND id = (SELECT id FROM eventbox_event WHERE recipient = '{to}' ORDER BY id LIMIT 1)"
    ))
    .await;
}

/// Emits every event to the collector, and publishes it.
struct Teller {
    hooks: Arc<AtomicUsize>,
}

impl Reducer for Teller {
    type State = u64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let told: Vec<_> = events
            .iter()
            .map(|event| (collector(), Event::new([to.key().as_bytes(), b":", event.value()].concat())))
            .collect();
        let messages = events.iter().map(|event| {
            CloudEvent::builder("tests", "told").subject(to.key()).payload(event.value().to_vec()).build()
        });
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let hooks = Arc::clone(&self.hooks);
        let hook = PostProcess::new(move || async move {
            hooks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let outcome = Outcome::to(count + events.len() as u64).consuming(events).publishing(messages);
        Ok(outcome.emitting(told).post_process(hook))
    }
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

/// A tally that leaves the events `later`.
struct Leaving;

impl Reducer for Leaving {
    type State = Vec<String>;

    fn reduce(
        &self,
        _to: &Recipient,
        events: &[Event],
        mut seen: Vec<String>,
    ) -> Result<Outcome<Vec<String>>, BoxError> {
        let (later, now): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.value() == b"later");
        if later.len() == events.len() {
            return Ok(Outcome::stay());
        }
        seen.extend(now.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()));
        Ok(Outcome::to(seen).consuming(now))
    }
}

/// Counts, and waits in each decision until another decision runs at the same time.
#[derive(Default)]
struct Meeting {
    inside: Mutex<(usize, usize)>,
    changed: Condvar,
}

struct Meets(Arc<Meeting>);

impl Reducer for Meets {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let Meeting { inside, changed } = &*self.0;
        let mut inside = inside.lock().unwrap();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        changed.notify_all();
        let mut inside = changed.wait_timeout_while(inside, SOON, |(_, most)| *most < at_once()).unwrap().0;
        inside.0 -= 1;
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// Returns the smallest number of decisions of a round that two threads make at once.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(2))
}

/// Returns settings with one round at a time, which has all recipients that wait at the start.
fn one_round() -> RuntimeConfig {
    let mut config = config();
    config.rounds = 1.try_into().unwrap();
    config
}

on_every_engine! {
    /// A round does not decide on a state kept from the round before when another writer has changed this state: with a
    /// turn, or under the same number, as after a recipient was forgotten and began again.
    async fn a_kept_state_is_not_taken_for_another(db) {
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).config(config()).start().await.unwrap();
        let (a, b) = (tally("a"), tally("b"));
        emit(db, &b, ["old", "old"]).await;
        idle(db).await;
        emit(db, &a, ["1"]).await;
        idle(db).await;
        // The runtime keeps both states now.
        emit_all(db, &[(a.clone(), Event::new("2")), (b.clone(), Event::new("old"))]).await;
        idle(db).await;

        admin::set_state(&db.pool, &b, turn_of(db, &b).await, Some(b"[\"edited\"]")).await.unwrap();
        emit(db, &b, ["new"]).await;
        idle(db).await;
        assert_eq!(seen(db, &b).await, ["edited", "new"]);

        let of_b =
            |column| format!("{column} = (SELECT b.{column} FROM eventbox_state b WHERE b.recipient = 'tally/b')");
        db.run(format_args!(
            "UPDATE eventbox_state SET {}, {} WHERE recipient = 'tally/a'",
            of_b("token"),
            of_b("state")
        ))
        .await;
        emit(db, &a, ["3"]).await;
        idle(db).await;
        assert_eq!(seen(db, &a).await, ["edited", "new", "3"]);
        runtime.stop(STOP).await;
    }

    /// The emits and publishes of a round belong to its transaction. Each happens exactly once, also with two runtimes
    /// that race without leases.
    async fn emits_and_publishes_of_a_round_happen_once(db) {
        let hooks = Arc::new(AtomicUsize::new(0));
        let mut runtimes = Vec::new();
        for _ in 0..2 {
            let mut config = config();
            config.leases = None;
            let runtime = Runtime::builder(db.open(5)).reducer("teller", Teller { hooks: Arc::clone(&hooks) });
            runtimes.push(runtime.reducer("collector", Tally).config(config).start().await.unwrap());
        }
        let tellers: Vec<_> = (0..RECIPIENTS).map(|n| Recipient::new("teller", n.to_string()).unwrap()).collect();
        for slice in 0..4 {
            let events: Vec<_> = tellers
                .iter()
                .flat_map(|to| (0..5).map(|n| (to.clone(), Event::new((slice * 5 + n).to_string()))))
                .collect();
            emit_all(db, &events).await;
        }
        idle(db).await;
        for runtime in &runtimes {
            assert!(runtime.stop(STOP).await.complete);
        }
        let mut told = seen(db, &collector()).await;
        told.sort();
        let mut wanted: Vec<_> = (0..RECIPIENTS).flat_map(|to| (0..20).map(move |n| format!("{to}:{n}"))).collect();
        wanted.sort();
        assert_eq!(told, wanted);
        assert_eq!(db.count("eventbox_outbox").await, (RECIPIENTS * 20) as i64);
        for to in &tellers {
            assert_eq!(eventbox::state::<u64>(&db.pool, to).await.unwrap().unwrap().state, Some(20));
        }
        assert!(hooks.load(Ordering::Relaxed) >= RECIPIENTS, "every recipient had a turn");
    }

    /// The reducers of a large round run at the same time.
    async fn a_large_round_decides_on_several_threads(db) {
        let meeting = Arc::new(Meeting::default());
        let all: Vec<_> = (0..100).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &all).await;
        let builder = Runtime::builder(db.open(5)).reducer("tally", Meets(Arc::clone(&meeting)));
        let runtime = builder.config(one_round()).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert!(meeting.inside.lock().unwrap().1 >= at_once());
        for (to, _) in &all {
            assert_eq!(eventbox::state::<u64>(&db.pool, to).await.unwrap().unwrap().state, Some(1));
        }
    }

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

    /// A round removes only the events that each recipient consumed: a whole box of old or of new events, or some
    /// events with others between them.
    async fn each_part_of_a_round_removes_its_own(db) {
        let hour_ago = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        hour_ago.scope(emit(db, &tally("old"), ["1", "2"])).await;
        emit(db, &tally("all"), ["1", "2", "3"]).await;
        emit(db, &tally("some"), ["1", "later", "2", "later", "3"]).await;
        emit(db, &tally("few"), ["later", "1"]).await;
        let runtime = Runtime::builder(db.open(5)).reducer("tally", Leaving).config(one_round()).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 3).await;
        runtime.stop(STOP).await;
        let stats = runtime.stats();
        assert_eq!((stats.turns, stats.contention), (4, 0), "the round was committed: {stats:?}");
        for (of, consumed) in [("old", 2), ("all", 3), ("some", 3), ("few", 1)] {
            assert_eq!(seen(db, &tally(of)).await, ["1", "2", "3"][..consumed], "{of}");
        }
        assert_eq!(db.count("eventbox_event WHERE length(value) = 5").await, 3, "what is for later is there");
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

/// The answer to the commit of a round is lost. The runtime reads the turns back, repeats nothing, and runs the hooks
/// of its own turns.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_whose_answer_was_lost_is_read_back() {
    use crate::support::proxy::{Fate, Message, Proxy};
    use crate::support::{TestDb, with_database};

    with_database("round_answer", async |db: &TestDb<sqlx::Postgres>| {
        let proxy = Proxy::start(db.options()).await;
        let hooks = Arc::new(AtomicUsize::new(0));
        // Wake-ups of this process alone, so that no other transaction can lose its answer.
        let mut config = one_round();
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        (config.leases, config.remote_wake_ups) = (None, false);
        let runtime = Runtime::builder(proxy.pool_of(6).await).reducer("teller", Teller { hooks: Arc::clone(&hooks) });
        let runtime = runtime.reducer("collector", Tally).config(config).start().await.unwrap();
        let first = Recipient::new("teller", "first").unwrap();
        emit(db, &first, ["x"]).await;
        idle(db).await;

        proxy.next(Message::Commit, Fate::AnswerLost);
        let tellers: Vec<_> = (0..10).map(|n| Recipient::new("teller", n.to_string()).unwrap()).collect();
        let events: Vec<_> = tellers.iter().map(|to| (to.clone(), Event::new("x"))).collect();
        emit_all(db, &events).await;
        proxy.cut(1).await;
        idle(db).await;
        eventually(SOON, async || hooks.load(Ordering::Relaxed) == 11).await;
        runtime.stop(STOP).await;
        let told = seen(db, &collector()).await;
        assert_eq!((told.len(), db.count("eventbox_outbox").await), (11, 11), "{told:?}");
    })
    .await;
}
