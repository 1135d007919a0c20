//! Numbers, times and sizes for people.

use std::time::{Duration, SystemTime};

use crate::clock;

/// Returns a number with commas between its thousands.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number with its noun, such as `1 event` or `3 events`.
pub(crate) fn counted(many: u64, noun: &str) -> String {
    let ending = if many == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", number(many))
}

/// Returns a duration in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    for (seconds, unit) in UNITS {
        let whole = left / seconds;
        left %= seconds;
        if whole > 0 || (parts.is_empty() && seconds == 1) {
            parts.push(format!("{whole} {unit}"));
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

/// Returns seconds as a duration. What is no duration is 0.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Returns a time as seen from now: `3 min ago`, or `in 5 s`.
pub(crate) fn from_now(at: SystemTime) -> String {
    let now = clock::now();
    match now.duration_since(at) {
        Ok(since) => format!("{} ago", duration(since)),
        Err(ahead) => format!("in {}", duration(ahead.duration())),
    }
}

/// Returns the time since a moment, which is 0 when the moment is ahead.
pub(crate) fn age(at: SystemTime) -> Duration {
    clock::now().duration_since(at).unwrap_or_default()
}

/// Returns a number of bytes, from 1,024 on in KiB or MiB.
pub(crate) fn bytes(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let in_tenths = |unit: u64, name: &str| {
        let tenths = bytes.saturating_mul(10) / unit;
        format!("{}.{} {name}", number(tenths / 10), tenths % 10)
    };
    match bytes {
        1 => "1 byte".to_owned(),
        MIB.. => in_tenths(MIB, "MiB"),
        KIB.. => in_tenths(KIB, "KiB"),
        _ => format!("{bytes} bytes"),
    }
}

/// Largest number of bytes of a payload that a page shows.
pub(crate) const MAX_SHOWN_BYTES: usize = 64 << 10;

/// A payload as a page shows it.
pub(crate) struct Shown {
    /// Form in which it is shown.
    pub(crate) form: &'static str,
    /// The payload in that form, cut to the limit.
    pub(crate) text: String,
    /// Whether the end is missing.
    pub(crate) is_cut: bool,
}

/// Returns a payload as indented JSON, as text, or as hexadecimal digits.
pub(crate) fn payload(value: &[u8]) -> Shown {
    if value.len() <= MAX_SHOWN_BYTES
        && let Ok(json) = serde_json::from_slice::<serde_json::Value>(value)
        && let Ok(text) = serde_json::to_string_pretty(&json)
    {
        return Shown { form: "JSON", text, is_cut: false };
    }
    let is_cut = value.len() > MAX_SHOWN_BYTES;
    let start = value.get(..MAX_SHOWN_BYTES).unwrap_or(value);
    match std::str::from_utf8(value) {
        Ok(_) => Shown { form: "text", text: String::from_utf8_lossy(start).into_owned(), is_cut },
        Err(_) => Shown { form: "bytes in hexadecimal", text: hex(start), is_cut },
    }
}

/// Returns bytes in hexadecimal, 32 on a line.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        for (given, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(number(given), wanted);
        }
        assert_eq!((counted(1, "event"), counted(2_000, "event")), ("1 event".to_owned(), "2,000 events".to_owned()));
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        for (given, wanted) in [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_725, "1 h 2 min"), (86_401, "1 d")] {
            assert_eq!(duration(Duration::from_secs(given)), wanted);
        }
        assert_eq!(seconds(f64::NAN), Duration::ZERO);
    }

    #[test]
    fn sizes_have_a_unit() {
        for (given, wanted) in
            [(0, "0 bytes"), (1, "1 byte"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (3 << 20, "3.0 MiB")]
        {
            assert_eq!(bytes(given), wanted);
        }
    }

    #[test]
    fn payloads_are_shown_by_their_form() {
        assert_eq!(payload(br#"{"a":1}"#).text, "{\n  \"a\": 1\n}");
        assert_eq!((payload(b"a pencil").form, payload(b"a pencil").text.as_str()), ("text", "a pencil"));
        assert_eq!(payload(&[0xff, 0]).text, "ff 00");
        let long = vec![b'x'; MAX_SHOWN_BYTES + 1];
        assert!(payload(&long).is_cut && payload(&long).text.len() == MAX_SHOWN_BYTES);
    }
}
