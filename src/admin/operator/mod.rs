//! Repairs in the name of an operator.

mod checkpoint;
mod dead;
mod destination;
mod journal;
mod kind;
mod messages;
mod recipient;
mod record;
mod shard;
pub(in crate::admin) mod shards;

use std::fmt;

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

pub use dead::DEAD_SLICE;
pub use messages::BURIED;
pub use record::{MAX_OPERATIONS, OPERATION_RETENTION, Operation, operations};
pub use shard::MOVED_LEASE_TTL;
pub use shards::{ANY_REVISION, ShardChange, Unassigned};

use super::MAX_REASON_BYTES;
use super::view::count::Count;
use crate::clock;
use crate::error::{Error, Misuse, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, OperationRow, Tx, begin_tx};

/// Largest number of bytes of the name of an operator.
pub const MAX_WHO_BYTES: usize = 200;

/// The name under which the plain functions of [`admin`](crate::admin) are recorded.
const UNNAMED: &str = "library";

/// An operator, who makes repairs. Each repair is recorded with who, when and why, in the transaction that makes it.
///
/// Use it where people repair: a command line, a page, a script. A rehearsal ([`rehearsing`](Operator::rehearsing))
/// does the same and rolls it back, so that the operator sees how many things a repair will touch. The plain functions
/// of [`admin`](crate::admin) make the same repairs as `library`.
///
/// Every repair of a recipient moves its turn, so a turn in flight fails as contention and starts again.
///
/// # Errors of all repairs
///
/// [`Error::Misuse`] before any SQL when the name or the reason is too long, empty or contains NUL. Contention,
/// transient and database errors: nothing was changed, except the slices before the error of a repair that works in
/// slices. [`Error::Unknown`]: look, or call again.
///
/// # Cancel safety of all repairs
///
/// Safe: a transaction commits whole or not at all.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, Operator};
/// use eventbox::{Event, Recipient};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed")).await?;
/// let ana = Operator::new(pool.clone(), "ana").because("the flight was cancelled");
/// assert_eq!(ana.clone().rehearsing(true).purge_all(&aircraft, |_| ()).await?.touched, 1);
/// assert_eq!(ana.purge_all(&aircraft, |_| ()).await?.touched, 1);
///
/// let last = &admin::operations(&pool, None, 10).await?[0];
/// assert_eq!((last.who.as_str(), last.action.as_str(), last.touched), ("ana", "purge", 1));
/// # Ok(()) }
/// ```
pub struct Operator<B: Backend> {
    pub(super) pool: Pool<B>,
    who: String,
    why: Option<String>,
    is_rehearsal: bool,
}

impl<B: Backend> Clone for Operator<B> {
    fn clone(&self) -> Self {
        Operator {
            pool: self.pool.clone(),
            who: self.who.clone(),
            why: self.why.clone(),
            is_rehearsal: self.is_rehearsal,
        }
    }
}

impl<B: Backend> fmt::Debug for Operator<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Operator");
        shown.field("who", &self.who).field("why", &self.why).field("is_rehearsal", &self.is_rehearsal);
        shown.finish_non_exhaustive()
    }
}

/// Result of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Done {
    /// Number of things that were changed, or would be changed.
    pub touched: u64,
    /// Whether it was a rehearsal, which changed nothing.
    pub is_rehearsal: bool,
    /// Messages that wait for the destination that was paused or resumed. `None` for every other repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Count>,
}

impl<B: Backend> Operator<B> {
    /// Makes an operator with a name of 1 to [`MAX_WHO_BYTES`] bytes.
    pub fn new(pool: Pool<B>, who: impl Into<String>) -> Self {
        Operator { pool, who: who.into(), why: None, is_rehearsal: false }
    }

    /// The operator of the plain functions.
    pub(crate) fn unnamed(pool: &Pool<B>) -> Self {
        Operator::new(pool.clone(), UNNAMED)
    }

    /// Records this reason with the repairs: 1 to [`MAX_REASON_BYTES`] bytes.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Rehearses the repairs: they do the same and roll back, or count where that is cheaper.
    #[must_use]
    pub fn rehearsing(mut self, is_rehearsal: bool) -> Self {
        self.is_rehearsal = is_rehearsal;
        self
    }

    /// Returns the record of a repair that begins now, or the misuse of the operator's name or reason.
    fn entry(&self, action: &'static str, target: impl fmt::Display) -> Result<Entry> {
        let entry = Entry { id: clock::new_id(), action, target: target.to_string() };
        let checked = match &self.why {
            Some(why) => check_text("reason", why, MAX_REASON_BYTES),
            None => Ok(()),
        };
        let checked = checked.and(check_text("operator's name", &self.who, MAX_WHO_BYTES));
        checked.map_err(|misuse| Error::misuse(&entry, misuse))?;
        Ok(entry)
    }

    /// Begins the transaction of a repair of a recipient, and moves the recipient's turn in it.
    async fn begin_moving(&self, of: &Recipient) -> Result<Tx<B>, Fault> {
        let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
        B::move_turn(&mut tx, of.shard().into(), of.as_str(), Uuid::new_v4()).await?;
        Ok(tx)
    }

    /// Records the repair in its transaction, when it changed something. A repair in slices has one record, whose
    /// number grows.
    async fn record(&self, tx: &mut Tx<B>, entry: &Entry, touched: u64) -> Result<(), Fault> {
        if touched == 0 || self.is_rehearsal {
            return Ok(());
        }
        let row = OperationRow {
            id: entry.id,
            at_us: 0,
            who: self.who.clone(),
            why: self.why.clone(),
            action: entry.action.to_owned(),
            target: entry.target.clone(),
            touched: i64::try_from(touched).unwrap_or(i64::MAX),
        };
        B::note_operation(tx, &row).await
    }

    /// Commits a repair that changed something. Otherwise, and in a rehearsal, rolls back, so that no turn is moved.
    async fn end(&self, tx: Tx<B>, entry: &Entry, touched: u64) -> Result<Done> {
        let done = self.done(touched);
        if touched > 0 && !self.is_rehearsal {
            tx.commit().await.map_err(|fault| fault.during_commit(entry))?;
        } else {
            tx.rollback().await;
        }
        Ok(done)
    }

    fn done(&self, touched: u64) -> Done {
        Done { touched, is_rehearsal: self.is_rehearsal, waiting: None }
    }
}

/// The record of one repair.
struct Entry {
    id: Uuid,
    action: &'static str,
    target: String,
}

/// The attempt, as errors name it.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.target)
    }
}

/// Checks a text that is stored.
pub(super) fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), Misuse> {
    match text {
        "" => Err(Misuse::Empty { what }),
        _ if text.len() > limit => Err(Misuse::TooLong { what, bytes: text.len(), limit }),
        _ if text.contains('\0') => Err(Misuse::Nul { what }),
        _ => Ok(()),
    }
}
