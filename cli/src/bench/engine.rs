//! The interface to an engine: yardsticks, reads of tables, and calls that need a concrete executor.

use std::collections::HashMap;

use eventbox::{Backend, Event, Recipient};
use serde::Serialize;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};
use uuid::Uuid;

use super::yardstick::outbox::OutboxByHand;

pub(crate) type Result<T> = std::result::Result<T, sqlx::Error>;

/// How the engine opens connections.
pub(crate) type Options<B> = <<B as sqlx::Database>::Connection as Connection>::Options;

/// A recipient, with the columns that the yardsticks use as its address.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) shard: i16,
    pub(crate) to: Recipient,
}

impl Key {
    pub(crate) fn new(kind: &str, number: usize) -> eventbox::Result<Self> {
        let to = Recipient::new(kind, number.to_string())?;
        Ok(Key { shard: to.shard().into(), to })
    }

    pub(crate) fn name(&self) -> &str {
        self.to.as_str()
    }
}

/// A row of a yardstick's table of events.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) key: &'a Key,
    pub(crate) id: Uuid,
    pub(crate) value: &'a [u8],
}

/// Number of counted events over all recipients, and number of events left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) counted: i64,
    pub(crate) left: i64,
}

/// Counters of an engine. A counter is `None` if the engine does not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Counted {
    pub(crate) commits: Option<f64>,
    pub(crate) wal_bytes: Option<f64>,
    pub(crate) dead_tuples: Option<f64>,
}

/// An engine, with the SQL that a good engineer would write by hand instead of eventboxes.
///
/// The tables of the yardsticks have the shape of the library's tables. Each call writes one commit. Every statement
/// is prepared.
pub(crate) trait Engine: Backend + OutboxByHand {
    /// The engine's name in the output.
    const ID: &'static str;

    /// Whether the engine has one writer at a time. More connections would then only wait.
    const WRITES_ALONE: bool;

    /// The wake-up of a hand-written consumer.
    type Ear: Send;

    /// Returns the options of a measurement's connections. `costing` is set if their work is counted later.
    fn pool_options(costing: bool) -> PoolOptions<Self>;
    /// Returns the options of connections whose work is counted later.
    fn costing(options: Options<Self>) -> Options<Self>;

    /// Creates the tables of the yardsticks.
    fn create(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// Empties all tables.
    fn clear(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// Settles filled tables, as an autovacuum or a checkpoint would. `costing` is set if the work after it is
    /// counted.
    fn settle(pool: &Pool<Self>, costing: bool) -> impl Future<Output = Result<()>> + Send;
    /// Reads the settings that decide the figures, with their names.
    fn settings(pool: &Pool<Self>) -> impl Future<Output = Result<Vec<(String, String)>>> + Send;
    /// Waits until every other connection is closed, because a closing connection writes its statistics last.
    fn until_alone(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// Reads the counters of this connection and of closed connections.
    fn counted(pool: &Pool<Self>) -> impl Future<Output = Result<Counted>> + Send;
    /// Reads how many transactions of this server have written, and the bytes of its log. Reads change neither.
    fn written(pool: &Pool<Self>) -> impl Future<Output = Result<Counted>> + Send;

    /// Calls [`eventbox::emit`], for code that is generic over the engine.
    fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = eventbox::Result<()>> + Send;
    /// Calls [`eventbox::emit_all`], for code that is generic over the engine.
    fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> impl Future<Output = eventbox::Result<()>> + Send;

    /// Yardstick: inserts and commits one event.
    fn insert(pool: &Pool<Self>, row: Row<'_>) -> impl Future<Output = Result<()>> + Send;
    /// Yardstick: inserts and commits [`BATCH`] or [`SMALL_BATCH`] events at once. Other numbers may be slower.
    fn insert_many(pool: &Pool<Self>, rows: &[Row<'_>]) -> impl Future<Output = Result<()>> + Send;
    /// Creates the state rows that both sides update. Otherwise the planner would see empty tables.
    fn insert_states(pool: &Pool<Self>, keys: &[Key]) -> impl Future<Output = Result<()>> + Send;
    /// Yardstick: takes up to `max` of a recipient's oldest events, counts them in its state, and commits.
    fn take(pool: &Pool<Self>, key: &Key, max: i64) -> impl Future<Output = Result<Vec<Vec<u8>>>> + Send;
    /// Yardstick: inserts and commits one event and wakes up the consumers.
    fn insert_waking(pool: &Pool<Self>, row: Row<'_>) -> impl Future<Output = Result<()>> + Send;
    /// Starts to listen for wake-ups of this process or of another one.
    fn listen(pool: &Pool<Self>, same_process: bool) -> impl Future<Output = Result<Self::Ear>> + Send;
    /// Waits until recipients have events, and returns them.
    fn woken(ear: &mut Self::Ear) -> impl Future<Output = Result<Vec<Key>>> + Send;

    /// Reads or creates the row of the processor's table: the count of a recipient and its EVersion.
    fn load_count(conn: &mut Self::Connection, to: &Recipient) -> impl Future<Output = Result<(i64, i64)>> + Send;
    /// Reads the EVersion of a recipient and locks it until the transaction ends.
    fn eversion(tx: &mut Self::Connection, to: &Recipient) -> impl Future<Output = Result<i64>> + Send;
    fn save_count(
        tx: &mut Self::Connection,
        to: &Recipient,
        count: i64,
        eversion: i64,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Does what [`Engine::load_count`] does for many recipients, in their order, in one statement.
    fn load_counts(
        conn: &mut Self::Connection,
        of: &[Recipient],
    ) -> impl Future<Output = Result<Vec<(i64, i64)>>> + Send;
    /// Does what [`Engine::eversion`] does for many recipients, in their order, in one statement.
    fn eversions(tx: &mut Self::Connection, of: &[Recipient]) -> impl Future<Output = Result<Vec<i64>>> + Send;
    /// Saves the counts and the EVersions of many recipients in one statement.
    fn save_counts(tx: &mut Self::Connection, counts: &[(&str, i64, i64)]) -> impl Future<Output = Result<()>> + Send;

    /// Reads what the yardstick counted.
    fn yardstick_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// Reads what the reducer counted in the library's states, and the number of events left. Events that
    /// [`Engine::park`] created without a key are not included.
    fn reducer_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// Reads what the processor counted in its own table.
    fn processor_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// Counts the messages in the outbox.
    fn outbox_left(pool: &Pool<Self>) -> impl Future<Output = Result<i64>> + Send;

    /// Inserts events that no worker processes: a hundred for each recipient of the kind `parked`, or all of them for
    /// `key`.
    fn park(pool: &Pool<Self>, events: i64, key: Option<&Key>) -> impl Future<Output = Result<()>> + Send;
    /// Opens a transaction that keeps its snapshot while the connection lives.
    fn open_snapshot(conn: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;
}

/// Maximum number of rows of one insert.
pub(crate) const BATCH: usize = 500;

/// Number of rows of a small insert.
pub(crate) const SMALL_BATCH: usize = 100;

/// Returns the value of each recipient, in their order, from rows in any order. A recipient without a row has the
/// default.
pub(crate) fn in_order<T: Copy + Default>(of: &[Recipient], rows: &HashMap<String, T>) -> Vec<T> {
    of.iter().map(|to| rows.get(to.as_str()).copied().unwrap_or_default()).collect()
}
