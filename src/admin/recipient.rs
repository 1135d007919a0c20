//! Calls for a whole recipient: pause it, edit its state, forget it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use sqlx::Pool;

use super::{Operator, time_of};
use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, answered, hold};

pub use crate::store::Forgotten;

/// Shortest time since the last write on a recipient before it can be forgotten, by the database's clock.
///
/// This is twice the [`MAX_TURN_AGE`](crate::limits::MAX_TURN_AGE). So a turn that was loaded before the recipient's
/// first write cannot commit after the recipient was forgotten.
pub const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);

/// Largest number of bytes of a state that [`set_state`] takes.
pub const MAX_EDIT_BYTES: usize = 16 << 20;

/// State of a recipient besides its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Standing {
    /// Number of the recipient's last turn or other write. 0 before the first.
    pub turn: i64,
    /// Time of that turn or write, by the database's clock.
    #[serde(serialize_with = "super::view::text::time_if_any")]
    pub updated_at: Option<SystemTime>,
    /// Whether the recipient itself is paused, by [`pause`].
    pub paused: bool,
    /// Whether its whole kind is paused, by [`pause_kind`](crate::admin::pause_kind).
    pub kind_paused: bool,
    /// Number of failures in a row.
    pub attempts: u32,
    /// Time of the next retry, by the database's clock. `None` without a failure.
    #[serde(serialize_with = "super::view::text::time_if_any")]
    pub next_attempt_at: Option<SystemTime>,
    /// Last error.
    pub error: Option<String>,
}

/// Returns the standing of a recipient, which need not exist.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// See [`pause`].
pub async fn standing<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Standing> {
    let read =
        answered(pool, async { B::read_standing(&mut *hold(pool).await?, of.shard().into(), of.as_str()).await });
    let row = read.await.map_err(|fault: Fault| fault.during(format!("read the standing of {of}")))?;
    Ok(Standing {
        turn: row.turn,
        updated_at: row.updated_at_us.map(time_of),
        paused: row.paused,
        kind_paused: row.kind_paused,
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        next_attempt_at: (row.attempts > 0).then(|| time_of(row.next_attempt_at_us)),
        error: row.error,
    })
}

/// Pauses a recipient: none of its events is processed until [`resume`]. Returns `false` when it was paused already.
///
/// Events may still be emitted to the recipient, and wait. A turn in flight that has not committed fails as contention.
/// After the return of the call, no turn that began before it commits.
///
/// # Errors
///
/// Contention, transient and database errors: nothing was changed. [`Error::Unknown`](crate::Error::Unknown): call
/// again.
///
/// # Cancel safety
///
/// Safe: the recipient is either paused or not.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Recipient, admin};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// assert!(admin::pause(&pool, &aircraft).await?);
/// assert!(admin::standing(&pool, &aircraft).await?.paused);
/// assert!(admin::resume(&pool, &aircraft).await?);
/// # Ok(()) }
/// ```
pub async fn pause<B: Backend>(pool: &Pool<B>, recipient: &Recipient) -> Result<bool> {
    Ok(Operator::unnamed(pool).pause(recipient).await?.touched > 0)
}

/// Lets a recipient be processed again, at once and as if it had never failed.
///
/// Returns `false` when the recipient was neither paused nor failing.
///
/// # Errors
///
/// As [`pause`].
///
/// # Cancel safety
///
/// Safe: the recipient is either resumed or not.
///
/// # Examples
///
/// See [`pause`].
pub async fn resume<B: Backend>(pool: &Pool<B>, recipient: &Recipient) -> Result<bool> {
    Ok(Operator::unnamed(pool).resume(recipient).await?.touched > 0)
}

/// A state as the library keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredState {
    /// Turn that wrote the state. 0 before the recipient's first turn.
    pub turn: i64,
    /// Encoded state. `None` when there is no state, or when a processor keeps it.
    pub state: Option<Bytes>,
}

/// Returns the encoded state that the library keeps of a recipient. [`state`](crate::state()) decodes it.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// See [`set_state`].
pub async fn stored_state<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<StoredState> {
    let read = answered(pool, async { B::read_state(&mut *hold(pool).await?, of.shard().into(), of.as_str()).await });
    let row = read.await.map_err(|fault: Fault| fault.during(format!("read the stored state of {of}")))?;
    let (turn, state) = row.map_or((0, None), |row| (row.turn, row.state));
    Ok(StoredState { turn, state: state.map(Bytes::from) })
}

