//! Failures that no event is to blame for: health lists them while they last, and the log names each once a minute.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::text::Chain;

/// Time for which health lists a complaint that is not repeated.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// Time between two lines of the log about one complaint.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// Most complaints that are remembered.
const MAX_TOPICS: usize = 1_000;

/// The current complaints, by topic.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<String, Complaint>>);

#[derive(Debug)]
struct Complaint {
    since: Instant,
    shown_until: Instant,
    logged: Instant,
    /// Number of repetitions since the last line of the log.
    unlogged: u64,
    count: u64,
    cause: String,
}

impl Complaints {
    /// Notes a failure that is retried after `pause`. Returns whether the log named it now.
    pub(crate) fn raise(&self, topic: &str, error: &dyn Error, pause: Duration) -> bool {
        let (now, cause) = (Instant::now(), Chain(error).to_string());
        let mut topics = self.topics();
        if topics.len() >= MAX_TOPICS {
            topics.retain(|_, complaint| complaint.shown_until > now);
        }
        let is_new = !topics.contains_key(topic);
        let complaint = topics.entry(topic.to_owned()).or_insert_with(|| Complaint {
            since: now,
            shown_until: now,
            logged: now,
            unlogged: 0,
            count: 0,
            cause: String::new(),
        });
        if complaint.shown_until < now {
            (complaint.since, complaint.count) = (now, 0);
        }
        complaint.shown_until = complaint.shown_until.max(now + pause + SHOWN_FOR);
        (complaint.count, complaint.unlogged) = (complaint.count + 1, complaint.unlogged + 1);
        complaint.cause = cause;
        let is_told = is_new || now.duration_since(complaint.logged) >= LOGGED_EVERY;
        if is_told {
            let (times, error) = (complaint.unlogged, &complaint.cause);
            tracing::warn!(topic, times, error, "a failure that no event is to blame for: trying again");
            (complaint.logged, complaint.unlogged) = (now, 0);
        }
        is_told
    }

    /// Returns one text for each current complaint.
    pub(crate) fn problems(&self) -> Vec<String> {
        let now = Instant::now();
        let topics = self.topics();
        let shown = topics.iter().filter(|(_, complaint)| complaint.shown_until > now);
        shown
            .map(|(topic, complaint)| {
                let (seconds, count) = (now.duration_since(complaint.since).as_secs(), complaint.count);
                format!("{topic}: failed {count} times within {seconds} s: {}", complaint.cause)
            })
            .collect()
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Complaint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_complaint_is_logged_once_a_minute_and_shown_while_it_goes_on() {
        let complaints = Complaints::default();
        let raise = || complaints.raise("the database", &std::fmt::Error, Duration::from_secs(1));
        assert!(raise());
        let mut told = 0;
        for _ in 0..120 {
            tokio::time::advance(Duration::from_secs(1)).await;
            told += usize::from(raise());
        }
        assert_eq!(told, 2);
        let shown = complaints.problems();
        assert!(shown[0].starts_with("the database: failed 121 times within 120 s: "), "{shown:?}");
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(complaints.problems(), [""; 0]);
    }
}
