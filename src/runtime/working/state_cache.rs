//! States of recipients as this process committed them, so that a round need not read them, and a turn of a processor
//! need not load them.
//!
//! The cache only saves time. The commit of a round compares tokens, and fails for a recipient whose token is another
//! than the cached one. A turn of a processor reads turn and token with the events, and loads when they are others.
//! Under a long snapshot a state that is written often is slow to read, because the engine keeps all its versions.

use std::collections::HashMap;

use crate::eventbox::{KeptState, KnownState};
use crate::recipient::Recipient;

/// Bytes of an entry besides its recipient and its state.
const ENTRY_BYTES: usize = 200;

/// State of a recipient.
#[derive(Debug)]
pub(crate) enum Entry {
    OfReducer(KnownState),
    OfProcessor(KeptState),
}

impl Entry {
    pub(super) fn of_reducer(self) -> Option<KnownState> {
        match self {
            Entry::OfReducer(known) => Some(known),
            Entry::OfProcessor(_) => None,
        }
    }

    pub(super) fn of_processor(self) -> Option<KeptState> {
        match self {
            Entry::OfProcessor(state) => Some(state),
            Entry::OfReducer(_) => None,
        }
    }
}

/// A cache with a bound in bytes. At the bound it forgets all states; the states in use come back.
#[derive(Debug)]
pub(crate) struct StateCache {
    kept: HashMap<Recipient, Entry>,
    bytes: usize,
    max_bytes: usize,
}

impl StateCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        StateCache { kept: HashMap::new(), bytes: 0, max_bytes }
    }

    /// Returns the state for a round. The round has the state of a processor alone, so that code that fails or panics
    /// leaves none.
    pub(super) fn lend(&mut self, of: &Recipient) -> Option<Entry> {
        match self.kept.get(of)? {
            Entry::OfReducer(known) => Some(Entry::OfReducer(known.clone())),
            Entry::OfProcessor(_) => self.remove(of),
        }
    }

    /// Removes all that is kept of a recipient. Returns the state of a processor.
    pub(super) fn take(&mut self, of: &Recipient) -> Option<KeptState> {
        self.remove(of)?.of_processor()
    }

    /// Keeps a state.
    pub(crate) fn keep(&mut self, of: &Recipient, entry: Entry) {
        self.forget(of);
        let bytes = bytes_of(of, &entry);
        if bytes > self.max_bytes {
            return;
        }
        if self.bytes.saturating_add(bytes) > self.max_bytes {
            self.clear();
        }
        self.bytes += bytes;
        self.kept.insert(of.clone(), entry);
    }

    // Another process may have written the state.
    pub(crate) fn forget(&mut self, of: &Recipient) {
        drop(self.remove(of));
    }

    fn remove(&mut self, of: &Recipient) -> Option<Entry> {
        let entry = self.kept.remove(of)?;
        self.bytes -= bytes_of(of, &entry);
        Some(entry)
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

fn bytes_of(of: &Recipient, entry: &Entry) -> usize {
    let state = match entry {
        Entry::OfReducer(known) => known.state.as_ref().map_or(0, bytes::Bytes::len),
        // The user's number, so that it may be any.
        Entry::OfProcessor(state) => state.bytes(),
    };
    state.saturating_add(ENTRY_BYTES + of.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventbox::{AnyState, EVersion};

    fn to(key: usize) -> Recipient {
        Recipient::new("cell", key.to_string()).unwrap()
    }

    fn known(turn: i64, bytes: usize) -> Entry {
        Entry::OfReducer(KnownState { turn, token: uuid::Uuid::new_v4(), state: Some(vec![0; bytes].into()) })
    }

    fn loaded(bytes: usize) -> Entry {
        let token = uuid::Uuid::new_v4();
        Entry::OfProcessor(KeptState::new(|_| Some(bytes), 1, token, AnyState::new(()), EVersion(1)).unwrap())
    }

    /// Returns the turn of a reducer's state, as often as it is asked for.
    fn turn_of(states: &mut StateCache, of: &Recipient) -> Option<i64> {
        states.lend(of)?.of_reducer().map(|known| known.turn)
    }

    #[test]
    fn a_state_cache_stays_within_its_bytes() {
        let mut states = StateCache::new(10_000);
        for n in 0..1_000 {
            match n % 2 {
                0 => states.keep(&to(n), known(1, n % 900)),
                _ => states.keep(&to(n), loaded(n % 900)),
            }
            assert!(states.bytes <= 10_000);
            assert_eq!(states.bytes, states.kept.iter().map(|(of, entry)| bytes_of(of, entry)).sum::<usize>());
        }
        states.keep(&to(7), known(1, 20_000));
        assert!(states.lend(&to(7)).is_none(), "it alone would be too much");
        for bytes in [20_000, usize::MAX] {
            states.keep(&to(7), loaded(bytes));
            assert!(states.take(&to(7)).is_none(), "{bytes} alone would be too much");
        }
    }

    #[test]
    fn a_state_of_a_processor_is_taken_once() {
        let mut states = StateCache::new(10_000);
        for in_round in [false, true] {
            states.keep(&to(1), loaded(10));
            match in_round {
                true => assert!(matches!(states.lend(&to(1)), Some(Entry::OfProcessor(state)) if state.bytes() == 10)),
                false => assert_eq!(states.take(&to(1)).map(|state| state.bytes()), Some(10)),
            }
            assert!(states.lend(&to(1)).is_none() && states.take(&to(1)).is_none());
        }
        states.keep(&to(1), known(1, 10));
        assert!(states.take(&to(1)).is_none(), "it is no state of a processor");
        assert_eq!((states.bytes, states.kept.len()), (0, 0));
    }

    #[test]
    fn the_last_one_counts_until_it_is_forgotten() {
        let mut states = StateCache::new(10_000);
        states.keep(&to(1), known(1, 10));
        states.keep(&to(1), known(2, 20));
        assert_eq!((turn_of(&mut states, &to(1)), turn_of(&mut states, &to(1))), (Some(2), Some(2)));
        states.forget(&to(1));
        assert!(states.lend(&to(1)).is_none());
        assert_eq!(states.bytes, 0);
    }
}
