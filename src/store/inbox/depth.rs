//! Emits that measure their box: how many events wait in it, and which is the oldest.

use uuid::Uuid;

use crate::store::BoxFuture;
use crate::store::fault::Fault;
use crate::store::inbox::event::{Emitted, EventDialect, EventRow};

/// Bounds of a measured emit.
#[derive(Debug, Clone, Copy)]
pub struct DepthBound {
    /// Most events that are counted.
    pub count_up_to: i64,
    /// Number of waiting events from which on the emit is refused. An event that is due later is never refused.
    pub max_waiting: i64,
}

/// Result of a measured emit.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// What became of the event; `None` when the box is full, and nothing was inserted.
    pub emitted: Option<Emitted>,
    /// Number of the other events of the box, up to the bound.
    pub waiting: i64,
    /// Oldest of the other events of the box.
    pub oldest: Option<Uuid>,
}

/// Number of a full box in the statements, beside the numbers of [`Emitted`].
const FULL: i64 = 3;

impl Measured {
    pub(in crate::store) fn of_code(code: i64, waiting: i64, oldest: Option<Uuid>) -> Self {
        let emitted = (code != FULL).then(|| Emitted::from_code(code));
        Measured { emitted, waiting, oldest }
    }
}

/// The number of the events of the box `$1`, `$2`, without the event `$3`, up to `$10`. In the order of the ids: the
/// planner would read a long box otherwise, because it expects to find `$10` rows soon.
macro_rules! waiting {
    () => {
        "(SELECT count(*) FROM (
        SELECT 1 FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id <> $3
        ORDER BY e.id LIMIT $10 + 0
    ) AS counted)"
    };
}
pub(in crate::store) use waiting;

/// The oldest event of the box `$1`, `$2`, without the event `$3`.
macro_rules! oldest {
    () => {
        "(SELECT e.id FROM eventbox_event e WHERE e.shard = $1 AND e.recipient = $2 AND e.id <> $3
        ORDER BY e.id LIMIT 1)"
    };
}
pub(in crate::store) use oldest;

/// Statements that insert an event and measure its box.
pub trait DepthDialect: EventDialect {
    /// Inserts one event, named or not, and measures its box, in one statement. Inserts nothing into a full box, unless
    /// the event is due later. A named event that is remembered is no reason to say that the box is full.
    fn insert_measured<'e>(
        conn: &'e mut Self::Connection,
        row: EventRow<'e>,
        bound: DepthBound,
    ) -> BoxFuture<'e, Result<Measured, Fault>>;

    /// Does what [`insert_measured`](DepthDialect::insert_measured) does, on a pool, where the insert may share its
    /// commit. Waits for a name as [`insert_all_on_pool`](EventDialect::insert_all_on_pool) does.
    fn insert_measured_on_pool(
        pool: &sqlx::Pool<Self>,
        row: EventRow<'_>,
        bound: DepthBound,
    ) -> impl Future<Output = Result<Measured, Fault>> + Send;
}
