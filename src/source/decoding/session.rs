//! The session that reads a slot. The server gives a slot to one session at a time.

use std::sync::Arc;

use sqlx::Postgres;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use super::Slot;
use crate::store::{Fault, Held, answered, decoding, hold};

/// A connection that reads a slot.
///
/// The server goes on with a statement whose caller is gone, and the slot stays in use until then. So a session that is
/// dropped before [`finish`](Session::finish) ends itself on the server, and readers of this process wait until then.
pub(super) struct Session {
    pub(super) conn: Held<Postgres>,
    unfinished: Unfinished,
}

/// What ends the session on the server.
struct Unfinished {
    slot: Arc<Slot>,
    session_id: i32,
    /// The turn of this reader; none once its statements are answered.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Session {
    /// Waits until no reader of this process uses the slot, and takes a connection. Returns also where the log ends.
    pub(super) async fn begin(slot: &Arc<Slot>) -> Result<(Self, decoding::LogEnds), Fault> {
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        let mut conn = hold(&slot.pool).await?;
        let log = decoding::log_ends(&mut conn).await?;
        let unfinished = Unfinished { slot: Arc::clone(slot), session_id: log.session_id, turn: Some(turn) };
        Ok((Session { conn, unfinished }, log))
    }

    /// Notes that the statements on the slot are answered.
    pub(super) fn finish(&mut self) {
        self.unfinished.turn = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let (Some(turn), Ok(runtime)) = (self.turn.take(), Handle::try_current()) else { return };
        let (slot, session_id) = (Arc::clone(&self.slot), self.session_id);
        runtime.spawn(async move {
            let ending = answered(&slot.pool, async {
                decoding::end_session(&mut *hold(&slot.pool).await?, &slot.slot, session_id).await
            });
            if let Err(fault) = ending.await {
                let name = slot.slot.as_str();
                tracing::warn!(slot = name, session_id, error = %fault.0, "a session may go on to use its slot");
            }
            drop(turn);
        });
    }
}
