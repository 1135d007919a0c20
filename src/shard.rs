//! Sets of shards.
#![cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only hints use it"))]

/// A set of shards, 0 to 255.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShardSet([u64; 4]);

impl ShardSet {
    pub(crate) const ALL: ShardSet = ShardSet([u64::MAX; 4]);

    pub(crate) fn from_words(words: [u64; 4]) -> Self {
        ShardSet(words)
    }

    pub(crate) fn insert(&mut self, shard: u8) {
        if let Some(word) = self.0.get_mut(usize::from(shard >> 6)) {
            *word |= 1 << (shard & 63);
        }
    }

    pub(crate) fn contains(self, shard: u8) -> bool {
        self.0.get(usize::from(shard >> 6)).is_some_and(|word| word & (1 << (shard & 63)) != 0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |shard| self.contains(*shard))
    }

    pub(crate) fn and(self, other: ShardSet) -> ShardSet {
        ShardSet(std::array::from_fn(|at| self.word(at) & other.word(at)))
    }

    pub(crate) fn remove(&mut self, shard: u8) {
        if let Some(word) = self.0.get_mut(usize::from(shard >> 6)) {
            *word &= !(1 << (shard & 63));
        }
    }

    fn word(self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(crate) fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == [0; 4]
    }
}

impl FromIterator<u8> for ShardSet {
    fn from_iter<I: IntoIterator<Item = u8>>(shards: I) -> Self {
        let mut set = ShardSet::default();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: ShardSet = [0, 63, 64, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert_eq!((set.len(), ShardSet::ALL.len(), ShardSet::default().is_empty()), (4, 256, true));
        assert!(set.contains(64) && !set.contains(65));
    }
}
