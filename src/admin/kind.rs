//! Pausing and resuming of a whole kind.

use std::time::SystemTime;

use sqlx::Pool;

use super::{Operator, time_of};
use crate::error::Result;
use crate::store::{Backend, Fault, answered, hold};

/// Pauses a kind: no turn of its recipients begins until [`resume_kind`]. Returns `false` when it was paused already.
///
/// Use it when the code of a whole kind must not run, after a bad release or while a dependency is down. Events may
/// still be emitted, and wait. A turn that began before may still commit. The runtimes begin no turn from their next
/// poll on, and [`process_batch`](crate::process_batch) refuses at once.
///
/// # Errors
///
/// [`Error::Misuse`](crate::Error::Misuse) before any SQL when `kind` is not a valid kind. Contention, transient and
/// database errors: nothing was changed.
///
/// # Cancel safety
///
/// Safe: the kind is either paused or not.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin;
///
/// assert!(admin::pause_kind(&pool, "aircraft").await?);
/// assert_eq!(admin::paused_kinds(&pool).await?[0].kind, "aircraft");
/// assert!(admin::resume_kind(&pool, "aircraft").await?);
/// # Ok(()) }
/// ```
pub async fn pause_kind<B: Backend>(pool: &Pool<B>, kind: &str) -> Result<bool> {
    Ok(Operator::unnamed(pool).pause_kind(kind).await?.touched > 0)
}

/// Lets turns of a kind begin again. Returns `false` when the kind was not paused.
///
/// Recipients that are paused themselves stay paused.
///
/// # Errors
///
/// As [`pause_kind`].
///
/// # Cancel safety
///
/// Safe: the kind is either resumed or not.
///
/// # Examples
///
/// See [`pause_kind`].
pub async fn resume_kind<B: Backend>(pool: &Pool<B>, kind: &str) -> Result<bool> {
    Ok(Operator::unnamed(pool).resume_kind(kind).await?.touched > 0)
}

/// A kind that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PausedKind {
    /// The kind.
    pub kind: String,
    /// Time of the pause, by the database's clock.
    pub paused_at: SystemTime,
}

/// Lists the paused kinds, in the order of their names.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Examples
///
/// See [`pause_kind`].
pub async fn paused_kinds<B: Backend>(pool: &Pool<B>) -> Result<Vec<PausedKind>> {
    let read = answered(pool, async { B::list_paused_kinds(&mut *hold(pool).await?).await });
    let paused = read.await.map_err(|fault: Fault| fault.during("list the paused kinds"))?;
    Ok(paused.into_iter().map(|(kind, since_us)| PausedKind { kind, paused_at: time_of(since_us) }).collect())
}
