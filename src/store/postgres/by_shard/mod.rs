//! The statements for tables that a cluster cuts by `shard`.
//!
//! Each statement touches one shard, which is its first parameter, so the cluster sends it to one node as one command.
//! None has an `INSERT` in a CTE, a volatile function in a part that writes, or a `ctid` without its shard. An insert
//! of several rows reads the row of its shard in `eventbox_anchor`, which lies beside the rows of the shard: otherwise
//! the cluster would copy the rows, and commit in two phases. The few statements that look into every shard begin with
//! `eventbox_anchor` too, and only read.
//!
//! Every statement is right on one server, too. So a process that has seen one database of this layout uses the
//! statements everywhere.

pub(in crate::store::postgres) mod emit;
pub(in crate::store::postgres) mod letters;
pub(in crate::store::postgres) mod listing;
pub(in crate::store::postgres) mod looking;
pub(in crate::store::postgres) mod messages;
pub(in crate::store::postgres) mod outbox;
pub(in crate::store::postgres) mod timer;
pub(in crate::store::postgres) mod writing;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::store::fault::Fault;

/// Whether this process has seen a database whose tables are cut by `shard`.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Returns whether the statements of this folder are used.
pub(in crate::store::postgres) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Uses the statements of this folder from now on.
pub(in crate::store::postgres) fn switch_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// Returns the rows of each shard, with their indexes, in the order of the shards.
fn of_shards<T>(rows: &[T], shard: impl Fn(&T) -> i16) -> BTreeMap<i16, Vec<(usize, &T)>> {
    let mut shards: BTreeMap<i16, Vec<(usize, &T)>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        shards.entry(shard(row)).or_default().push((place, row));
    }
    shards
}

/// Statements that commit together: in the transaction of their connection, or in one of their own when there is none.
enum Together<'a> {
    Joined(&'a mut PgConnection),
    Owned(Transaction<'a, Postgres>),
}

impl<'a> Together<'a> {
    async fn begin(conn: &'a mut PgConnection) -> Result<Self, Fault> {
        Ok(match conn.is_in_transaction() {
            true => Together::Joined(conn),
            false => Together::Owned(conn.begin().await.map_err(Fault::before_any_statement)?),
        })
    }

    /// Commits a transaction of its own.
    async fn commit(self) -> Result<(), Fault> {
        match self {
            Together::Joined(_) => Ok(()),
            Together::Owned(tx) => Ok(tx.commit().await?),
        }
    }
}

impl Deref for Together<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Together::Joined(conn) => conn,
            Together::Owned(tx) => tx,
        }
    }
}

impl DerefMut for Together<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Together::Joined(conn) => conn,
            Together::Owned(tx) => tx,
        }
    }
}

/// Bounds each wait for a lock in the rest of the transaction, on the node of the shard. The setting of a session does
/// not reach the nodes.
const BOUND_LOCK_WAIT: &str = "SELECT set_config('lock_timeout', $2, true) FROM eventbox_anchor WHERE shard = $1";

async fn bound_lock_wait(tx: &mut PgConnection, shard: i16, milliseconds: &str) -> Result<(), Fault> {
    sqlx::query(BOUND_LOCK_WAIT).bind(shard).bind(milliseconds).execute(tx).await?;
    Ok(())
}
