//! Finding work, with wake-ups and without them.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use eventbox::runtime::{Announcer, Runtime, RuntimeConfig};
use eventbox::{Event, Outcome, Recipient, SideEffect, Transition};

use super::{STOP, Tally, config, emit, emit_all, idle, seen, tally, tallying};
use crate::support::{Cells, SOON, create_cells, effects, eventually, noting, on_every_engine};

/// The four settings: every event is processed with any of them.
fn ways() -> [RuntimeConfig; 4] {
    let mut ways = [config(), config(), config(), config()];
    ways[1].local_wake_ups = false;
    ways[2].leases = None;
    (ways[3].local_wake_ups, ways[3].leases) = (false, None);
    ways
}

on_every_engine! {
    /// Every event of many recipients is processed once and in order, in rounds and in turns, also without wake-ups and
    /// leases.
    async fn every_event_is_processed_once_and_in_order(db) {
        create_cells(db).await;
        for (way, config) in ways().into_iter().enumerate() {
            let cells = Cells::<Engine>::deciding(|_, events, population| {
                let notes = events.iter().map(|event| Some(noting(String::from_utf8_lossy(event.value()))));
                Ok(Transition::to(population + 1).consuming(events).side_effect(SideEffect::chain(notes)).into())
            });
            // Some events exist before the start, and some come later. A cell decides nothing on an empty box.
            let tallies: Vec<Recipient> = (0..60).map(|n| tally(format!("{way}/{n}"))).collect();
            let cell = Recipient::new("cell", format!("{way}")).unwrap();
            for to in tallies.iter().chain([&cell]) {
                emit(db, to, 0..20).await;
            }
            let runtime = Runtime::builder(db.open(5)).reducer("tally", Tally).processor("cell", cells);
            let runtime = runtime.config(config).start().await.unwrap();
            for to in tallies.iter().chain([&cell]) {
                emit(db, to, 20..150).await;
            }
            idle(db).await;
            let report = runtime.stop(STOP).await;
            assert!(report.complete, "{report:?}");
            let wanted: Vec<String> = (0..150).map(|n| n.to_string()).collect();
            for to in &tallies {
                assert_eq!(seen(db, to).await, wanted, "{to} in way {way}");
            }
            assert_eq!(effects(db).await, wanted, "way {way}");
            db.run("DELETE FROM effect").await;
        }
    }

    /// The runtime notices an emit in a transaction that commits later.
    /// A wake-up names the recipient at once. The poll finds the event when the wake-up came too early.
    async fn an_event_that_commits_late_is_noticed(db) {
        let runtime = tallying(db.open(4)).start().await.unwrap();
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        eventbox::emit(&mut *tx, &tally(1), Event::new("late")).await.unwrap();
        // After that time the probes of the shard are over.
        tokio::time::sleep(Duration::from_millis(150)).await;
        tx.commit().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally(1)).await, ["late"]);
    }

    /// A box with very many events does not starve the others: they are done long before this box.
    async fn a_hot_box_does_not_starve_the_others(db) {
        let hot = tally("hot");
        emit(db, &hot, 0..20_000).await;
        let others: Vec<_> =
            (0..200).flat_map(|n| (0..10).map(move |e| (tally(n), Event::new(e.to_string())))).collect();
        emit_all(db, &others).await;
        let mut config = config();
        config.max_events = NonZeroU32::new(50).unwrap();
        // This reducer only counts, so that the state of the hot box stays small.
        struct Count;
        impl eventbox::Reducer for Count {
            type State = u64;
            fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, eventbox::BoxError> {
                Ok(Outcome::to(count + events.len() as u64).consuming(events))
            }
        }
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Count).config(config).start().await.unwrap();
        let left_of_others = "SELECT count(*) FROM eventbox_event WHERE recipient <> 'tally/hot'";
        eventually(SOON, async || db.number(left_of_others).await == 0).await;
        let left = db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'tally/hot'").await;
        assert!(left > 5_000, "{left} of 20,000 events were left of the hot box when the others were done");
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(eventbox::state::<u64>(&db.pool, &hot).await.unwrap().unwrap().state, Some(20_000));
    }

    /// Events that a reducer leaves for later do not hide those behind them, and are not listed without end.
    async fn events_left_for_later_hide_no_others(db) {
        struct OnlyLater;
        impl eventbox::Reducer for OnlyLater {
            type State = u64;
            fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, eventbox::BoxError> {
                let wanted: Vec<_> = events.iter().filter(|event| event.value() == b"now").collect();
                if wanted.is_empty() {
                    return Ok(Outcome::stay());
                }
                Ok(Outcome::to(count + wanted.len() as u64).consuming(wanted))
            }
        }
        let to = tally("picky");
        emit(db, &to, (0..500).map(|n| if n % 100 == 99 { "now" } else { "later" })).await;
        let mut config = config();
        config.max_events = NonZeroU32::new(10).unwrap();
        let runtime = Runtime::builder(db.open(4)).reducer("tally", OnlyLater).config(config).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 495).await;
        emit(db, &to, ["now"]).await;
        eventually(SOON, async || eventbox::state::<u64>(&db.pool, &to).await.unwrap().unwrap().state == Some(6)).await;
        runtime.stop(STOP).await;
    }

    /// Scans that come between the pages of a long box do not send the search back to the front of the box.
    async fn scans_do_not_send_a_search_back(db) {
        struct SlowAndPicky;
        impl eventbox::Reducer for SlowAndPicky {
            type State = u64;
            fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, eventbox::BoxError> {
                // All pages together take longer than several polls.
                std::thread::sleep(Duration::from_millis(15));
                let wanted: Vec<_> = events.iter().filter(|event| event.value() == b"now").collect();
                if wanted.is_empty() {
                    return Ok(Outcome::stay());
                }
                Ok(Outcome::to(count + wanted.len() as u64).consuming(wanted))
            }
        }
        let to = tally("picky");
        emit(db, &to, (0..300).map(|n| if n == 299 { "now" } else { "later" })).await;
        let mut config = config();
        config.max_events = NonZeroU32::new(10).unwrap();
        let runtime = Runtime::builder(db.open(4)).reducer("tally", SlowAndPicky).config(config).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 299).await;
        runtime.stop(STOP).await;
    }

    /// Events of a kind without a worker here stay, whatever stands before and behind them. The runtime counts them,
    /// and names the kind once.
    async fn an_unregistered_kind_stays(db) {
        let strangers: Vec<_> =
            (0..3_000).map(|n| (Recipient::new("stranger", n.to_string()).unwrap(), Event::new("x"))).collect();
        emit_all(db, &strangers).await;
        let known: Vec<_> = (0..300).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &known).await;
        let runtime = tallying(db.open(4)).start().await.unwrap();
        let left_of_known = "SELECT count(*) FROM eventbox_event WHERE recipient LIKE 'tally/%'";
        eventually(SOON, async || db.number(left_of_known).await == 0).await;
        runtime.stop(STOP).await;
        assert_eq!(db.count("eventbox_event").await, 3_000);
    }

    /// Scans find all short and long boxes of one shard, whatever the maximum number of recipients of a scan.
    /// Boxes of unregistered kinds stand before, between and behind them.
    async fn boxes_of_every_length_are_found(db) {
        let in_shard = |kind: &'static str, count| {
            let all = (0..).map(move |n: usize| Recipient::new(kind, n.to_string()).unwrap());
            all.filter(|to| to.shard() == 7).take(count)
        };
        for max_ready in [1, 300, 20_000] {
            let strangers = ["aardvark", "tallyho", "zoo"].into_iter().flat_map(|kind| in_shard(kind, 20));
            let strangers: Vec<_> =
                strangers.flat_map(|to| (0..3).map(move |_| (to.clone(), Event::new("x")))).collect();
            emit_all(db, &strangers).await;
            let known: Vec<Recipient> = in_shard("tally", 200).chain(in_shard("zebra", 40)).collect();
            let length = |n: usize| if n.is_multiple_of(17) { 90 } else { 1 + n % 3 / 2 };
            let events = known
                .iter()
                .enumerate()
                .flat_map(|(n, to)| (0..length(n)).map(|e| (to.clone(), Event::new(e.to_string()))));
            emit_all(db, &events.collect::<Vec<_>>()).await;
            let mut config = config();
            (config.local_wake_ups, config.max_ready) = (false, max_ready.try_into().unwrap());
            let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).reducer("zebra", Tally).config(config);
            let runtime = runtime.start().await.unwrap();
            eventually(SOON, async || db.count("eventbox_event").await == i64::try_from(strangers.len()).unwrap())
                .await;
            assert!(runtime.stop(STOP).await.complete);
            for (n, to) in known.iter().enumerate() {
                assert_eq!(seen(db, to).await, (0..length(n)).map(|e| e.to_string()).collect::<Vec<_>>(), "{to}");
            }
            db.run("DELETE FROM eventbox_event").await;
            db.run("DELETE FROM eventbox_state").await;
        }
    }

    /// With wake-ups inside the process a turn follows its emit far sooner than a poll would come.
    async fn a_wake_up_is_faster_than_a_poll(db) {
        let mut config = config();
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(20), Duration::from_secs(20));
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        for n in 0..5 {
            let started = Instant::now();
            emit(db, &tally(n), [n]).await;
            idle(db).await;
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
        runtime.stop(STOP).await;
    }

    /// A process that only emits wakes up the workers of another process.
    /// The runtime here takes no wake-ups of its own process.
    async fn an_announcer_is_faster_than_a_poll(db) {
        let mut config = config();
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(20), Duration::from_secs(20));
        (config.local_wake_ups, config.remote_wake_ups) = (false, true);
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let announcer = Announcer::start(&db.pool);
        for n in 0..5 {
            let started = Instant::now();
            emit(db, &tally(n), [n]).await;
            idle(db).await;
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
        announcer.stop(STOP).await;
        runtime.stop(STOP).await;
    }
}

