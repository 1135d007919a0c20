//! How far the sources of a database were read.

use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;

use crate::admin::time_of;
use crate::error::Result;
use crate::store::{Backend, CheckpointRow, Fault, SOURCE_PREFIX, answered, hold};

/// Largest number of checkpoints of a list.
pub const MAX_CHECKPOINTS: u32 = 1_000;

/// How far a partition of a source was read: everything before the position is in its eventboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SourceCheckpoint {
    /// Name of the source.
    pub source: String,
    /// Name of the partition.
    pub partition: String,
    /// Position, a text of the source's own.
    pub position: String,
    /// Time of the last round, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub moved_at: SystemTime,
}

/// Lists the checkpoints of sources, by source and partition. A partition whose first round is still to come has none.
///
/// # Units and limits
///
/// At most [`MAX_CHECKPOINTS`].
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
/// See [`Operator::move_checkpoint`](crate::admin::Operator::move_checkpoint).
pub async fn checkpoints<B: Backend>(pool: &Pool<B>) -> Result<Vec<SourceCheckpoint>> {
    let read =
        answered(pool, async { B::list_source_checkpoints(&mut *hold(pool).await?, i64::from(MAX_CHECKPOINTS)).await });
    let rows = read.await.map_err(|fault: Fault| fault.during("list the checkpoints of sources"))?;
    Ok(rows.into_iter().map(checkpoint_of).collect())
}

fn checkpoint_of(row: CheckpointRow) -> SourceCheckpoint {
    SourceCheckpoint {
        source: row.owner.trim_start_matches(SOURCE_PREFIX).to_owned(),
        partition: row.partition,
        position: row.position,
        moved_at: time_of(row.moved_at_us),
    }
}
