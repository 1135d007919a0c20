//! The read side of the store of a server.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::store::{self, Counts, StoredRow};
use super::validate::attribute_text;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::SQLITE_BUSY_TIMEOUT;
use crate::proto::chip_common::Schema;
use crate::proto::io::cloudevents::v1::CloudEvent;
use crate::proto::io::cloudevents::v1::cloud_event::Data;
use crate::store::Fault;

/// The number of connections to a store file: the writer has a connection, and readers have the others.
const STORE_CONNECTIONS: u32 = 4;

/// The read side of a server's store; cheap to clone.
///
/// It reads the store of a running server, in this process or in another, and the store of a stopped server.
#[derive(Debug, Clone)]
pub struct IngressLog {
    pool: SqlitePool,
}

/// An event that the server accepted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeptEvent {
    /// The place of the event in the order of arrival. The number grows, with gaps.
    pub sequence: i64,
    /// The time when the server wrote the event, in microseconds since 1970.
    pub received_at_us: i64,
    /// The `idempotencykey` of the event; `None` without a key.
    pub key: Option<String>,
    /// The number of further copies that arrived.
    pub copies: u64,
    /// The number of other contents that arrived under the same key; always 0 for a conflict itself.
    pub conflicts: u64,
    /// The event as it arrived: id, source, type, attributes and data.
    pub event: CloudEvent,
}

impl KeptEvent {
    /// Returns the `subject` attribute, or `None` without a subject.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        attribute_text(&self.event, "subject")
    }

    /// Returns the payload from any of the three forms of data; empty without data.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        match &self.event.data {
            Some(Data::BinaryData(bytes)) => bytes.clone(),
            Some(Data::TextData(text)) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Data::ProtoData(any)) => Bytes::copy_from_slice(&any.value),
            None => Bytes::new(),
        }
    }
}

impl IngressLog {
    /// Opens the store file of a running or stopped server. The method does not change the file.
    ///
    /// # Errors
    ///
    /// - [`Error::Setup`] when the file is missing or is not the store of an ingress server;
    /// - transient and database errors.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = format!("open {}", path.display());
        const ADVICE: &str = "name the file that `eventbox ingress --store` was started with";
        if !path.is_file() {
            return Err(Error::setup(attempt, format!("there is no such file: {ADVICE}")));
        }
        // Sets no pragma that changes the file, because the file may belong to another program.
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(SQLITE_BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().connect_lazy_with(options);
        match store::exists(&pool).await {
            Ok(true) => Ok(IngressLog { pool }),
            Ok(false) | Err(Error::Database { .. }) => {
                Err(Error::setup(attempt, format!("this is not the store of an ingress server: {ADVICE}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the connections of this log, of its clones, and of the server with this store. Later reads fail.
    ///
    /// Call it before the process ends, so that SQLite removes the write-ahead log next to the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn on(pool: SqlitePool) -> Self {
        IngressLog { pool }
    }

    /// Returns at most `limit` kept events with a [`sequence`](KeptEvent::sequence) above `after`, in order of arrival.
    ///
    /// The first page has an `after` of 0.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<KeptEvent>> {
        store::events(&self.pool, after, limit).await?.into_iter().map(decode).collect()
    }

    /// Returns the conflicts: the events whose key was in use for other content.
    ///
    /// The pages work like the pages of [`events`](Self::events). Conflicts have a sequence of their own.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn conflicts(&self, after: i64, limit: u32) -> Result<Vec<KeptEvent>> {
        store::conflicts(&self.pool, after, limit).await?.into_iter().map(decode).collect()
    }

    /// Returns the number of events by outcome, since the creation of the store.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn counts(&self) -> Result<Counts> {
        store::counts(&self.pool).await
    }

    /// Returns all idempotency keys, each once, in byte order. Holds all keys in memory.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn keys(&self) -> Result<Vec<String>> {
        store::keys(&self.pool).await
    }

    /// Returns all registered schemas with their versions, ordered by subject and version.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn schemas(&self) -> Result<Vec<(i32, Schema)>> {
        let rows = store::schemas(&self.pool).await?;
        rows.into_iter().map(|(version, schema)| Ok((version, decoded(&schema)?))).collect()
    }
}

/// Opens a file, or a database in memory for `:memory:`, with the settings that keep acknowledged events.
pub(super) async fn open_file(path: &Path) -> Result<SqlitePool> {
    let connections = if path == Path::new(":memory:") { 1 } else { STORE_CONNECTIONS };
    // A connection in memory is the database itself, so the pool must not close it when it is idle or old.
    let options = SqlitePoolOptions::new().max_connections(connections).idle_timeout(None).max_lifetime(None);
    let opened = options.connect_with(crate::eventbox::sqlite_options(path)).await;
    opened.map_err(|error| {
        let attempt = format!("open {}", path.display());
        match Fault::from(error).during(&attempt) {
            Error::Database { source, .. } | Error::Transient { source, .. } => {
                const ADVICE: &str = "name another file, in a directory that exists and may be written";
                Error::setup(attempt, format!("it cannot be used as an SQLite file ({source}): {ADVICE}"))
            }
            other => other,
        }
    })
}

fn decode(row: StoredRow) -> Result<KeptEvent> {
    Ok(KeptEvent {
        sequence: row.sequence,
        received_at_us: row.received_at_us,
        key: row.key,
        copies: u64::try_from(row.copies).unwrap_or_default(),
        conflicts: u64::try_from(row.conflicts).unwrap_or_default(),
        event: decoded(&row.event)?,
    })
}

fn decoded<M: Message + Default>(encoded: &[u8]) -> Result<M> {
    M::decode(encoded).map_err(|error| Error::Database {
        attempt: "read the log of the ingress server".to_owned(),
        source: BoxError::from(error),
    })
}
