//! The events of all workloads.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Size of an event's value in bytes.
const VALUE_BYTES: usize = 200;

/// An event for a recipient. Most peers carry JSON, where the bytes are base64.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) to: String,
    /// Position in the order of sending.
    pub(crate) number: i64,
    #[serde(serialize_with = "encode", deserialize_with = "decode")]
    pub(crate) value: Vec<u8>,
}

fn encode<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(value))
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_ref()).map_err(serde::de::Error::custom)
}

impl Event {
    /// Creates an event with one of about a million values.
    pub(crate) fn new(to: &str, number: usize) -> Self {
        // Created once, so that this work is not measured.
        static RANDOM: LazyLock<Vec<u8>> =
            LazyLock::new(|| std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect());
        let from = fastrand::usize(..=RANDOM.len() - VALUE_BYTES);
        let value = RANDOM.get(from..from + VALUE_BYTES).unwrap_or_default().to_vec();
        Event { to: to.to_owned(), number: i64::try_from(number).unwrap_or(i64::MAX), value }
    }

    /// Writes the current time into the first bytes of the value.
    pub(crate) fn stamped(to: &str, number: usize) -> Self {
        let mut event = Event::new(to, number);
        event.value.splice(..8, now_us().to_be_bytes());
        event
    }

    /// Reads the time that [`Event::stamped`] wrote.
    pub(crate) fn sent_us(&self) -> u64 {
        self.value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

/// Returns the current time in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Creates `count` recipients.
pub(crate) fn recipients(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("order/{number}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_json() {
        let event = Event::stamped("order/7", 7);
        let json = serde_json::to_string(&event).unwrap();
        let read: Event = serde_json::from_str(&json).unwrap();
        assert_eq!((read.to, read.number, read.value.len()), ("order/7".to_owned(), 7, VALUE_BYTES));
        assert_eq!(read.value, event.value);
        assert!(now_us() - event.sent_us() < 60_000_000);
    }
}
