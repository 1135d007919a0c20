//! Rates: recipients that may not begin a turn yet wait in the queue, and use no worker.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::admin::{self, Reason};
use eventbox::runtime::{KindRates, MAX_RATE_PERIOD, Rate, Runtime};
use eventbox::{Error, Event, Mutation, Recipient, Transition};
use tokio::sync::Semaphore;

use super::{STOP, Tally, config, emit, emit_all, idle, leases, seen, tally, tallying, turn_of};
use crate::support::{CellEngine, Cells, SOON, TestDb, create_cells, eventually, on_every_engine};

/// A time that does not pass in a test.
const HOUR: Duration = Duration::from_secs(3_600);

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// Counts the turns in flight, and keeps each until there is a permit for it.
struct Gate {
    running: AtomicUsize,
    most: AtomicUsize,
    permits: Semaphore,
}

/// Returns a processor that gives each cell turns of its own, which pass the gate.
fn gated<B: CellEngine>(gate: &Arc<Gate>) -> Cells<B> {
    let gate = Arc::clone(gate);
    let cells = Cells::deciding(|_, events, population| match events {
        [] => Ok(Mutation::none()),
        events => Ok(Transition::to(population + 1).consuming(events).into()),
    });
    cells.alone().before_deciding(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.most.fetch_max(gate.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.permits.acquire().await.unwrap().forget();
            gate.running.fetch_sub(1, Ordering::SeqCst);
        }
    })
}

async fn refusal<B: CellEngine>(db: &TestDb<B>, kind: &str, rates: KindRates) -> String {
    let refused = tallying(db.open(4)).rates(kind, rates).start().await.unwrap_err();
    assert!(matches!(refused, Error::Setup { .. }), "{refused:?}");
    refused.to_string()
}

