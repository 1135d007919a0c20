//! The bounds of a runtime: of a turn's time, of concurrent rounds, of the outbox, and of a wait.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, Status, Transition, admin};

use super::{STOP, Tally, config, emit, emit_all, idle, seen, tally, tallying};
use crate::support::{CellEngine, Cells, SOON, create_cells, eventually, on_every_engine};

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Waits in each decision until the wanted number of decisions runs at the same time.
struct Meeting {
    wanted: usize,
    /// Number of running decisions, now and at most.
    inside: Mutex<(usize, usize)>,
    changed: Condvar,
}

#[derive(Clone)]
struct Meets(Arc<Meeting>);

impl Meets {
    fn wanting(wanted: usize) -> Self {
        Meets(Arc::new(Meeting { wanted, inside: Mutex::default(), changed: Condvar::new() }))
    }

    fn most(&self) -> usize {
        self.0.inside.lock().unwrap().1
    }

    fn meet(&self) {
        let Meeting { wanted, inside, changed } = &*self.0;
        let mut inside = inside.lock().unwrap();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        changed.notify_all();
        let mut inside = changed.wait_timeout_while(inside, SOON, |(_, most)| *most < *wanted).unwrap().0;
        inside.0 -= 1;
    }
}

impl Reducer for Meets {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        tokio::task::block_in_place(|| self.meet());
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// Publishes every event.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let message = |_| CloudEvent::builder("tests", "published").build();
        let messages = events.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + events.len() as u64).consuming(events).publishing(messages))
    }
}

/// Rounds of at most two recipients each, with the maximum number of rounds in flight.
fn small_rounds(rounds: usize) -> RuntimeConfig {
    let mut config = config();
    config.rounds = rounds.try_into().unwrap();
    config.round_recipients = 2.try_into().unwrap();
    config
}

