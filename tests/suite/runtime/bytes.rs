//! Rounds and turns within their bounds in bytes: no event is lost or skipped, and no recipient waits for ever.

use std::num::{NonZeroU32, NonZeroUsize};

use eventbox::{
    BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, ReducerAsProcessor, TurnOptions, process_batch_with,
};

use super::{STOP, Tally, config, emit, emit_all, idle, seen, tally, tallying};
use crate::support::{SOON, eventually, on_every_engine};

/// Returns values of the given sizes in bytes, each with its number in front.
fn values(of: usize, sizes: &[usize]) -> Vec<String> {
    sizes.iter().enumerate().map(|(n, size)| format!("{of}.{n}.{}", "x".repeat(*size))).collect()
}

fn bytes(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes).unwrap()
}

/// Keeps a large state, and emits to another recipient for each event.
struct Heavy;

impl Reducer for Heavy {
    type State = (u64, String);

    fn reduce(&self, to: &Recipient, events: &[Event], state: (u64, String)) -> Result<Outcome<Self::State>, BoxError> {
        let count = state.0 + events.len() as u64;
        let told = events.iter().map(|event| (tally(to.key()), Event::new(event.value().to_vec())));
        let message = CloudEvent::builder("tests", "heavy").payload("y".repeat(500)).build()?;
        let next = (count, "s".repeat(2_000));
        Ok(Outcome::to(next).consuming(events).emitting(told.collect::<Vec<_>>()).publishing([message]))
    }
}

on_every_engine! {
    async fn rounds_take_what_fits_and_leave_the_rest_for_the_next(db) {
        // Small events, an event that fills a round, and an event that is larger than any round.
        let sizes = [[10, 10, 10], [900, 900, 10], [5_000, 10, 5_000], [0, 1_500, 0], [10, 10, 1_200]];
        let boxes: Vec<Vec<String>> = (0..40).map(|n| values(n, &sizes[n % sizes.len()])).collect();
        for (n, values) in boxes.iter().enumerate() {
            emit(db, &tally(n), values).await;
        }
        let mut config = config();
        (config.max_event_bytes, config.round_recipients) = (bytes(2_000), NonZeroUsize::new(20).unwrap());
        let runtime = tallying(db.pool.clone()).config(config).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        for (n, values) in boxes.iter().enumerate() {
            assert_eq!(&seen(db, &tally(n)).await, values, "{n}");
        }
    }

    async fn a_long_box_does_not_keep_its_neighbours_waiting(db) {
        let (long, short) = (values(0, &[400; 60]), values(1, &[1]));
        emit(db, &tally(0), &long).await;
        emit(db, &tally(1), &short).await;
        let mut config = config();
        config.max_event_bytes = bytes(1_000);
        let runtime = tallying(db.pool.clone()).config(config).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally(0)).await, long);
        assert_eq!(seen(db, &tally(1)).await, short);
    }

    /// States are bounded like events, and so are the writes of a round.
    async fn large_states_and_messages_go_in_slices(db) {
        let heavy = |n: usize| Recipient::new("heavy", n.to_string()).unwrap();
        let mut config = config();
        (config.max_event_bytes, config.state_cache_bytes) = (bytes(5_000), 0);
        let runtime = tallying(db.pool.clone()).reducer("heavy", Heavy).config(config).start().await.unwrap();
        for pass in 1..=3_u64 {
            let events: Vec<_> = (0..30).map(|n| (heavy(n), Event::new(pass.to_string()))).collect();
            emit_all(db, &events).await;
            idle(db).await;
            for n in 0..30 {
                let state = eventbox::state::<(u64, String)>(&db.pool, &heavy(n)).await.unwrap().unwrap();
                assert_eq!(state.state.unwrap().0, pass, "{n}");
            }
        }
        runtime.stop(STOP).await;
        assert_eq!(db.count("eventbox_outbox").await, 90);
        for n in 0..30 {
            eventually(SOON, async || seen(db, &tally(n)).await == ["1", "2", "3"]).await;
        }
    }

    async fn a_turn_takes_only_events_that_fit_into_its_bytes(db) {
        let (to, values) = (tally("turn"), values(0, &[100, 100, 5_000, 100, 0, 0]));
        emit(db, &to, &values).await;
        let options = TurnOptions::new(NonZeroU32::MAX).max_bytes(1_000);
        let mut consumed = Vec::new();
        loop {
            let turn = process_batch_with(&db.pool, &to, &ReducerAsProcessor::new(&Tally), &options).await.unwrap();
            consumed.push((turn.consumed, turn.more_remain));
            if !turn.more_remain {
                break;
            }
        }
        assert_eq!(consumed, [(2, true), (1, true), (3, false)]);
        assert_eq!(seen(db, &to).await, values);
    }
}
