//! The changes of tables in Postgres, by logical decoding.

pub(super) mod change;
mod message;
mod pace;
mod place;
mod reader;
mod session;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use tokio::sync::{Mutex, watch};

use self::change::Change;
use self::place::Place;
use self::reader::Reader;
use super::contract::{EventSource, SourceReader};
use crate::error::BoxError;
use crate::eventbox::Event;
use crate::recipient::Recipient;
use crate::store::{Fault, answered, decoding, hold};

/// Longest time of one read of the slot. After it the read fails, and is tried again after a pause.
pub const DECODING_LIMIT: Duration = Duration::from_secs(600);

/// Bytes of the log without an event after which the checkpoint moves, so that the server may remove them. Until then
/// each read decodes them again.
pub const IDLE_WAL_BYTES: u64 = 1 << 20;

/// The name of the only partition.
const PARTITION: &str = "all";

type Map = dyn Fn(&Change) -> Result<Vec<(Recipient, Event)>, BoxError> + Send + Sync;

/// A source that follows the committed changes of tables in Postgres, in the order of their commits.
///
/// The tables may be those of another program, which need not know of eventboxes, or the journal of another eventbox.
/// They are in the database of `pool`. The events go into the database of the [`Runtime`](crate::runtime::Runtime),
/// which may be another one, on either engine.
///
/// The server keeps a *slot*, which has every change since it was made. A change becomes visible at its commit, however
/// long its transaction was open, so none is passed over. The source confirms a change to the server only after its
/// events are committed. What the server repeats after a crash is left out by its place in the log.
///
/// Changes without events move the checkpoint only after [`IDLE_WAL_BYTES`] of the log, or when a read is full of them.
/// So the slot may be in the eventbox's own database: the moves of its own checkpoint do not move it again.
///
/// # What the server needs
///
/// * `wal_level = logical`, and a role with the attribute `REPLICATION`, or a superuser.
/// * A publication of the tables: `CREATE PUBLICATION orders FOR TABLE orders`. The old values of updated and deleted
///   rows come as the `REPLICA IDENTITY` of the table says: the key, unless it is `FULL`.
/// * Room for the log. As long as nobody reads a slot, the server keeps the log for it:
///   `max_slot_wal_keep_size` bounds that, and a slot that lost its log is an error here.
///
/// The slot is made at the first start, if there is none, and has the changes from then on. To end a source for good,
/// remove its slot: `SELECT pg_drop_replication_slot('orders')`.
///
/// # What comes back
///
/// The given function makes the events of a change: none to skip it, one, or several. When the function returns an
/// error, the source stops before that change, and the error names the table and the place in the log.
///
/// A transaction with more changes than a round may have is emitted in several rounds. Each of them reads that
/// transaction from its start.
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let pool = sqlx::PgPool::connect("postgres:///shop").await?;
/// use eventbox::source::{ChangeKind, PostgresChanges, SourceConfig, drain};
/// use eventbox::{Event, Recipient};
///
/// let orders = PostgresChanges::new(pool.clone(), "eventbox_orders", "orders", |change| {
///     if change.kind != ChangeKind::Insert {
///         return Ok(Vec::new());
///     }
///     let customer = Recipient::new("customer", change.text("customer").ok_or("no customer")?)?;
///     Ok(vec![(customer, Event::new(change.to_json()))])
/// });
/// drain(&pool, "orders", &orders, &SourceConfig::default()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresChanges(Arc<Slot>);

struct Slot {
    pool: PgPool,
    slot: String,
    publication: String,
    map: Arc<Map>,
    /// The last committed position of this process, which a reader waits for before it reads on.
    committed: watch::Sender<Option<Place>>,
    /// Held by the reader of this process that uses the slot.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for PostgresChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Slot { slot, publication, .. } = &*self.0;
        f.debug_struct("PostgresChanges").field("slot", slot).field("publication", publication).finish_non_exhaustive()
    }
}

impl PostgresChanges {
    /// Makes a source of a slot and a publication in the database of a pool. `map` makes the events of a change.
    pub fn new<F>(pool: PgPool, slot: impl Into<String>, publication: impl Into<String>, map: F) -> Self
    where
        F: Fn(&Change) -> Result<Vec<(Recipient, Event)>, BoxError> + Send + Sync + 'static,
    {
        PostgresChanges(Arc::new(Slot {
            pool,
            slot: slot.into(),
            publication: publication.into(),
            map: Arc::new(map),
            committed: watch::Sender::default(),
            turn: Arc::default(),
        }))
    }
}

#[async_trait]
impl EventSource for PostgresChanges {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        Ok(vec![PARTITION.to_owned()])
    }

    async fn open(&self, _partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        let from = from.map(str::parse::<Place>).transpose()?;
        self.0.check(from).await?;
        Ok(Box::new(Reader::new(Arc::clone(&self.0), from)))
    }

    async fn committed(&self, _partition: &str, position: &str) -> Result<(), BoxError> {
        self.0.committed.send_replace(Some(position.parse()?));
        Ok(())
    }
}

impl Slot {
    /// Checks that the slot has everything behind the checkpoint. Makes the slot of a source without a checkpoint.
    async fn check(&self, from: Option<Place>) -> Result<(), BoxError> {
        let (name, publication) = (self.slot.as_str(), self.publication.as_str());
        let found = answered(&self.pool, async {
            let conn = &mut *hold(&self.pool).await?;
            if !decoding::has_publication(conn, publication).await? {
                return Ok(Err(format!(
                    "there is no publication {publication}: CREATE PUBLICATION {publication} FOR TABLE …"
                )));
            }
            let slot = decoding::slot(conn, name).await?;
            if slot.is_none() && from.is_none() {
                decoding::create_slot(conn, name).await?;
                return Ok(decoding::slot(conn, name).await?.ok_or_else(|| format!("the slot {name} was removed")));
            }
            Ok(slot.ok_or_else(|| {
                format!(
                    "the slot {name} is gone, so changes since the checkpoint are lost: remove the checkpoint to begin \
                     anew"
                )
            }))
        });
        let slot = found.await.map_err(|fault: Fault| fault.0)??;
        if slot.plugin != decoding::PLUGIN {
            return Err(format!("the slot {name} has the plugin {}, and not {}", slot.plugin, decoding::PLUGIN).into());
        }
        let confirmed = Place::at(u64::try_from(slot.confirmed).unwrap_or_default());
        match from {
            Some(from) if confirmed.lsn > from.lsn => Err(format!(
                "the slot {name} stands at {confirmed}, past the checkpoint at {from}: somebody else has read it, and \
                 the changes in between are lost"
            )
            .into()),
            _ => Ok(()),
        }
    }
}
