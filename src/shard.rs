//! Shards: fixed slices of the recipients, sets of them, and the bounds of their labels and zones.
#![cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only wake-ups use it"))]

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Number of shards: fixed slices of the recipients, see [`Recipient::shard`](crate::Recipient::shard).
pub const SHARDS: u16 = 256;

/// Most labels of a shard or of a process.
pub const MAX_LABELS: usize = 64;

/// Largest number of bytes of the name of a label, of its value, and of the name of a zone.
pub const MAX_LABEL_BYTES: usize = 200;

/// Largest number of bytes of the endpoint of a process.
pub const MAX_ENDPOINT_BYTES: usize = 2_048;

/// Name of the label that every shard has: its number.
pub(crate) const LABEL_ID: &str = "id";

/// Returns what is wrong with labels.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("there are {} labels, over the limit of {MAX_LABELS}", labels.len()));
    }
    for (name, value) in labels {
        if name.is_empty() || name == LABEL_ID {
            return Err(format!("a label is named {name:?}: the name must not be empty or `{LABEL_ID}`"));
        }
        for text in [name, value] {
            check_text("a name or a value of a label", text)?;
        }
    }
    Ok(())
}

/// Returns what is wrong with the name of a zone.
pub(crate) fn check_zone(zone: &str) -> Result<(), String> {
    check_text("the zone", zone)
}

/// Returns what is wrong with the endpoint of a process.
pub(crate) fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if endpoint.len() > MAX_ENDPOINT_BYTES {
        return Err(format!("it has {} bytes, over the limit of {MAX_ENDPOINT_BYTES}", endpoint.len()));
    }
    match fluent_uri::Uri::parse(endpoint) {
        Ok(uri) if uri.authority().is_some_and(|authority| !authority.host().is_empty()) => Ok(()),
        Ok(_) => Err(format!("{endpoint:?} names no host: write it as https://host:port")),
        Err(error) => Err(format!("{endpoint:?} is no URI ({error}): write it as https://host:port")),
    }
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    match text {
        _ if text.len() > MAX_LABEL_BYTES => {
            Err(format!("{what} has {} bytes, over the limit of {MAX_LABEL_BYTES}", text.len()))
        }
        _ if text.contains('\0') => Err(format!("{what} contains a NUL character")),
        _ => Ok(()),
    }
}

/// A set of shards, 0 to 255.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardSet([u64; 4]);

impl ShardSet {
    pub(crate) const ALL: ShardSet = ShardSet([u64::MAX; 4]);

    pub(crate) fn insert(&mut self, shard: u8) {
        if let Some(word) = self.0.get_mut(usize::from(shard >> 6)) {
            *word |= 1 << (shard & 63);
        }
    }

    pub(crate) fn contains(self, shard: u8) -> bool {
        self.0.get(usize::from(shard >> 6)).is_some_and(|word| word & (1 << (shard & 63)) != 0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> + Clone {
        (0..=u8::MAX).filter(move |shard| self.contains(*shard))
    }

    pub(crate) fn and(self, other: ShardSet) -> ShardSet {
        ShardSet(std::array::from_fn(|at| self.word(at) & other.word(at)))
    }

    pub(crate) fn or(self, other: ShardSet) -> ShardSet {
        ShardSet(std::array::from_fn(|at| self.word(at) | other.word(at)))
    }

    /// Returns the shards that are not in the other set.
    pub(crate) fn without(self, other: ShardSet) -> ShardSet {
        ShardSet(std::array::from_fn(|at| self.word(at) & !other.word(at)))
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

/// Text form between processes: 64 hexadecimal digits, shard 0 in the last digit.
impl fmt::Display for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl FromStr for ShardSet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let word = |at: usize| text.get(16 * at..16 * (at + 1)).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match (word(0), word(1), word(2), word(3), text.len()) {
            (Some(a), Some(b), Some(c), Some(d), 64) => Ok(ShardSet([d, c, b, a])),
            _ => Err(()),
        }
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
    fn a_set_holds_its_members() {
        let set: ShardSet = [0, 63, 64, 255].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert_eq!((set.len(), ShardSet::ALL.len(), ShardSet::default().is_empty()), (4, 256, true));
        assert!(set.contains(64) && !set.contains(65));
        assert_eq!(set.without([0, 255].into_iter().collect()).iter().collect::<Vec<_>>(), [63, 64]);
    }

    #[test]
    fn labels_and_zones_have_bounds() {
        let labels = |name: &str, value: &str| check_labels(&[(name.to_owned(), value.to_owned())].into());
        assert_eq!(labels("team", ""), Ok(()));
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        for (name, value) in [("", "x"), ("id", "7"), ("a\0", ""), ("a", "\0"), (&long, ""), ("a", &long)] {
            assert!(labels(name, value).is_err(), "{name:?} {value:?}");
        }
        let many = (0..=MAX_LABELS).map(|n| (n.to_string(), String::new())).collect();
        assert!(check_labels(&many).is_err());
        assert!(check_zone("eu-1").is_ok() && check_zone(&long).is_err() && check_zone("\0").is_err());
    }

    #[test]
    fn an_endpoint_is_a_uri_with_a_host() {
        for right in ["http://a", "https://10.0.0.7:8443", "https://[::1]:1/shards", "grpc://a.b:1"] {
            assert_eq!(check_endpoint(right), Ok(()), "{right}");
        }
        let long = format!("http://{}", "a".repeat(MAX_ENDPOINT_BYTES));
        for wrong in ["", "a", "a:1", "//a", "/a", "http://", "http:///a", "http://a b", "http://a\0", &long] {
            assert!(check_endpoint(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_set_travels_as_text() {
        let set: ShardSet = [0, 7, 100, 255].into_iter().collect();
        assert_eq!((set.to_string().len(), set.to_string().parse()), (64, Ok(set)));
        for wrong in ["", "8", &"f".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<ShardSet>(), Err(()));
        }
    }
}
