//! Times, sizes and foreign texts for people.

use std::time::{Duration, SystemTime};

use eventbox::Origin;
use eventbox::admin::{OpenBreaker, PausedDestination};
use indicatif::{HumanBytes, HumanCount};

/// Stands for a value that does not exist.
pub(crate) const NONE: &str = "–";

/// Formats a time relative to now: `3 min ago`, `in 12 s`.
pub(crate) fn relative(at: SystemTime) -> String {
    relative_to(at, SystemTime::now())
}

fn relative_to(at: SystemTime, now: SystemTime) -> String {
    match now.duration_since(at) {
        Ok(past) => format!("{} ago", span(past)),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

/// Formats a time relative to now, if there is one.
pub(crate) fn relative_or_none(at: Option<SystemTime>) -> String {
    at.map_or_else(|| NONE.to_owned(), relative)
}

/// Says which destination is paused, since when, by whom and why.
pub(crate) fn paused_line(paused: &PausedDestination) -> String {
    let why = paused.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    let text = format!("Paused: {}, {} by {}{why}", paused.destination, relative(paused.paused_at), paused.who);
    plain(&text)
}

/// Says which endpoint a process does not send to, and why.
pub(crate) fn breaker_words(breaker: &OpenBreaker) -> String {
    let state = if breaker.is_half_open { "probes" } else { "sends nothing to" };
    let error = breaker.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{state} {}, its breaker is open for {}{error}", breaker.endpoint, span(breaker.open_for))
}

/// Formats a duration, rounded to its largest unit of which it has two: `350 ms`, `1.8 s`, `90 s`, `3 min`, `60 h`.
pub(crate) fn span(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = time.as_secs();
    let rounded = |unit: u64| (seconds + unit / 2) / unit;
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", rounded(MINUTE)),
        7_200..172_800 => format!("{} h", rounded(HOUR)),
        _ => format!("{} d", rounded(DAY)),
    }
}

/// Formats a number of bytes: `34 B`, `1.20 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// Formats where an event came from outside, if it did: `chat:room-1:7`.
pub(crate) fn origin(origin: Option<&Origin>) -> String {
    origin.map_or_else(|| NONE.to_owned(), Origin::to_string)
}

/// Formats a number with its noun: `1 event`, `1,200 events`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", HumanCount(number), if number == 1 { one } else { many })
}

/// Returns a foreign text on one line, unable to control the terminal.
pub(crate) fn plain(text: &str) -> String {
    escaped(text, &[], |c| c.escape_default().to_string())
}

/// Returns a foreign text that keeps its lines, unable to control the terminal otherwise.
pub(crate) fn plain_lines(text: &str) -> String {
    escaped(text, &['\n', '\t'], |c| c.escape_default().to_string())
}

/// Returns bytes as a text on one line: UTF-8 as it is, other bytes in hexadecimal digits after `0x`.
pub(crate) fn value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => plain(text),
        Err(_) => bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Escapes control characters, and characters that change the direction or the lines of a text, except the kept ones.
pub(super) fn escaped(text: &str, kept: &[char], escape: impl Fn(char) -> String) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let moves = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match (c.is_control() || moves) && !kept.contains(&c) {
            true => safe.push_str(&escape(c)),
            false => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000_000);
        let shown = |ago| relative_to(now - Duration::from_millis(ago), now);
        assert_eq!([350, 1_800, 12_000, 200_000].map(shown), ["350 ms ago", "1.8 s ago", "12 s ago", "3 min ago"]);
        assert_eq!(relative_to(now + Duration::from_secs(8_000), now), "in 2 h");
        assert_eq!(relative_to(now + Duration::from_millis(259_199_900), now), "in 3 d");
    }

    #[test]
    fn foreign_texts_control_nothing() {
        assert_eq!(plain("a\u{1b}[2J\n\u{9b}\u{202e}é\"'"), "a\\u{1b}[2J\\n\\u{9b}\\u{202e}é\"'");
        assert_eq!(plain_lines("{\n\t1\r}"), "{\n\t1\\r}");
        assert_eq!((value(b"x"), value(&[0xff, 0])), ("x".to_owned(), "0xff00".to_owned()));
    }

    #[test]
    fn numbers_have_nouns() {
        assert_eq!(counted(1, "event", "events"), "1 event");
        assert_eq!(counted(1_200, "event", "events"), "1,200 events");
    }
}