/// On SQLite every commit changes the version of the file, which is no reason to wake up a resting recipient.
#[cfg(feature = "postgres")]
mod wake_ups {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use eventbox::{BoxError, Reducer};

    use super::*;
    use crate::support::{TestDb, with_database};

    /// Consumes two events at a time, and leaves a single one for later.
    struct Pairs(Arc<AtomicUsize>);

    impl Reducer for Pairs {
        type State = u64;

        fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(match events {
                [_] => Outcome::stay(),
                events => Outcome::to(count + events.len() as u64).consuming(events),
            })
        }
    }

    /// A recipient rests after a turn that found nothing to do. An emit of another process wakes it before the poll.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_emit_of_another_process_wakes_a_resting_recipient() {
        with_database("an_emit_of_another_process_wakes_a_resting_recipient", async |db: &TestDb<sqlx::Postgres>| {
            let mut config = config();
            (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(20), Duration::from_secs(20));
            (config.local_wake_ups, config.remote_wake_ups) = (false, true);
            let calls = Arc::new(AtomicUsize::new(0));
            let builder = Runtime::builder(db.open(4)).reducer("tally", Pairs(Arc::clone(&calls)));
            let runtime = builder.config(config).start().await.unwrap();
            eventually(SOON, async || runtime.shards() == 256).await;
            let announcer = Announcer::start(&db.pool);
            emit(db, &tally("a"), ["1"]).await;
            eventually(SOON, async || calls.load(Ordering::Relaxed) > 0).await;
            let started = Instant::now();
            emit(db, &tally("a"), ["2"]).await;
            announcer.stop(STOP).await;
            idle(db).await;
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
            runtime.stop(STOP).await;
        })
        .await;
    }
}
