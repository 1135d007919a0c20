//! Errors of sources.

use crate::error::{BoxError, Error};

/// Why a source cannot start, or why a partition does not go on.
///
/// Nothing is lost: the checkpoint stays, and events behind it are read again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A name or a setting is wrong.
    #[error("source {name}: {problem}")]
    #[non_exhaustive]
    Setup {
        /// Name of the source.
        name: String,
        /// The problem and its remedy.
        problem: String,
    },
    /// The source cannot tell its partitions.
    #[error("source {name}: its partitions cannot be listed")]
    #[non_exhaustive]
    Partitions {
        /// Name of the source.
        name: String,
        /// Error of the source.
        source: BoxError,
    },
    /// The source cannot be read behind the checkpoint. Mend the cause, or move the checkpoint behind it
    /// ([`Operator::move_checkpoint`](crate::admin::Operator::move_checkpoint)).
    #[error("source {name}: partition {partition} cannot be read behind {position:?}")]
    #[non_exhaustive]
    Read {
        /// Name of the source.
        name: String,
        /// Name of the partition.
        partition: String,
        /// The checkpoint; empty at the start.
        position: String,
        /// Error of the source.
        source: BoxError,
    },
    /// The source did not answer in time that its round is committed. The round stays committed.
    #[error("source {name}: partition {partition} was not told of its checkpoint {position:?}")]
    #[non_exhaustive]
    Tell {
        /// Name of the source.
        name: String,
        /// Name of the partition.
        partition: String,
        /// The checkpoint.
        position: String,
        /// Which limit passed.
        source: BoxError,
    },
    /// The database did not read the checkpoint, or did not commit a round.
    #[error("source {name}: partition {partition} waits for the database")]
    #[non_exhaustive]
    Store {
        /// Name of the source.
        name: String,
        /// Name of the partition.
        partition: String,
        /// Error of the eventbox.
        source: Box<Error>,
    },
}

impl SourceError {
    pub(super) fn setup(name: &str, problem: impl Into<String>) -> Self {
        SourceError::Setup { name: name.to_owned(), problem: problem.into() }
    }
}
