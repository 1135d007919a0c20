//! Sequence numbers, which show gaps and reorderings to a consumer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::cloudevent::CloudEvent;

/// Most pairs of source and type that are counted at once. With more, all begin again at 1 under a new epoch.
pub const MAX_SEQUENCES: usize = 10_000;

/// Counts events for each pair of source and type from 1, as `seqnum`, within an epoch, `seqepoch`.
///
/// Every event on its way to the wire is stamped here. An event that is dropped after its stamp leaves a gap, by
/// design. A new epoch means that the count began again: the process restarted, or the bound was reached.
#[derive(Debug)]
pub(crate) struct Sequences(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    epoch: String,
    next: HashMap<String, HashMap<String, u64>>,
    pairs: usize,
}

impl Sequences {
    pub(crate) fn new() -> Self {
        Sequences(Mutex::new(Counted::new()))
    }

    /// Stamps the next number of its pair on an event.
    pub(crate) fn stamp(&self, event: &mut CloudEvent) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = counted.count(event.source(), event.event_type());
        let epoch = counted.epoch.clone();
        drop(counted);
        event.stamp("seqnum", number.to_string());
        event.stamp("seqepoch", epoch);
    }

    /// Begins again at 1, under a new epoch.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Counted::new();
    }
}

impl Counted {
    fn new() -> Self {
        Counted { epoch: Uuid::new_v4().simple().to_string(), next: HashMap::new(), pairs: 0 }
    }

    fn count(&mut self, source: &str, event_type: &str) -> u64 {
        if let Some(number) = self.next.get_mut(source).and_then(|types| types.get_mut(event_type)) {
            *number += 1;
            return *number;
        }
        if self.pairs == MAX_SEQUENCES {
            *self = Counted::new();
        }
        self.pairs += 1;
        self.next.entry(source.to_owned()).or_default().insert(event_type.to_owned(), 1);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(sequences: &Sequences, source: &str, event_type: &str) -> (String, String) {
        let mut event = CloudEvent::builder(source, event_type).build().unwrap();
        sequences.stamp(&mut event);
        let text = |name| match event.extension(name) {
            Some(crate::cloudevent::ExtensionValue::String(text)) => text,
            other => panic!("{other:?}"),
        };
        (text("seqnum"), text("seqepoch"))
    }

    #[test]
    fn a_stop_clears_the_counters() {
        let sequences = Sequences::new();
        let before = number(&sequences, "flights", "departed");
        sequences.clear();
        let after = number(&sequences, "flights", "departed");
        assert_eq!((before.0.as_str(), after.0.as_str()), ("1", "1"));
        assert_ne!(before.1, after.1);
    }

    #[test]
    fn the_counters_are_bounded_and_begin_again_under_a_new_epoch() {
        let sequences = Sequences::new();
        let (_, first) = number(&sequences, "flights", "0");
        for pair in 1..MAX_SEQUENCES {
            assert_eq!(number(&sequences, "flights", &pair.to_string()).1, first);
        }
        assert_eq!(number(&sequences, "flights", "0"), ("2".to_owned(), first.clone()));
        let (again, second) = number(&sequences, "flights", "one too many");
        assert_eq!(again, "1");
        assert_ne!(first, second);
        assert_eq!(number(&sequences, "flights", "0"), ("1".to_owned(), second));
    }
}
