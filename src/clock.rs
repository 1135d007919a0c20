//! The clock of the process. Tests may move it.

use std::time::SystemTime;

use uuid::Uuid;

#[cfg(feature = "testing")]
pub use moved::Clock;

/// Returns the time of the process, or of the test's clock.
pub(crate) fn now() -> SystemTime {
    moved().unwrap_or_else(SystemTime::now)
}

/// Returns the time that a test has set.
pub(crate) fn moved() -> Option<SystemTime> {
    #[cfg(feature = "testing")]
    if let Ok(now) = moved::CURRENT.try_with(Clock::now) {
        return Some(now);
    }
    None
}

/// Longest wait; a longer one is cut to it.
pub(crate) const LONGEST: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 24 * 3600);

/// Returns the end of a wait that begins now, on the clock of `tokio`.
pub(crate) fn from_now(wait: std::time::Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + wait.min(LONGEST)
}

/// Returns a duration in microseconds, as the statements take it; at most `i64::MAX`.
pub(crate) fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns a UUIDv7 of now, greater than all earlier ones of this process, also when its clock goes backwards.
pub(crate) fn new_id() -> Uuid {
    noted(next_id())
}

/// Returns a UUIDv7 that ends with a mark, and is greater than `after` whatever the clock of this process shows.
///
/// All but the last 32 bits are those of [`new_id`], with a counter that begins at random: so ids of equal marks are
/// unique.
pub(crate) fn new_marked_id(after: Uuid, mark: u32) -> Uuid {
    noted(marked(next_id(), after, mark))
}

fn next_id() -> Uuid {
    #[cfg(feature = "testing")]
    if let Ok(id) = moved::CURRENT.try_with(Clock::new_id) {
        return id;
    }
    Uuid::now_v7()
}

/// Number of bits of a UUIDv7 behind its milliseconds.
const BITS_BEHIND_TIME: u32 = 80;

fn marked(id: Uuid, after: Uuid, mark: u32) -> Uuid {
    let bits = id.as_u128() & !u128::from(u32::MAX) | u128::from(mark);
    if bits > after.as_u128() {
        return Uuid::from_u128(bits);
    }
    // The clock that made `after` is ahead of this one.
    let next_time = (after.as_u128() >> BITS_BEHIND_TIME).saturating_add(1) << BITS_BEHIND_TIME;
    Uuid::from_u128(next_time | bits & !(u128::MAX << BITS_BEHIND_TIME))
}

/// Lets a rehearsal note an id that was made.
pub(crate) fn noted(id: Uuid) -> Uuid {
    #[cfg(feature = "testing")]
    noting::note(id);
    id
}

#[cfg(feature = "testing")]
pub(crate) use noting::noting;

/// The ids that the code of a rehearsal made, to tell its rows from those of concurrent writers.
#[cfg(feature = "testing")]
mod noting {
    use std::collections::HashSet;
    use std::sync::{Arc, Mutex, PoisonError};

    use uuid::Uuid;

    tokio::task_local! {
        static NOTES: Arc<Mutex<HashSet<Uuid>>>;
    }

    /// Runs a future, and notes in `notes` the ids that it makes.
    pub(crate) async fn noting<F: Future>(notes: Arc<Mutex<HashSet<Uuid>>>, future: F) -> F::Output {
        NOTES.scope(notes, future).await
    }

    pub(super) fn note(id: Uuid) {
        let _ = NOTES.try_with(|notes| notes.lock().unwrap_or_else(PoisonError::into_inner).insert(id));
    }
}

#[cfg(feature = "testing")]
mod moved {
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::{Duration, SystemTime};

    use uuid::{ContextV7, Timestamp, Uuid};

    tokio::task_local! {
        pub(super) static CURRENT: Clock;
    }

    /// A clock that stands still until it is moved. The ids of events, which contain the time of their emit, and the
    /// recorded time of messages follow it.
    ///
    /// It holds for the future that is given to [`scope`](Clock::scope), and not for tasks that this future spawns.
    /// Polls, back-offs and deadlines follow the clock of `tokio`, which `tokio::time::pause` stops. Claims of the
    /// outbox and tombstones follow the clock of the database, because processes must agree on them.
    ///
    /// Clones are the same clock.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let options = eventbox::sqlite_options(":memory:");
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use std::time::{Duration, SystemTime};
    /// use eventbox::testing::{self, Clock};
    /// use eventbox::{Event, Recipient};
    ///
    /// let new_year = SystemTime::UNIX_EPOCH + Duration::from_secs(1_356_998_400);
    /// let clock = Clock::at(new_year);
    /// let airport = Recipient::new("airport", "JFK")?;
    /// clock.scope(async {
    ///     eventbox::emit(&pool, &airport, Event::new("departed")).await?;
    ///     clock.advance(Duration::from_secs(60));
    ///     eventbox::emit(&pool, &airport, Event::new("landed")).await
    /// }).await?;
    /// let events = testing::events_of(&pool, &airport).await?;
    /// let emitted: Vec<_> = events.iter().map(|event| event.id().emitted_at()).collect();
    /// assert_eq!(emitted, [new_year, new_year + Duration::from_secs(60)]);
    /// # Ok(()) }
    /// ```
    #[derive(Clone)]
    pub struct Clock(Arc<Inner>);

    struct Inner {
        now: Mutex<SystemTime>,
        /// Its own, so that ids of a moved clock and of the real one do not push each other forward.
        ids: Mutex<ContextV7>,
    }

    impl Clock {
        /// Makes a clock that shows a time.
        #[must_use]
        pub fn at(now: SystemTime) -> Self {
            Clock(Arc::new(Inner { now: Mutex::new(now), ids: Mutex::new(ContextV7::new()) }))
        }

        /// Returns the time that the clock shows.
        #[must_use]
        pub fn now(&self) -> SystemTime {
            *self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Moves the clock forward.
        pub fn advance(&self, by: Duration) {
            let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
            *now = now.checked_add(by).unwrap_or(*now);
        }

        /// Sets the clock, also backwards.
        pub fn set(&self, now: SystemTime) {
            *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }

        /// Runs a future by this clock.
        pub async fn scope<F: Future>(&self, future: F) -> F::Output {
            CURRENT.scope(self.clone(), future).await
        }

        pub(super) fn new_id(&self) -> Uuid {
            let since = self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Uuid::new_v7(Timestamp::from_unix(&self.0.ids, since.as_secs(), since.subsec_nanos()))
        }
    }

    impl std::fmt::Debug for Clock {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_tuple("Clock").field(&self.now()).finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MARK: u32 = 0xdead_0007;

    #[test]
    fn marked_ids_are_unique_and_grow() {
        let ids: Vec<Uuid> = (0..20_000).map(|_| new_marked_id(Uuid::nil(), MARK)).collect();
        assert!(ids.is_sorted() && ids.iter().collect::<BTreeSet<_>>().len() == ids.len());
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.as_bytes().ends_with(&MARK.to_be_bytes())));
    }

    #[test]
    fn a_marked_id_is_greater_than_an_id_of_a_clock_that_is_ahead() {
        let now = next_id();
        for ahead_ms in [0_u128, 1, 3_600_000] {
            let after = Uuid::from_u128((now.as_u128() + (ahead_ms << BITS_BEHIND_TIME)) | u128::from(u32::MAX));
            let id = marked(now, after, MARK);
            assert!(id > after && id.get_version_num() == 7, "{id} {after}");
            assert!(id.as_bytes().ends_with(&MARK.to_be_bytes()));
        }
    }
}
