//! Finds the recipients that have events.

use sqlx::Pool;

use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, hold, in_time};

/// Most recipients that one call of [`pending`] returns.
pub const MAX_PENDING: u32 = 1_000;

/// Lists the recipients of one shard that have events, in key order after `after`.
///
/// Scan a shard to find work: begin with `after` = `None`, pass the last recipient of each result to the next call, and
/// stop at an empty result. A call costs the same for an eventbox with one event and with a million.
///
/// # Units and limits
///
/// `limit` is cut to [`MAX_PENDING`].
///
/// # Errors
///
/// Transient and database errors. A row whose recipient is not `kind/key` (written by something else) is left out with
/// a warning.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Event, Recipient};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// assert_eq!(eventbox::pending(&pool, airport.shard(), None, 100).await?, [airport.clone()]);
/// assert_eq!(eventbox::pending(&pool, airport.shard(), Some(&airport), 100).await?, []);
/// # Ok(()) }
/// ```
pub async fn pending<B: Backend>(
    pool: &Pool<B>,
    shard: u8,
    after: Option<&Recipient>,
    limit: u32,
) -> Result<Vec<Recipient>> {
    let during = |fault: Fault| fault.during(format!("list the pending recipients of shard {shard}"));
    let mut conn = hold(pool).await.map_err(during)?;
    let after = after.map_or("", Recipient::as_str);
    let limit = i64::from(limit.min(MAX_PENDING));
    let texts = in_time::<B, _>(B::list_recipients(&mut conn, shard.into(), after, limit)).await.map_err(during)?;
    let parsed = texts.into_iter().filter_map(|text| {
        text.parse().inspect_err(|error| tracing::warn!(shard, %error, "an event's recipient is not kind/key")).ok()
    });
    Ok(parsed.collect())
}
