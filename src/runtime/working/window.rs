//! Rounds of kinds that collect events for a time before they begin.
//!
//! A window opens with the first recipient that is ready. A round begins when the window has been open for the shortest
//! time and no other round of the kind runs. When the other round still runs after the longest time, or when the window
//! has as many recipients as a round takes, the round begins too: it lists and decides, and then it stalls until the
//! other has committed. At most two rounds of a kind run.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::lane::Lane;

/// Shortest and longest time for which the rounds of a kind collect events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Durations {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// The windows of the kinds that have durations.
#[derive(Debug, Default)]
pub(super) struct Windows(HashMap<Lane, Window>);

#[derive(Debug)]
struct Window {
    durations: Durations,
    /// When the first recipient became ready that is in no round yet.
    opened: Option<Instant>,
    running: usize,
    /// Says whether the round that began last has passed its hooks, and ends when that round ends.
    last: Option<watch::Receiver<bool>>,
}

/// The place of a round among the rounds of its kind.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    /// Whether the hooks of the round have begun. The drop lets the next round commit.
    begun: Option<watch::Sender<bool>>,
    /// Ends with the round before.
    before: Option<watch::Receiver<bool>>,
}

impl Turnstile {
    /// Waits until the hooks of the round before have begun. Else this round could take what the other one waits for,
    /// and then wait for the other one to commit.
    pub(super) async fn may_begin(&mut self) {
        if let Some(before) = &mut self.before {
            // The error is the drop.
            drop(before.wait_for(|has_begun| *has_begun).await);
        }
    }

    /// Lets the hooks of the next round begin.
    pub(super) fn has_begun(&self) {
        if let Some(begun) = &self.begun {
            begun.send_replace(true);
        }
    }

    /// Waits until the round before has ended.
    pub(super) async fn pass(&mut self) {
        if let Some(mut before) = self.before.take() {
            while before.changed().await.is_ok() {}
        }
    }
}

impl Windows {
    pub(super) fn new(durations: impl IntoIterator<Item = (Lane, Durations)>) -> Self {
        let closed = |durations| Window { durations, opened: None, running: 0, last: None };
        Windows(durations.into_iter().map(|(lane, durations)| (lane, closed(durations))).collect())
    }

    /// Returns whether a round of a lane may begin; `None` for a lane without durations.
    pub(super) fn may_begin(&mut self, lane: Lane, is_full: bool, now: Instant) -> Option<bool> {
        let window = self.0.get_mut(&lane)?;
        let age = now.duration_since(*window.opened.get_or_insert(now));
        Some(match window.running {
            0 => is_full || age >= window.durations.min,
            1 => is_full || age >= window.durations.max,
            _ => false,
        })
    }

    /// Closes the window of a lane, because its round begins.
    pub(super) fn begin(&mut self, lane: Lane) -> Turnstile {
        let Some(window) = self.0.get_mut(&lane) else { return Turnstile::default() };
        let (begun, last) = watch::channel(false);
        window.opened = None;
        window.running += 1;
        Turnstile { begun: Some(begun), before: window.last.replace(last) }
    }

    /// Notes that a round of a lane has ended.
    pub(super) fn ended(&mut self, lane: Lane) {
        if let Some(window) = self.0.get_mut(&lane) {
            window.running = window.running.saturating_sub(1);
        }
    }

    /// Closes the windows of lanes in which no recipient is ready any more.
    pub(super) fn close_empty(&mut self, is_empty: impl Fn(Lane) -> bool) {
        for (_, window) in self.0.iter_mut().filter(|(lane, _)| is_empty(**lane)) {
            window.opened = None;
        }
    }

    /// Returns when the next round may begin without another event.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = |window: &Window| match window.running {
            0 => Some(window.opened? + window.durations.min),
            1 => Some(window.opened? + window.durations.max),
            _ => None,
        };
        self.0.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane::Rounds(1);
    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(3);

    fn windows() -> Windows {
        Windows::new([(LANE, Durations { min: MIN, max: MAX })])
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_waits_for_the_shortest_time_from_its_first_recipient() {
        let (mut windows, began) = (windows(), Instant::now());
        assert_eq!(windows.next_due(), None, "nothing is ready");
        assert_eq!(windows.may_begin(LANE, false, began), Some(false));
        assert_eq!(windows.next_due(), Some(began + MIN));
        assert_eq!(windows.may_begin(LANE, false, began + MIN / 2), Some(false));
        assert_eq!(windows.may_begin(LANE, false, began + MIN), Some(true));
        drop(windows.begin(LANE));
        windows.ended(LANE);
        let next = began + MIN * 2;
        assert_eq!(windows.may_begin(LANE, false, next), Some(false), "the next one has a window of its own");
        assert_eq!(windows.next_due(), Some(next + MIN));
        assert_eq!(windows.may_begin(LANE, true, next), Some(true), "a full round waits for nothing");
        windows.close_empty(|lane| lane != LANE);
        assert_eq!(windows.next_due(), Some(next + MIN));
        windows.close_empty(|lane| lane == LANE);
        assert_eq!(windows.next_due(), None);
        assert_eq!(windows.may_begin(Lane::REDUCERS, false, next), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_waits_for_the_one_before_until_the_longest_time() {
        let (mut windows, began) = (windows(), Instant::now());
        windows.may_begin(LANE, false, began);
        let first = windows.begin(LANE);
        assert_eq!(windows.may_begin(LANE, false, began), Some(false));
        assert_eq!(windows.may_begin(LANE, false, began + MIN), Some(false), "the other one still runs");
        assert_eq!(windows.next_due(), Some(began + MAX));
        windows.ended(LANE);
        assert_eq!(windows.may_begin(LANE, false, began + MIN), Some(true), "it has ended");
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_begins_beside_another_stalls_until_that_one_has_ended() {
        let (mut windows, began) = (windows(), Instant::now());
        windows.may_begin(LANE, false, began);
        let mut first = windows.begin(LANE);
        windows.may_begin(LANE, false, began);
        assert_eq!(windows.may_begin(LANE, false, began + MAX), Some(true));
        let mut second = windows.begin(LANE);
        windows.may_begin(LANE, false, began + MAX);
        assert_eq!(windows.may_begin(LANE, true, began + MAX * 9), Some(false), "two of them run");
        assert_eq!(windows.next_due(), None);
        first.pass().await;
        let stalled = tokio::time::timeout(MAX, second.pass()).await;
        assert!(stalled.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_begin_in_the_order_of_their_rounds() {
        let mut windows = windows();
        let (mut first, mut second) = (windows.begin(LANE), windows.begin(LANE));
        first.may_begin().await;
        let early = tokio::time::timeout(MAX, second.may_begin()).await;
        assert!(early.is_err());
        first.has_begun();
        second.may_begin().await;
        let stalled = tokio::time::timeout(MAX, second.pass()).await;
        assert!(stalled.is_err(), "it begins beside the other, and commits behind it");
        drop(second);
        let mut third = windows.begin(LANE);
        third.may_begin().await;
        third.pass().await;
        Turnstile::default().may_begin().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_round_lets_the_next_one_commit() {
        let mut windows = windows();
        let (first, mut second) = (windows.begin(LANE), windows.begin(LANE));
        let waiting = tokio::spawn(async move { second.pass().await });
        tokio::time::advance(MAX).await;
        assert!(!waiting.is_finished());
        drop(first);
        tokio::time::timeout(MAX, waiting).await.unwrap().unwrap();
        Turnstile::default().pass().await;
    }
}