/// Replaces the state that the library keeps, if the recipient is still at turn `at_turn`. Returns the new turn.
///
/// `None` clears the state. The bytes are stored as they are, so encode them as the recipient's reducer does. The call
/// has no use for a processor, which keeps its own state.
///
/// # Units and limits
///
/// At most [`MAX_EDIT_BYTES`] bytes.
///
/// # Errors
///
/// * [`Error::Misuse`](crate::Error::Misuse) before any SQL when the limit is exceeded.
/// * Contention when the recipient is no longer at turn `at_turn`: read the state again.
/// * [`Error::Unknown`](crate::Error::Unknown): read the state again.
/// * Transient and database errors.
///
/// # Cancel safety
///
/// Safe: the state is either replaced or not.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Recipient, admin};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let stored = admin::stored_state(&pool, &airport).await?;
/// let turn = admin::set_state(&pool, &airport, stored.turn, Some(b"7")).await?;
/// assert_eq!(eventbox::state::<u64>(&pool, &airport).await?.ok_or("it has a state")?.state, Some(7));
/// // The state was edited since it was read, so this edit is refused.
/// assert!(admin::set_state(&pool, &airport, stored.turn, None).await.unwrap_err().is_contention());
/// assert_eq!(turn, 1);
/// # Ok(()) }
/// ```
pub async fn set_state<B: Backend>(pool: &Pool<B>, of: &Recipient, at_turn: i64, state: Option<&[u8]>) -> Result<i64> {
    Operator::unnamed(pool).set_state(of, at_turn, state).await?;
    Ok(at_turn + 1)
}

/// Clears the state that the library keeps, as [`set_state`] with `None`. Returns the new turn.
///
/// The recipient's next turn begins with the default state. Use it for a state that can no longer be decoded.
/// [`stored_state`] returns its bytes, which may be worth keeping.
///
/// # Errors
///
/// As [`set_state`].
///
/// # Cancel safety
///
/// Safe: the state is either cleared or not.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Recipient, admin};
///
/// let airport = Recipient::new("airport", "JFK")?;
/// admin::set_state(&pool, &airport, 0, Some(b"no number")).await?;
/// assert!(eventbox::state::<u64>(&pool, &airport).await.is_err());
///
/// let bad = admin::stored_state(&pool, &airport).await?;
/// assert_eq!(bad.state.as_deref(), Some(&b"no number"[..]));
/// admin::reset_state(&pool, &airport, bad.turn).await?;
/// assert_eq!(eventbox::state::<u64>(&pool, &airport).await?.ok_or("it had turns")?.state, None);
/// # Ok(()) }
/// ```
pub async fn reset_state<B: Backend>(pool: &Pool<B>, of: &Recipient, at_turn: i64) -> Result<i64> {
    set_state(pool, of, at_turn, None).await
}

/// Deletes the turn, the state and the failures of a recipient.
///
/// Use it for an entity that is gone for good. After a later emit to the recipient, **its turns begin again at 1**. The
/// idempotency keys of its messages begin again too, because they contain the turn.
///
/// The call deletes nothing unless all of these hold:
///
/// * the box is empty,
/// * the recipient has no timers,
/// * the recipient is not paused,
/// * the last write on the recipient is at least [`FORGET_AFTER`] old.
///
/// # Errors
///
/// Contention, transient and database errors: nothing was changed. [`Error::Unknown`](crate::Error::Unknown): call
/// again.
///
/// # Cancel safety
///
/// Safe: the recipient is either forgotten or not.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, Forgotten};
/// use eventbox::Recipient;
///
/// let airport = Recipient::new("airport", "JFK")?;
/// admin::set_state(&pool, &airport, 0, None).await?;
/// assert_eq!(admin::forget(&pool, &airport).await?, Forgotten::TooRecent);
/// # Ok(()) }
/// ```
pub async fn forget<B: Backend>(pool: &Pool<B>, recipient: &Recipient) -> Result<Forgotten> {
    Operator::unnamed(pool).forget(recipient).await
}
