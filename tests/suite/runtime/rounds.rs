//! Rounds: many recipients commit together, and each of them still drops out alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use eventbox::runtime::Runtime;
use eventbox::testing::Clock;
use eventbox::{BoxError, CloudEvent, Event, Outcome, PostProcess, Recipient, Reducer, admin};

use super::{STOP, Tally, config, emit, emit_all, idle, one_round, seen, tally, turn_of};
use crate::support::{SOON, eventually, on_every_engine};

const RECIPIENTS: usize = 50;

fn collector() -> Recipient {
    Recipient::new("collector", "1").unwrap()
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

    /// Rounds of a kind with durations collect what comes within the shortest one. Other kinds do not wait.
    async fn a_round_with_durations_collects_events(db) {
        let (hour, pause) = (Duration::from_secs(3_600), Duration::from_secs(1));
        let builder = Runtime::builder(db.open(5)).reducer("tally", Tally).reducer("never", Tally).reducer("other", Tally);
        let builder = builder.round_durations("tally", pause, hour).round_durations("never", hour, hour);
        let runtime = builder.config(config()).start().await.unwrap();
        let [never, other] = ["never", "other"].map(|kind| Recipient::new(kind, "1").unwrap());
        emit(db, &never, ["x"]).await;
        let began = std::time::Instant::now();
        for n in 0..4 {
            emit(db, &tally(n % 2), [n]).await;
        }
        let emitting = began.elapsed();
        emit(db, &other, ["x"]).await;
        eventually(SOON, async || seen(db, &other).await == ["x"]).await;
        eventually(SOON, async || seen(db, &tally(1)).await == ["1", "3"]).await;
        assert!(began.elapsed() >= pause);
        // One turn each, if all of them were emitted before the round could begin.
        if emitting < pause {
            assert_eq!([turn_of(db, &tally(0)).await, turn_of(db, &tally(1)).await], [1, 1]);
        }
        assert!(runtime.stop(STOP).await.complete);
        assert_eq!(db.count("eventbox_event").await, 1, "the longest wait has not ended");
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
