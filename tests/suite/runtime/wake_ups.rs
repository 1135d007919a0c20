//! Wake-ups inside a process: an emit names its recipient, so a turn begins without a scan.
//! A turn lists events from the position where the last listing of its recipient ended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::testing::Clock;
use eventbox::{BoxError, Event, Mutation, Outcome, Recipient, Reducer, SideEffect, Status, Transition};

use super::{STOP, Tally, backoff, config, idle, isolating, seen, tally};
use crate::support::{CellEngine, Cells, SOON, create_cells, eventually, on_every_engine};

/// A test that takes so long has waited for the poll.
const BEFORE_THE_POLL: Duration = Duration::from_secs(10);

/// Settings with such rare polls that a recipient found in time was not found by a poll.
fn hardly_polling() -> RuntimeConfig {
    let mut config = config();
    (config.poll_interval, config.min_poll_interval) = (2 * BEFORE_THE_POLL, 2 * BEFORE_THE_POLL);
    (config.local_wake_ups, config.remote_wake_ups) = (true, false);
    config
}

fn cell(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

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

on_every_engine! {
    /// The runtime finds the recipients of committed emits at once, for rounds and for turns.
    /// So it does when a recipient rests because its last turn left events for later.
    async fn a_recipient_named_by_a_wake_up_needs_no_poll(db) {
        create_cells(db).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        });
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Pairs(Arc::clone(&calls))).processor("cell", cells);
        let runtime = runtime.config(hardly_polling()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let started = Instant::now();
        Engine::emit_on(&db.pool, &tally(1), Event::new("1")).await.unwrap();
        eventually(SOON, async || calls.load(Ordering::Relaxed) > 0).await;
        Engine::emit_on(&db.pool, &tally(1), Event::new("2")).await.unwrap();
        idle(db).await;
        for n in 0..5 {
            Engine::emit_on(&db.pool, &cell(n), Event::new("x")).await.unwrap();
            idle(db).await;
        }
        assert!(started.elapsed() < BEFORE_THE_POLL, "{:?}", started.elapsed());
        runtime.stop(STOP).await;
    }

    /// The wake-up for the events that a turn emits follows the commit of the turn, however long the commit takes.
    async fn a_wake_up_for_the_events_of_a_turn_follows_its_commit(db) {
        create_cells(db).await;
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            let emits = SideEffect::<Engine>::new(|tx| Box::pin(async move {
                Engine::emit(tx, &tally("told"), Event::new("x")).await?;
                // Longer than the runtime repeats its scans of a marked shard.
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(())
            }));
            Ok(Transition::to(population + 1).consuming(events).side_effect(emits).into())
        });
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).processor("cell", cells);
        let runtime = runtime.config(hardly_polling()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let started = Instant::now();
        Engine::emit_on(&db.pool, &cell(1), Event::new("go")).await.unwrap();
        eventually(SOON, async || !seen(db, &tally("told")).await.is_empty()).await;
        assert!(started.elapsed() < BEFORE_THE_POLL, "{:?}", started.elapsed());
        runtime.stop(STOP).await;
    }

    /// A listing begins behind the consumed events. An older event that commits only now is found all the same,
    /// in a quiet box and in a box that always has events.
    async fn an_event_emitted_long_ago_that_commits_now_is_found(db) {
        create_cells(db).await;
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        });
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Tally).processor("cell", cells);
        let runtime = runtime.config(config()).start().await.unwrap();
        let hour_ago = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        for to in [tally("quiet"), cell("quiet"), tally("busy"), cell("busy")] {
            Engine::emit_on(&db.pool, &to, Event::new("new")).await.unwrap();
            idle(db).await;
            let old = hour_ago.scope(Engine::emit_on(&db.pool, &to, Event::new("old"))).await.unwrap();
            eventually(SOON, async || {
                if to.key() == "busy" {
                    Engine::emit_on(&db.pool, &to, Event::new("new")).await.unwrap();
                }
                let status = runtime.wait_processed(&old, Duration::from_millis(20)).await.unwrap();
                matches!(status, Status::Done { .. })
            }).await;
            idle(db).await;
        }
        runtime.stop(STOP).await;
    }

    /// A failing recipient gets no turn before its back-off is over, also when a wake-up names it.
    async fn a_failing_recipient_is_not_tried_at_every_wake_up(db) {
        create_cells(db).await;
        let mut config = isolating(1_000);
        config.backoff = backoff(Duration::from_secs(3_600), Duration::from_secs(7_200));
        let cells = Cells::<Engine>::deciding(|to, events, population| match to.key() {
            "fails" => Err("it cannot".into()),
            _ => Ok(Transition::to(population + 1).consuming(events).into()),
        });
        let runtime = Runtime::builder(db.open(4)).processor("cell", cells).config(config).start().await.unwrap();
        let attempts = "SELECT coalesce(sum(attempts), 0) FROM eventbox_failure";
        Engine::emit_on(&db.pool, &cell("fails"), Event::new("x")).await.unwrap();
        eventually(SOON, async || db.number(attempts).await == 1).await;
        for n in 0..10 {
            Engine::emit_on(&db.pool, &cell("fails"), Event::new("x")).await.unwrap();
            // This recipient stands behind the failing one in the queue: once it is done, the failing one was taken.
            let receipt = Engine::emit_on(&db.pool, &cell(n), Event::new("x")).await.unwrap();
            runtime.wait_processed(&receipt, SOON).await.unwrap();
        }
        assert_eq!(db.number(attempts).await, 1);
        runtime.stop(STOP).await;
    }

    /// A recipient that leaves events for later gets them again with its next events, also those of pages on which it
    /// did nothing.
    async fn events_left_for_later_come_first_again(db) {
        create_cells(db).await;
        let pages = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&pages);
        let cells = Cells::<Engine>::deciding(move |_, events, population| {
            let values: Vec<_> =
                events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect();
            seen.lock().unwrap().push(values.join(" "));
            let consumed: Vec<_> = events.iter().filter(|event| event.value().starts_with(b"go")).collect();
            Ok(match consumed.is_empty() {
                true => Mutation::none(),
                false => Transition::to(population + 1).consuming(consumed).into(),
            })
        });
        let mut config = hardly_polling();
        config.max_events = 2.try_into().unwrap();
        let runtime = Runtime::builder(db.open(4)).processor("cell", cells).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let hour_ago = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        for value in ["a", "b"] {
            hour_ago.scope(Engine::emit_on(&db.pool, &cell(1), Event::new(value))).await.unwrap();
        }
        for value in ["go", "go on"] {
            Engine::emit_on(&db.pool, &cell(1), Event::new(value)).await.unwrap();
            eventually(SOON, async || db.count("eventbox_event").await == 2).await;
        }
        runtime.stop(STOP).await;
        let mut pages = pages.lock().unwrap().clone();
        // A wake-up may come twice, and then a page has no new event.
        pages.retain(|page| !page.is_empty());
        let last = pages.iter().rposition(|page| page == "go on").unwrap();
        assert_eq!(pages[last - 1], "a b", "{pages:?}");
    }
}
