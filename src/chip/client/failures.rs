//! Logs the failures at a destination: one line a minute for each code, with counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time between two lines about failures of one code.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Most characters of a server's text in a line.
const MAX_TEXT: usize = 200;

/// Subject of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Requests,
    Events,
}

/// The failures of a destination. There is one entry for each code, and codes are few.
#[derive(Debug)]
pub(crate) struct Failures {
    destination: String,
    counts: Mutex<BTreeMap<(About, Cow<'static, str>), Count>>,
    waiting: Notify,
}

#[derive(Debug, Default)]
struct Count {
    logged_at: Option<Instant>,
    requests: u64,
    events: u64,
    text: String,
}

impl Failures {
    pub(crate) fn new(destination: String) -> Self {
        Failures { destination, counts: Mutex::default(), waiting: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(About, Cow<'static, str>), Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failed request with this number of events.
    pub(crate) fn request(&self, code: Cow<'static, str>, events: usize, text: &str) {
        self.count(About::Requests, code, 1, events, text);
    }

    /// Counts refused events of a request that the server took.
    pub(crate) fn events(&self, code: Cow<'static, str>, events: usize, text: &str) {
        self.count(About::Events, code, 0, events, text);
    }

    fn count(&self, about: About, code: Cow<'static, str>, requests: u64, events: usize, text: &str) {
        let (mut counts, name) = (self.lock(), code.clone());
        let count = counts.entry((about, code)).or_default();
        count.requests += requests;
        count.events += u64::try_from(events).unwrap_or(u64::MAX);
        count.text = text.chars().take(MAX_TEXT).collect();
        if count.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.log(about, &name, count);
        } else {
            self.waiting.notify_one();
        }
    }

    fn log(&self, about: About, code: &str, count: &mut Count) {
        let (destination, events, text) = (self.destination.as_str(), count.events, count.text.as_str());
        match about {
            About::Requests => {
                let requests = count.requests;
                tracing::warn!(destination, code, requests, events, error = text, "requests to the destination failed");
            }
            About::Events => {
                tracing::warn!(destination, code, events, error = text, "the destination refused events");
            }
        }
        *count = Count { logged_at: Some(Instant::now()), ..Count::default() };
    }

    /// Logs the counts since the last lines.
    pub(crate) fn log_the_rest(&self) {
        for ((about, code), count) in self.lock().iter_mut().filter(|(_, count)| count.events > 0 || count.requests > 0)
        {
            self.log(*about, code, count);
        }
    }

    /// Logs remaining counts after [`LOG_INTERVAL`], until the client stops.
    pub(crate) async fn run(&self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.waiting.notified() => {}
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOG_INTERVAL) => self.log_the_rest(),
            }
        }
    }
}
