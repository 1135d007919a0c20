//! The recipients that turns are working on, for operators: which process has been busy with which recipient for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::micros;
use crate::recipient::Recipient;
use crate::store::BusyTurn;

/// Time after which a turn is long.
const LONG: Duration = Duration::from_secs(1);

/// Number of recipients that a process reports.
const MAX_REPORTED: usize = 10;

/// The turns in flight, by a number of their own.
#[derive(Debug, Default)]
pub(crate) struct AtWork(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    since: HashMap<u64, (Recipient, Instant)>,
}

/// A turn in flight. Dropped it has ended.
pub(crate) struct TurnInFlight {
    at_work: Arc<AtWork>,
    number: u64,
}

impl AtWork {
    /// Notes that a turn begins.
    pub(crate) fn begin(self: &Arc<Self>, to: &Recipient) -> TurnInFlight {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = turns.next;
        turns.next += 1;
        turns.since.insert(number, (to.clone(), Instant::now()));
        TurnInFlight { at_work: Arc::clone(self), number }
    }

    /// Returns the turns that take long, the longest first.
    pub(crate) fn long_ones(&self, now: Instant) -> Vec<BusyTurn> {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |since: Instant| now.saturating_duration_since(since);
        let mut long: Vec<_> = turns.since.values().filter(|(_, since)| age(*since) >= LONG).collect();
        long.sort_by_key(|(_, since)| *since);
        let busy =
            |(to, since): &(Recipient, Instant)| BusyTurn { recipient: to.to_string(), age_us: micros(age(*since)) };
        long.into_iter().take(MAX_REPORTED).map(busy).collect()
    }
}

impl Drop for TurnInFlight {
    fn drop(&mut self) {
        self.at_work.0.lock().unwrap_or_else(PoisonError::into_inner).since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_long_turns_in_flight_are_reported_and_the_longest_first() {
        let at_work = Arc::new(AtWork::default());
        let recipient = |key: &str| Recipient::new("order", key).unwrap();
        let reported = || {
            let busy = at_work.long_ones(Instant::now());
            busy.into_iter().map(|busy| (busy.recipient, busy.age_us)).collect::<Vec<_>>()
        };
        let turn = |key: &str, seconds: i64| (format!("order/{key}"), seconds * 1_000_000);
        let first = at_work.begin(&recipient("1"));
        tokio::time::advance(LONG).await;
        let _second = at_work.begin(&recipient("2"));
        assert_eq!(reported(), [turn("1", 1)]);
        tokio::time::advance(LONG * 2).await;
        assert_eq!(reported(), [turn("1", 3), turn("2", 2)]);
        drop(first);
        assert_eq!(reported(), [turn("2", 2)]);
    }
}
