//! The watch over the transaction of a turn on SQLite: only the library can commit it, and the watch notices its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::SqliteConnection;

use crate::store::fault::Fault;

/// What the hooks of a connection know about one transaction.
#[derive(Debug, Default)]
struct Seen {
    may_commit: AtomicBool,
    is_ended: AtomicBool,
}

/// The watch over one transaction. Until its drop the connection commits only with the library's permission.
///
/// The hooks replace earlier hooks of the connection, and stay until the next ones: SQLite has one hook of each kind.
#[derive(Debug)]
pub(in crate::store::sqlite) struct Watch(Arc<Seen>);

impl Watch {
    /// Watches the transaction that has begun.
    pub(in crate::store::sqlite) async fn set(conn: &mut SqliteConnection) -> Result<Self, Fault> {
        let seen = Arc::new(Seen::default());
        let mut handle = conn.lock_handle().await?;
        let committing = Arc::clone(&seen);
        // A commit without permission becomes a rollback.
        handle.set_commit_hook(move || committing.may_commit.load(Ordering::Acquire));
        let ending = Arc::clone(&seen);
        handle.set_rollback_hook(move || ending.is_ended.store(true, Ordering::Release));
        Ok(Watch(seen))
    }

    /// Returns whether the transaction was rolled back: by a statement, by a commit without permission, or by the
    /// engine itself.
    pub(in crate::store::sqlite) fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }

    /// Permits the commit.
    pub(in crate::store::sqlite) fn allow_commit(&self) {
        self.0.may_commit.store(true, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.allow_commit();
    }
}
