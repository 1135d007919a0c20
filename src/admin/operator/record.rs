//! The record of repairs: who did what, when and why.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use crate::admin::time_of;
use crate::error::Result;
pub use crate::store::OPERATION_RETENTION;
use crate::store::{Backend, Fault, OperationRow, answered, hold};

/// Largest number of operations of one listing.
pub const MAX_OPERATIONS: u32 = 1_000;

/// A repair that an operator made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Operation {
    /// Id of the repair, a UUIDv7.
    pub id: Uuid,
    /// Time of the repair, by the database's clock.
    #[serde(serialize_with = "crate::admin::view::text::time")]
    pub at: SystemTime,
    /// Who made the repair: [`Operator::new`](crate::admin::Operator::new).
    pub who: String,
    /// Why: [`Operator::because`](crate::admin::Operator::because).
    pub why: Option<String>,
    /// What was done, in a word or two: `pause`, `replay dead letters`.
    pub action: String,
    /// On what: a recipient, a kind, a shard, or a filter in words.
    pub target: String,
    /// Number of things that were changed.
    pub touched: u64,
}

/// Lists repairs, the newest first, before an id. Pass the last id to the next call.
///
/// A repair is recorded in the transaction that makes it, so the record has every repair and no other.
///
/// # Units and limits
///
/// At most `limit` repairs, and at most [`MAX_OPERATIONS`]. Repairs stay for [`OPERATION_RETENTION`].
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// See [`Operator`](crate::admin::Operator).
pub async fn operations<B: Backend>(pool: &Pool<B>, before: Option<Uuid>, limit: u32) -> Result<Vec<Operation>> {
    let before = before.unwrap_or(Uuid::max());
    let limit = i64::from(limit.min(MAX_OPERATIONS));
    let read = answered(pool, async { B::list_operations(&mut *hold(pool).await?, before, limit).await });
    let rows = read.await.map_err(|fault: Fault| fault.during("list the operations"))?;
    Ok(rows.into_iter().map(operation_of).collect())
}

fn operation_of(row: OperationRow) -> Operation {
    Operation {
        id: row.id,
        at: time_of(row.at_us),
        who: row.who,
        why: row.why,
        action: row.action,
        target: row.target,
        touched: row.touched.unsigned_abs(),
    }
}