on_every_engine! {
    /// Events that come within the interval wait for one turn. `why` says until when. Another process has no memory of
    /// the last turn, so it begins the next one at once.
    async fn events_within_the_interval_make_one_turn(db) {
        let rates = KindRates::new().min_interval(HOUR);
        let mut config = config();
        config.leases = Some(leases());
        let start = || Runtime::builder(db.open(5)).reducer("tally", Tally).reducer("other", Tally)
            .config(config.clone()).rates("tally", rates.clone()).start();
        let runtime = start().await.unwrap();
        emit(db, &tally(1), ["a"]).await;
        idle(db).await;
        for value in ["b", "c", "d"] {
            emit(db, &tally(1), [value]).await;
        }
        eventually(SOON, async || runtime.stats().held_by_rates == 1).await;
        eventually(SOON, async || {
            let why = admin::why(&db.pool, &tally(1)).await.unwrap();
            let Reason::HeldByRate { worker, by, until: Some(until) } = why.reason else { return false };
            let left = until.duration_since(std::time::SystemTime::now()).unwrap();
            assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");
            assert_eq!((worker, by.as_deref()), (runtime.worker(), Some("min_interval")));
            assert!(why.sentence.contains("its next turn may begin in 59m"), "{}", why.sentence);
            true
        }).await;
        // Others go on meanwhile, each with its own interval.
        let other = Recipient::new("other", "1").unwrap();
        for n in 0..3 {
            emit(db, &other, [n]).await;
            eventually(SOON, async || seen(db, &other).await.len() == n + 1).await;
        }
        emit(db, &tally(2), ["x"]).await;
        eventually(SOON, async || turn_of(db, &tally(2)).await == 1).await;
        assert_eq!(turn_of(db, &tally(1)).await, 1);
        assert!(runtime.stats().held_by_rates >= 1);
        runtime.stop(STOP).await;

        let runtime = start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(turn_of(db, &tally(1)).await, 2);
        assert_eq!(seen(db, &tally(1)).await, ["a", "b", "c", "d"]);
    }

    /// Two processes share the slots of a kind. The recipients that are held use no worker, and all have their turns.
    async fn no_more_turns_of_a_kind_run_than_it_may_have(db) {
        create_cells(db).await;
        let gate = Arc::new(Gate { running: 0.into(), most: 0.into(), permits: Semaphore::new(0) });
        let mut config = config();
        (config.leases, config.workers) = (Some(leases()), 4.try_into().unwrap());
        let start = || {
            let runtime = Runtime::builder(db.open(7)).processor("cell", gated::<Engine>(&gate));
            runtime.reducer("tally", Tally).config(config.clone()).rates("cell", KindRates::new().max_concurrent(number(4))).start()
        };
        let (one, two) = (start().await.unwrap(), start().await.unwrap());
        eventually(SOON, async || one.shards() == 128 && two.shards() == 128).await;
        let cells = (0..60).map(|key: usize| (Recipient::new("cell", key.to_string()).unwrap(), Event::new("x")));
        emit_all(db, &cells.collect::<Vec<_>>()).await;
        eventually(SOON, async || one.stats().held_by_rates + two.stats().held_by_rates == 56).await;
        eventually(SOON, async || gate.running.load(Ordering::SeqCst) == 4).await;
        let tallies: Vec<_> = (0..20).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &tallies).await;
        eventually(SOON, async || db.count("eventbox_event").await == 60).await;
        // A cell may have a turn without events.
        gate.permits.add_permits(10_000);
        idle(db).await;
        assert_eq!(gate.most.load(Ordering::SeqCst), 4);
        eventually(SOON, async || one.stats().held_by_rates + two.stats().held_by_rates == 0).await;
        one.stop(STOP).await;
        two.stop(STOP).await;
    }

    /// Of a rate the burst begins at once, in rounds too. The others wait, and others of the kind do not wait for a
    /// prefix that is slow.
    async fn a_rate_lets_its_burst_begin(db) {
        let few = Rate::new(number(3), MAX_RATE_PERIOD);
        let rates = KindRates::new().rate(few.burst(number(12))).rate_of("slow-", few);
        let runtime = tallying(db.open(5)).rates("tally", rates).start().await.unwrap();
        if config().leases.is_some() {
            eventually(SOON, async || runtime.shards() == 256).await;
        }
        emit_all(db, &(0..5).map(|n| (tally(format!("slow-{n}")), Event::new("x"))).collect::<Vec<_>>()).await;
        eventually(SOON, async || runtime.stats().held_by_rates == 2).await;
        eventually(SOON, async || db.count("eventbox_event").await == 2).await;
        emit_all(db, &(0..10).map(|n| (tally(n), Event::new("x"))).collect::<Vec<_>>()).await;
        eventually(SOON, async || runtime.stats().held_by_rates == 3).await;
        eventually(SOON, async || db.count("eventbox_event").await == 3).await;
        eventually(SOON, async || runtime.stats().turns == 12).await;
        runtime.stop(STOP).await;
    }

    /// More recipients than the queue remembers are held by the scans, and have their turns.
    async fn recipients_that_find_no_place_have_their_turns(db) {
        let mut config = config();
        config.max_ready = 8.try_into().unwrap();
        let all: Vec<_> = (0..100).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &all).await;
        let runtime = tallying(db.open(5)).config(config).rates("tally", KindRates::new().max_concurrent(number(1)));
        let runtime = runtime.start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        for (to, _) in &all {
            assert_eq!(seen(db, to).await, ["x"]);
        }
    }

    async fn rates_that_cannot_be_kept_are_refused(db) {
        let unknown = refusal(db, "stranger", KindRates::new()).await;
        assert!(unknown.contains("rates of stranger are given, but no code for the kind is registered"), "{unknown}");
        let zero = refusal(db, "tally", KindRates::new().min_interval(Duration::ZERO)).await;
        assert!(zero.contains("the rates of tally: min_interval is zero: set it to more"), "{zero}");
        let rate = Rate::new(number(1), MAX_RATE_PERIOD + Duration::from_secs(1));
        let long = refusal(db, "tally", KindRates::new().rate_of("a", rate)).await;
        assert!(long.contains("the rates of tally: the time of a rate is"), "{long}");
    }
}