on_every_engine! {
    /// The setting `turn_deadline` bounds each attempt: a processor that never returns is a failure of its recipient,
    /// and other recipients go on.
    async fn a_turn_that_never_returns_is_given_up(db) {
        create_cells(db).await;
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        })
        .before_deciding(|_| std::future::pending());
        let mut config = config();
        (config.turn_deadline, config.workers) = (Duration::from_millis(200), 1.try_into().unwrap());
        config.poison = eventbox::PoisonPolicy::Block;
        emit(db, &Recipient::new("cell", "1").unwrap(), ["x"]).await;
        let runtime = Runtime::builder(db.open(4)).processor("cell", cells).reducer("tally", Tally).config(config);
        let runtime = runtime.start().await.unwrap();
        eventually(SOON, async || runtime.stats().failures >= 2).await;
        let errors = db.texts("SELECT error FROM eventbox_failure WHERE recipient = 'cell/1'").await;
        assert!(errors.iter().all(|error| error.contains("200ms")) && errors.len() == 1, "{errors:?}");
        emit(db, &tally(1), ["y"]).await;
        eventually(SOON, async || seen(db, &tally(1)).await == ["y"]).await;
        assert_eq!(db.count("eventbox_event").await, 1, "what was not done waits");
        runtime.stop(STOP).await;
    }

    /// Several rounds are in flight at the same time, each with other recipients.
    async fn rounds_overlap(db) {
        let meets = Meets::wanting(2);
        let all: Vec<_> = (0..12).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &all).await;
        let runtime = Runtime::builder(db.open(6)).reducer("tally", meets.clone()).config(small_rounds(3));
        let runtime = runtime.start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert!(meets.most() >= 2, "never more than one at once");
        for (to, _) in &all {
            assert_eq!(eventbox::state::<u64>(&db.pool, to).await.unwrap().unwrap().state, Some(1), "{to}");
        }
    }

    /// With the setting 1 there is one round at a time, whatever the load.
    async fn only_one_round_runs_at_a_time(db) {
        let meets = Meets::wanting(1);
        let all: Vec<_> = (0..30).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &all).await;
        let runtime = Runtime::builder(db.open(6)).reducer("tally", meets.clone()).config(small_rounds(1));
        let runtime = runtime.start().await.unwrap();
        idle(db).await;
        let stats = runtime.stop(STOP).await;
        assert!(stats.complete);
        // A round of two recipients decides on them one after the other.
        assert_eq!(meets.most(), 1);
        assert!(runtime.stats().rounds >= 15, "{:?}", runtime.stats());
    }

    /// A round that leaves events runs again at once, batch after batch, without a poll. The same holds for rounds of
    /// one recipient and of many. An empty box is not listed again.
    async fn events_left_by_a_batch_are_taken_without_a_poll(db) {
        for recipients in [1, 5] {
            let all: Vec<_> = (0..recipients).map(|n| tally(format!("{recipients}/{n}"))).collect();
            for to in &all {
                emit(db, to, 0..7).await;
            }
            let mut config = config();
            (config.poll_interval, config.min_poll_interval) = (FOREVER, FOREVER);
            (config.leases, config.local_wake_ups, config.remote_wake_ups) = (None, true, false);
            (config.max_events, config.rounds) = (2.try_into().unwrap(), 1.try_into().unwrap());
            let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
            idle(db).await;
            emit(db, &tally("next"), ["x"]).await;
            idle(db).await;
            eventually(SOON, async || runtime.stats().turns == 4 * recipients + 1).await;
            let stats = runtime.stats();
            runtime.stop(STOP).await;
            for to in &all {
                assert_eq!(seen(db, to).await, ["0", "1", "2", "3", "4", "5", "6"], "{to}");
            }
            // The scan at the start may find the last event beside its wake-up, and begin one round more.
            assert!(stats.contention == 0 && (5..=6).contains(&stats.rounds), "{stats:?}");
        }
    }

    /// The setting `workers` bounds the concurrent turns, and this number of turns is in flight.
    async fn as_many_turns_at_once_as_there_are_workers(db) {
        create_cells(db).await;
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (inside, highest) = (Arc::clone(&now), Arc::clone(&most));
        let meets = Arc::new(tokio::sync::Barrier::new(3));
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        })
        .alone()
        .before_deciding(move |_| {
            let (inside, highest, meets) = (Arc::clone(&inside), Arc::clone(&highest), Arc::clone(&meets));
            async move {
                highest.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                meets.wait().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        });
        for key in 0..9 {
            emit(db, &Recipient::new("cell", key.to_string()).unwrap(), ["x"]).await;
        }
        let mut config = config();
        config.workers = 3.try_into().unwrap();
        let runtime = Runtime::builder(db.open(6)).processor("cell", cells).config(config).start().await.unwrap();
        idle(db).await;
        runtime.stop(Duration::from_secs(2)).await;
        assert_eq!((most.load(Ordering::SeqCst), db.number("SELECT count(*) FROM cell").await), (3, 9));
    }

    /// Kinds on hold that publish go on when the outbox is below nine tenths of the quota, and not before. A kind that
    /// is not on hold publishes up to the quota.
    async fn a_kind_that_waits_for_the_outbox_goes_on_below_nine_tenths(db) {
        let mut config = config();
        config.outbox_quota = NonZeroU64::new(20);
        let runtime =
            Runtime::builder(db.open(5)).reducer("publisher", Publisher).reducer("tally", Tally).config(config);
        let runtime = runtime.start().await.unwrap();
        let publisher = Recipient::new("publisher", "1").unwrap();
        let keep = async |rows: i64| {
            db.run(format_args!(
                "DELETE FROM eventbox_outbox WHERE id NOT IN (SELECT id FROM eventbox_outbox ORDER BY id LIMIT {rows})"
            ))
            .await;
            assert_eq!(db.count("eventbox_outbox").await, rows);
        };
        // When a kind was paused, resumed and has gone on, the runtime has read the paused kinds and the outbox in
        // between.
        let looked = async |n: usize| {
            admin::pause_kind(&db.pool, "tally").await.unwrap();
            let receipt = Engine::emit_on(&db.pool, &tally(n), Event::new("x")).await.unwrap();
            admin::resume_kind(&db.pool, "tally").await.unwrap();
            assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { .. }));
        };
        emit(db, &publisher, 0..19).await;
        idle(db).await;
        // 19 are above nine tenths, and no kind was on hold.
        for n in 0..3 {
            tokio::time::sleep(Duration::from_millis(120)).await;
            looked(n).await;
        }
        let receipt = Engine::emit_on(&db.pool, &publisher, Event::new("20")).await.unwrap();
        assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { .. }));
        emit(db, &publisher, 20..30).await;
        let receipt = loop {
            let receipt = Engine::emit_on(&db.pool, &publisher, Event::new("waits")).await.unwrap();
            if runtime.wait_processed(&receipt, Duration::from_millis(300)).await.unwrap() == Status::Waiting {
                break receipt;
            }
        };
        keep(19).await;
        for n in 3..6 {
            looked(n).await;
            let waits = runtime.wait_processed(&receipt, Duration::from_millis(150)).await.unwrap();
            assert_eq!(waits, Status::Waiting, "19 of 20 are there");
        }
        keep(18).await;
        let goes_on = runtime.wait_processed(&receipt, SOON).await.unwrap();
        assert!(matches!(goes_on, Status::Done { .. }), "{goes_on:?}");
        runtime.stop(STOP).await;
    }

    /// A wait for an event of a paused recipient or kind returns this status at once. So does a wait for an event in
    /// quarantine.
    async fn a_wait_for_a_held_event_ends_at_once(db) {
        let runtime = tallying(db.open(4)).start().await.unwrap();
        let at_once = async |receipt: &eventbox::Receipt| {
            tokio::time::timeout(SOON, runtime.wait_processed(receipt, FOREVER))
                .await
                .expect("it ends at once")
                .unwrap()
        };
        admin::pause(&db.pool, &tally("paused")).await.unwrap();
        let paused = Engine::emit_on(&db.pool, &tally("paused"), Event::new("x")).await.unwrap();
        assert_eq!(at_once(&paused).await, Status::Paused);

        admin::quarantine(&db.pool, &tally("paused"), &[paused.id().unwrap()], "by hand").await.unwrap();
        assert!(matches!(at_once(&paused).await, Status::Quarantined { .. }));

        admin::pause_kind(&db.pool, "stranger").await.unwrap();
        let stranger = Recipient::new("stranger", "1").unwrap();
        let waits = Engine::emit_on(&db.pool, &stranger, Event::new("x")).await.unwrap();
        assert_eq!(at_once(&waits).await, Status::Paused);

        let done = Engine::emit_on(&db.pool, &tally("fine"), Event::new("x")).await.unwrap();
        assert_eq!(at_once(&done).await, Status::Done { turn: 1 });
        runtime.stop(STOP).await;
    }
}
