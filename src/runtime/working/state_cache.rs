//! StateCache of recipients as this process committed them, so that a round need not read them.
//!
//! The cache only saves time: the commit compares tokens, and fails for a recipient whose token is another than the
//! cached one. Under a long snapshot a state that is written often is slow to read, because the engine keeps all its
//! versions.

use std::collections::HashMap;

use crate::eventbox::KnownState;
use crate::recipient::Recipient;

/// Bytes of an entry besides its recipient and its state.
const ENTRY_BYTES: usize = 200;

/// A cache with a bound in bytes. At the bound it forgets all states; the states in use come back.
#[derive(Debug)]
pub(crate) struct StateCache {
    kept: HashMap<Recipient, KnownState>,
    bytes: usize,
    max_bytes: usize,
}

impl StateCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        StateCache { kept: HashMap::new(), bytes: 0, max_bytes }
    }

    pub(super) fn get(&self, of: &Recipient) -> Option<KnownState> {
        self.kept.get(of).cloned()
    }

    pub(crate) fn keep(&mut self, of: &Recipient, known: KnownState) {
        self.forget(of);
        let bytes = bytes_of(of, &known);
        if bytes > self.max_bytes {
            return;
        }
        if self.bytes + bytes > self.max_bytes {
            self.clear();
        }
        self.bytes += bytes;
        self.kept.insert(of.clone(), known);
    }

    // Another process may have written the state.
    pub(crate) fn forget(&mut self, of: &Recipient) {
        if let Some(known) = self.kept.remove(of) {
            self.bytes -= bytes_of(of, &known);
        }
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

fn bytes_of(of: &Recipient, known: &KnownState) -> usize {
    ENTRY_BYTES + of.as_str().len() + known.state.as_ref().map_or(0, bytes::Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(key: usize) -> Recipient {
        Recipient::new("cell", key.to_string()).unwrap()
    }

    fn known(turn: i64, bytes: usize) -> KnownState {
        KnownState { turn, token: uuid::Uuid::new_v4(), state: Some(vec![0; bytes].into()) }
    }

    #[test]
    fn a_state_cache_stays_within_its_bytes() {
        let mut states = StateCache::new(10_000);
        for n in 0..1_000 {
            states.keep(&to(n), known(1, n % 900));
            assert!(states.bytes <= 10_000);
            assert_eq!(states.bytes, states.kept.iter().map(|(of, known)| bytes_of(of, known)).sum::<usize>());
        }
        states.keep(&to(7), known(1, 20_000));
        assert!(states.get(&to(7)).is_none(), "it alone would be too much");
    }

    #[test]
    fn the_last_one_counts_until_it_is_forgotten() {
        let mut states = StateCache::new(10_000);
        states.keep(&to(1), known(1, 10));
        states.keep(&to(1), known(2, 20));
        assert_eq!(states.get(&to(1)).map(|known| known.turn), Some(2));
        states.forget(&to(1));
        assert!(states.get(&to(1)).is_none());
        assert_eq!(states.bytes, 0);
    }
}
