//! What is nobody's fault: told by health while it lasts, and by one line of the log a minute.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::working::tasks::Chain;

/// How long health tells of a complaint that is not repeated.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// How often the log tells of one that goes on.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// The most complaints that are remembered.
const MAX_TOPICS: usize = 1_000;

/// What is wrong at present, by topic.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<String, Complaint>>);

#[derive(Debug)]
struct Complaint {
    since: Instant,
    shown_until: Instant,
    logged: Instant,
    /// How often it was raised since the log told of it.
    unlogged: u64,
    count: u64,
    cause: String,
}

impl Complaints {
    /// Something failed, and is tried again after `pause`. True when the log told of it now.
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
            tracing::warn!(topic, times, error, "failing through nobody's fault: trying again");
            (complaint.logged, complaint.unlogged) = (now, 0);
        }
        is_told
    }

    /// One text for each complaint that goes on.
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
