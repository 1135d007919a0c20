//! What the server got, for those who ask.

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

/// How many connections a store of its own has: one for the writer, the others for readers.
const STORE_CONNECTIONS: u32 = 4;

/// The read side of a server's store; cheap to clone.
///
/// It works beside a running server, in this process or another, and without one.
#[derive(Debug, Clone)]
pub struct IngressLog {
    pool: SqlitePool,
}

/// An event that the server accepted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KeptEvent {
    /// Its place in the order of arrival: growing, with gaps.
    pub sequence: i64,
    /// When its transaction was begun, in microseconds since 1970.
    pub received_at_us: i64,
    /// Its `idempotencykey`, if it had one.
    pub key: Option<String>,
    /// How many further copies came.
    pub copies: u64,
    /// How many different contents came under the same key; always 0 for a conflict itself.
    pub conflicts: u64,
    /// The event as it came: id, source, type, attributes and data.
    pub event: CloudEvent,
}

impl KeptEvent {
    /// The `subject` attribute.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        attribute_text(&self.event, "subject")
    }

    /// The payload, whichever of the three forms of data it came in; empty without data.
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
    /// Opens the store of a server that ran, or is running, on this file.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when there is no such file or it is not the store of an ingress server; transient and database errors. The file is
    /// not changed.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = format!("open {}", path.display());
        const ADVICE: &str = "name the file that `eventbox ingress --store` was started with";
        if !path.is_file() {
            return Err(Error::setup(attempt, format!("there is no such file: {ADVICE}")));
        }
        // Without settings: a file that turns out to be somebody else's must stay as it is.
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

    /// Closes its connections, and those of its clones and of the server that has this store: nothing can be read after it.
    ///
    /// Call it before a process ends, so that the file is left without its write-ahead log.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn on(pool: SqlitePool) -> Self {
        IngressLog { pool }
    }

    /// The kept events with a [`sequence`](KeptEvent::sequence) above `after`, in order of arrival, at most `limit`. Begin with 0.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<KeptEvent>> {
        store::events(&self.pool, after, limit).await?.into_iter().map(decode).collect()
    }

    /// The contents that came under a key that was taken by other content; pages like [`events`](Self::events), in its own sequence.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn conflicts(&self, after: i64, limit: u32) -> Result<Vec<KeptEvent>> {
        store::conflicts(&self.pool, after, limit).await?.into_iter().map(decode).collect()
    }

    /// How many events had which outcome, since the store was made.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn counts(&self) -> Result<Counts> {
        store::counts(&self.pool).await
    }

    /// All idempotency keys, each once, in byte order. Takes memory for all of them.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn keys(&self) -> Result<Vec<String>> {
        store::keys(&self.pool).await
    }

    /// All registered schemas with their versions, by subject and version.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn schemas(&self) -> Result<Vec<(i32, Schema)>> {
        let rows = store::schemas(&self.pool).await?;
        rows.into_iter().map(|(version, schema)| Ok((version, decoded(&schema)?))).collect()
    }
}

/// Opens a file, or a database in memory for `:memory:`, with the settings that keep what was acknowledged.
pub(super) async fn open_file(path: &Path) -> Result<SqlitePool> {
    let connections = if path == Path::new(":memory:") { 1 } else { STORE_CONNECTIONS };
    // A connection in memory is the database itself: it must not be closed when it is idle or old.
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
