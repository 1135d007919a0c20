//! Sources: what workers consume comes from elsewhere, as from files or from the changes of another database.
//!
//! A source has *partitions*, and each has a *checkpoint*: the position up to which its events are in their
//! eventboxes. A *round* reads events behind the checkpoint, and emits them and moves the checkpoint in one
//! transaction. The move is a compare-and-set. So each event is emitted exactly once, whatever the source repeats,
//! whoever dies, and however many processes read the same partition.
//!
//! | To | use |
//! | --- | --- |
//! | read sources in every process of a service, as long as it runs | [`Sources`] |
//! | read what is there now, once | [`drain`] |
//! | follow the files of a directory | [`Directory`] |
//! | follow the changes of tables in Postgres, also of another eventbox's journal | `PostgresChanges` |
//! | read from something else | [`EventSource`] |
//! | list and move checkpoints | [`checkpoints`](crate::admin::checkpoints), [`Operator`](crate::admin::Operator) |
//!
//! The guide is `docs/sources.md`.

mod commit;
mod config;
mod contract;
#[cfg(feature = "postgres")]
mod decoding;
mod directory;
mod drain;
mod error;
mod handle;
mod metrics;
mod partition;
mod status;
mod supervise;

pub use config::{MAX_SOURCE_NAME_BYTES, SourceConfig};
pub use contract::{EventSource, MAX_PARTITION_BYTES, MAX_PARTITIONS, MAX_POSITION_BYTES, Page, Room, SourceReader};
#[cfg(feature = "postgres")]
pub use decoding::change::{Change, ChangeKind};
#[cfg(feature = "postgres")]
pub use decoding::{DECODING_LIMIT, IDLE_WAL_BYTES, PostgresChanges};
pub use directory::{DEFAULT_LINE_BYTES, Directory, FILES_LIMIT, HEAD_BYTES, Line, MAX_FILES, READ_BYTES};
pub use drain::{Drained, drain};
pub use error::SourceError;
pub use handle::{Sources, SourcesBuilder};
pub use metrics::INSTRUMENTS;
pub use status::{MAX_ERROR_BYTES, PartitionState, PartitionStatus};
