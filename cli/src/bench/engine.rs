//! What the benchmark needs of an engine: the yardsticks, the looks into tables, and the calls that are generic only over an executor.

use eventbox::{Backend, Event, Recipient};
use serde::Serialize;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};
use uuid::Uuid;

pub(crate) type Result<T> = std::result::Result<T, sqlx::Error>;

/// How the connections of an engine are opened.
pub(crate) type Options<B> = <<B as sqlx::Database>::Connection as Connection>::Options;

/// A recipient with what the yardsticks address it by.
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

/// What was counted, over all recipients, and what is left to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) counted: i64,
    pub(crate) left: i64,
}

/// What an engine counted so far; `None` where it does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Counted {
    pub(crate) commits: Option<f64>,
    pub(crate) wal_bytes: Option<f64>,
    pub(crate) dead_tuples: Option<f64>,
}

/// An engine, with the statements that a good engineer would write by hand in place of eventboxes.
///
/// The tables of the yardsticks have the shape of the library's. What is written in one call is one commit, and every statement is prepared.
pub(crate) trait Engine: Backend {
    /// The engine's name, for a machine.
    const ID: &'static str;

    /// Whether one connection writes at a time, so that more of them only wait for each other.
    const WRITES_ALONE: bool;

    /// What wakes a consumer by hand.
    type Ear: Send;

    /// The connections of a measurement; `costing` when their work is going to be counted.
    fn pool_options(costing: bool) -> PoolOptions<Self>;
    /// The options of connections whose work is going to be counted.
    fn costing(options: Options<Self>) -> Options<Self>;

    /// Creates the tables of the yardsticks.
    fn create(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// Empties all tables.
    fn clear(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// Brings what was filled into the state that it would have after a while; `costing` when work is going to be counted.
    fn settle(pool: &Pool<Self>, costing: bool) -> impl Future<Output = Result<()>> + Send;
    /// The settings that the figures depend on, with their names.
    fn settings(pool: &Pool<Self>) -> impl Future<Output = Result<Vec<(String, String)>>> + Send;
    /// Waits until every other connection is gone, which writes its statistics last.
    fn until_alone(pool: &Pool<Self>) -> impl Future<Output = Result<()>> + Send;
    /// What was counted so far, of this connection and of those that are gone.
    fn counted(pool: &Pool<Self>) -> impl Future<Output = Result<Counted>> + Send;

    /// [`eventbox::emit`], for code that is generic over the engine.
    fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = eventbox::Result<()>> + Send;
    /// [`eventbox::emit_all`], likewise.
    fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> impl Future<Output = eventbox::Result<()>> + Send;

    /// Yardstick: one event, inserted and committed.
    fn insert(pool: &Pool<Self>, row: Row<'_>) -> impl Future<Output = Result<()>> + Send;
    /// Yardstick: [`BATCH`] or [`SMALL_BATCH`] events, inserted and committed at once; other numbers may be slower.
    fn insert_many(pool: &Pool<Self>, rows: &[Row<'_>]) -> impl Future<Output = Result<()>> + Send;
    /// Both sides: the states that are going to be counted in, so that neither begins with tables that the planner has seen empty.
    fn insert_states(pool: &Pool<Self>, keys: &[Key]) -> impl Future<Output = Result<()>> + Send;
    /// Yardstick: takes up to `max` of the oldest events of a recipient, counts them in its state, and commits.
    fn take(pool: &Pool<Self>, key: &Key, max: i64) -> impl Future<Output = Result<Vec<Vec<u8>>>> + Send;
    /// Yardstick: one event, inserted and committed, that wakes the consumers.
    fn insert_waking(pool: &Pool<Self>, row: Row<'_>) -> impl Future<Output = Result<()>> + Send;
    /// Begins to listen, to this process or to another one.
    fn listen(pool: &Pool<Self>, same_process: bool) -> impl Future<Output = Result<Self::Ear>> + Send;
    /// Waits for recipients that have events.
    fn woken(ear: &mut Self::Ear) -> impl Future<Output = Result<Vec<Key>>> + Send;

    /// The table of the processor: the count of a recipient and its EVersion.
    fn load_count(conn: &mut Self::Connection, to: &Recipient) -> impl Future<Output = Result<(i64, i64)>> + Send;
    /// The EVersion of a recipient, locked until the end of the transaction.
    fn eversion(tx: &mut Self::Connection, to: &Recipient) -> impl Future<Output = Result<i64>> + Send;
    fn save_count(
        tx: &mut Self::Connection,
        to: &Recipient,
        count: i64,
        eversion: i64,
    ) -> impl Future<Output = Result<()>> + Send;

    /// What the yardstick counted.
    fn yardstick_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// What the reducer counted, in the library's states, and what is in boxes other than those of [`Engine::park`] without a key.
    fn reducer_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// What the processor counted, in its own table.
    fn processor_sums(pool: &Pool<Self>) -> impl Future<Output = Result<Sums>> + Send;
    /// How many messages are in the outbox.
    fn outbox_left(pool: &Pool<Self>) -> impl Future<Output = Result<i64>> + Send;

    /// Puts events into boxes that nobody processes: a hundred in each of the kind `parked`, or all of them into that of `key`.
    fn park(pool: &Pool<Self>, events: i64, key: Option<&Key>) -> impl Future<Output = Result<()>> + Send;
    /// Opens a transaction that sees the database as it is now, for as long as the connection lives.
    fn open_snapshot(conn: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;
}

/// The most rows of one insert.
pub(crate) const BATCH: usize = 500;

/// The rows of a small insert.
pub(crate) const SMALL_BATCH: usize = 100;
