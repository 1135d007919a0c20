//! Signs of life of loops.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The heartbeats of all loops.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heartbeats(Arc<Mutex<BTreeMap<String, Heart>>>);

#[derive(Debug)]
struct Heart {
    limit: Duration,
    /// Time of the last sign of life. `None` while the loop waits for work.
    since: Option<Instant>,
}

/// The handle by which one loop gives signs of life.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    name: String,
    hearts: Heartbeats,
}

impl Heartbeats {
    /// Adds a loop. It may be silent for three intervals, or for `grace` if that is longer.
    pub(crate) fn add(&self, name: impl Into<String>, interval: Duration, grace: Duration) -> Beat {
        let name = name.into();
        let limit = interval.saturating_mul(3).max(grace);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Heart { limit, since: None });
        Beat { name, hearts: self.clone() }
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |heart: &Heart| heart.since.map(|since| since.elapsed()).filter(|silent| *silent > heart.limit);
        hearts
            .iter()
            .filter_map(|(name, heart)| {
                late(heart).map(|silent| format!("loop {name} gave no sign of life for {} ms", silent.as_millis()))
            })
            .collect()
    }
}

impl Beat {
    fn set(&self, since: Option<Instant>) {
        if let Some(heart) = self.hearts.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.name) {
            heart.since = since;
        }
    }

    /// Gives a sign of life. From now on the next sign is due.
    pub(crate) fn beat(&self) {
        self.set(Some(Instant::now()));
    }

    /// Gives a sign of life and marks the loop as at work until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.beat();
        Busy(self)
    }
}

/// The guard of a loop at work, from [`Beat::busy`].
pub(crate) struct Busy<'a>(&'a Beat);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_is_a_problem_of_a_working_loop_after_three_intervals() {
        let hearts = Heartbeats::default();
        let (ticking, working) = (hearts.add("ticking", SECOND, SECOND), hearts.add("working", SECOND, 10 * SECOND));
        tokio::time::advance(100 * SECOND).await;
        assert_eq!(hearts.problems(), [""; 0], "no loop has begun");
        ticking.beat();
        let busy = working.busy();
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(hearts.problems(), [""; 0]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(hearts.problems(), ["loop ticking gave no sign of life for 3001 ms"]);
        tokio::time::advance(7 * SECOND).await;
        assert_eq!(hearts.problems().len(), 2, "the grace is longer than three intervals");
        drop(busy);
        ticking.beat();
        assert_eq!(hearts.problems(), [""; 0]);
        tokio::time::advance(100 * SECOND).await;
        assert_eq!(hearts.problems().len(), 1, "a loop that waits for work is not at work");
        drop(ticking);
        assert_eq!(hearts.problems(), [""; 0], "a loop that has ended is no loop that hangs");
    }
}
