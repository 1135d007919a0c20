//! Counts the events that wait, by kind.

use sqlx::Pool;

use super::event::EventId;
use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, answered, hold};

/// Number of events that one call of [`backlog`] counts at most, shared by its kinds.
pub const MAX_COUNTED_EVENTS: u32 = 100_000;

/// Number of events that [`backlog`] counts of each kind at least, however many kinds it is asked for.
const MIN_COUNTED_EVENTS: u32 = 10_000;

/// Number of pages of the table that an estimate reads on Postgres.
const SAMPLED_PAGES: u32 = 1_000;

/// Precision of a number, such as that of a [`KindBacklog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Precision {
    /// All events were counted.
    Exact,
    /// A sample of the table was scaled up (Postgres).
    Estimate,
    /// The count stopped at its bound: there are at least this many events.
    AtLeast,
}

/// The events of one kind that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindBacklog {
    /// The kind of the recipients.
    pub kind: String,
    /// Number of events in their eventboxes.
    pub events: u64,
    /// Precision of the number.
    pub precision: Precision,
    /// The oldest event; `None` without events. Beyond the bound of the count, the oldest of the counted events, so
    /// there may be an older one.
    pub oldest: Option<EventId>,
}

/// Counts the events of these kinds that wait in eventboxes, and finds the oldest of each kind.
///
/// Use it for a dashboard or an alert: it is cheap with any number of events. A [`Runtime`](crate::runtime::Runtime)
/// asks it every 10 s for its own kinds and sets the gauges `eventbox_size` and `eventbox_oldest_age_seconds`.
/// [`admin::backlog`](crate::admin::backlog) counts the eventbox of one recipient.
///
/// # What comes back
///
/// One entry for each kind, in the order given; 0 events for a kind without any. Timers that are not due, events in
/// quarantine and messages of the outbox do not count.
///
/// # Units and limits
///
/// The kinds share [`MAX_COUNTED_EVENTS`], at least 10,000 each. A kind with more events is [`Precision::Estimate`] on
/// Postgres, and [`Precision::AtLeast`] on SQLite.
///
/// # Errors
///
/// Misuse for a kind that no recipient can have; transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Precision, Recipient};
///
/// eventbox::emit(&pool, &Recipient::new("airport", "JFK")?, Event::new("departed")).await?;
/// let backlog = eventbox::backlog(&pool, &["airport", "aircraft"]).await?;
/// assert_eq!((backlog[0].events, backlog[0].precision), (1, Precision::Exact));
/// assert_eq!((backlog[1].events, backlog[1].oldest), (0, None));
/// # Ok(()) }
/// ```
pub async fn backlog<B: Backend>(pool: &Pool<B>, kinds: &[&str]) -> Result<Vec<KindBacklog>> {
    for kind in kinds {
        Recipient::new(*kind, "key")?;
    }
    let share = MAX_COUNTED_EVENTS / u32::try_from(kinds.len()).unwrap_or(u32::MAX).max(1);
    count(pool, kinds, share.max(MIN_COUNTED_EVENTS)).await
}

/// Counts up to `most` events of each kind.
async fn count<B: Backend>(pool: &Pool<B>, kinds: &[&str], most: u32) -> Result<Vec<KindBacklog>> {
    let during = |fault: Fault| fault.during("count the events that wait");
    let most = i64::from(most);
    let rows = answered(pool, async { B::count_backlog(&mut *hold(pool).await?, kinds, most + 1).await });
    let rows = rows.await.map_err(during)?;
    let estimates = match rows.iter().any(|row| row.events > most) {
        true => answered(pool, async { B::estimate_backlog(&mut *hold(pool).await?, SAMPLED_PAGES).await })
            .await
            .map_err(during)?,
        false => Vec::new(),
    };
    let of_kind = |kind: &&str| {
        let row = rows.iter().find(|row| row.kind == **kind);
        let counted = row.map_or(0, |row| row.events);
        let estimate = estimates.iter().find(|(of, _)| of == *kind).map(|(_, events)| *events);
        let (events, precision) = match estimate {
            _ if counted <= most => (counted, Precision::Exact),
            // A sample may have met too few of them.
            Some(estimate) if estimate > counted => (estimate, Precision::Estimate),
            _ => (counted, Precision::AtLeast),
        };
        let oldest = row.and_then(|row| row.oldest).map(EventId::from);
        KindBacklog { kind: (*kind).to_owned(), events: u64::try_from(events).unwrap_or_default(), precision, oldest }
    };
    Ok(kinds.iter().map(of_kind).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_count_that_reaches_its_bound_says_so() {
        use super::*;
        use crate::eventbox::{Event, emit_all, migrate, sqlite_options};
        let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = options.connect_with(sqlite_options(":memory:")).await.unwrap();
        migrate(&pool).await.unwrap();
        let events: Vec<_> =
            (0..7).map(|n| (Recipient::new("a", (n % 3).to_string()).unwrap(), Event::new("x"))).collect();
        emit_all(&pool, &events).await.unwrap();
        for (most, found) in [(6, (7, Precision::AtLeast)), (7, (7, Precision::Exact)), (3, (4, Precision::AtLeast))] {
            let counted = count(&pool, &["a"], most).await.unwrap();
            assert_eq!((counted[0].events, counted[0].precision), found, "{most}");
        }
    }
}
