//! When the checkpoint moves.

use super::IDLE_WAL_BYTES;
use super::place::Place;
use crate::store::decoding::LogEnds;

/// What a read of the slot brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) has_events: bool,
    /// Whether the read reached the end of the log.
    pub(super) is_whole: bool,
    /// Place behind everything that was taken.
    pub(super) place: Option<Place>,
    /// Ends of the log, from before the read.
    pub(super) log: LogEnds,
}

/// Decides how far the checkpoint moves after each read.
///
/// A read without events moves it only behind [`IDLE_WAL_BYTES`] of the log. The move is a transaction. When its table
/// is in the same database, it comes as a transaction of its own: up to Postgres 14 as an empty one, and later when the
/// publication has the table. A move after each of them would never end.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// End of the log at an earlier read.
    mark: Option<u64>,
    /// End of the log of the last read without events.
    reached: Option<u64>,
}

impl Pace {
    /// Returns whether a read can bring something that the last one did not.
    pub(super) fn may_read(&self, log: LogEnds) -> bool {
        self.reached != Some(log.flushed)
    }

    /// Returns the place to which the checkpoint moves from `from`, if it moves.
    pub(super) fn after(&mut self, from: Option<Place>, seen: Seen) -> Option<Place> {
        self.reached = None;
        if seen.has_events || !seen.is_whole {
            return seen.place;
        }
        // The read reached at least `flushed`, and the mark is the boundary of a record. So no transaction that commits
        // before the mark is still to come. `flushed` itself may be in the middle of a record.
        let mark = *self.mark.get_or_insert(seen.log.end);
        let passed = (mark <= seen.log.flushed).then(|| Place::at(mark));
        if passed.is_some() {
            self.mark = None;
            self.reached = Some(seen.log.flushed);
        }
        let start = from.map_or(0, |place| place.lsn);
        let last = seen.place.into_iter().chain(passed).max_by_key(|place| place.lsn)?;
        (last.lsn.saturating_sub(start) >= IDLE_WAL_BYTES).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 10 * IDLE_WAL_BYTES;

    fn log(at: u64) -> LogEnds {
        LogEnds { flushed: at, end: at, session_id: 1 }
    }

    /// A read that brought transactions up to `at`, without events.
    fn ignored(at: u64) -> Seen {
        Seen { has_events: false, is_whole: true, place: Some(Place::at(at)), log: log(at) }
    }

    #[test]
    fn events_and_unfinished_reads_move_the_checkpoint() {
        let (from, seen) = (Some(Place::at(START)), ignored(START + 9));
        assert_eq!(Pace::default().after(from, Seen { has_events: true, ..seen }), seen.place);
        assert_eq!(Pace::default().after(from, Seen { is_whole: false, ..seen }), seen.place);
        assert_eq!(Pace::default().after(from, seen), None);
    }

    /// Each move is itself a transaction without events, as a server before Postgres 15 sends it.
    #[test]
    fn a_checkpoint_in_the_same_database_does_not_move_for_its_own_moves() {
        const MOVE: u64 = 300;
        let (mut pace, mut from, mut end, mut moves) = (Pace::default(), None, START, 0);
        for _ in 0..10_000 {
            if let Some(place) = pace.after(from, ignored(end)) {
                (from, moves) = (Some(place), moves + 1);
                end += MOVE;
            }
        }
        assert_eq!(moves, 1, "the first move, from no checkpoint at all");
        for _ in 0..10_000 {
            // Another program commits what is not wanted.
            end += MOVE;
            if let Some(place) = pace.after(from, ignored(end)) {
                (from, moves) = (Some(place), moves + 1);
                end += MOVE;
            }
        }
        assert!((2..=4).contains(&moves), "{moves} moves for 3 MB");
    }

    /// The log of other databases is given up also while the same unwanted transaction comes again and again.
    #[test]
    fn the_log_behind_the_last_transaction_is_passed() {
        let (mut pace, from) = (Pace::default(), Some(Place::at(START)));
        let far = START + 2 * IDLE_WAL_BYTES;
        let seen = |flushed, end| Seen { log: LogEnds { flushed, end, session_id: 1 }, ..ignored(START + 9) };
        assert_eq!(pace.after(from, seen(far - 5, far)), None, "its end is not on the disk");
        assert_eq!(pace.after(from, seen(far + 7, far + 70)), Some(Place::at(far)));
    }

    #[test]
    fn an_unchanged_log_is_not_read_again() {
        let mut pace = Pace::default();
        assert!(pace.may_read(log(START)));
        pace.after(Some(Place::at(START)), ignored(START));
        assert!(!pace.may_read(log(START)) && pace.may_read(log(START + 1)));
        pace.after(Some(Place::at(START)), Seen { has_events: true, ..ignored(START + 1) });
        assert!(pace.may_read(log(START + 1)), "more may be there");
    }
}
