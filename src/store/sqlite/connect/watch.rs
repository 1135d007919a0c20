//! The transaction of a turn on SQLite, watched: only the library can commit it, and its end is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::SqliteConnection;

use crate::store::fault::Fault;

/// Knowledge of the hooks of a connection about one transaction.
#[derive(Debug, Default)]
struct Seen {
    may_commit: AtomicBool,
    is_ended: AtomicBool,
}

/// The watch over one transaction. Until it is dropped nothing commits on the connection without leave.
///
/// Its hooks replace those that the connection had before, and stay until the next ones: SQLite has one of each kind.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Watch(Arc<Seen>);

impl Watch {
    /// Watches the transaction that has begun.
    pub(in crate::store::sqlite) async fn set(conn: &mut SqliteConnection) -> Result<Self, Fault> {
        let seen = Arc::new(Seen::default());
        let mut handle = conn.lock_handle().await?;
        let committing = Arc::clone(&seen);
        // A commit without leave becomes a rollback.
        handle.set_commit_hook(move || committing.may_commit.load(Ordering::Acquire));
        let ending = Arc::clone(&seen);
        handle.set_rollback_hook(move || ending.is_ended.store(true, Ordering::Release));
        Ok(Watch(seen))
    }

    /// Returns whether the transaction was rolled back: by a statement, by a commit without leave, or by the engine
    /// itself.
    pub(in crate::store::sqlite) fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }

    /// Gives leave to commit.
    pub(in crate::store::sqlite) fn allow_commit(&self) {
        self.0.may_commit.store(true, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.allow_commit();
    }
}
