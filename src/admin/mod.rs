//! What an operator may ask of a box, and how it is repaired: library calls with plain data out.
//!
//! | call | what |
//! | --- | --- |
//! | [`standing`] | the turn of a recipient, whether it is paused, and how it fails |
//! | [`events`], [`backlog`] | what waits in a box, a page at a time; how much it is, exactly |
//! | [`purge`], [`purge_all`] | throw events away |
//! | [`quarantine`], [`quarantined`], [`replay`], [`discard`] | take events aside with a reason, look at them, put them back or throw them away |
//! | [`pause`], [`resume`] | let nothing be processed, and go on |
//! | [`pause_kind`], [`resume_kind`], [`paused_kinds`] | the same for all recipients of a kind |
//! | [`stored_state`], [`set_state`], [`reset_state`] | look at the state that the library keeps, also one that cannot be decoded, and edit or clear it |
//! | [`forget`] | delete the last traces of a recipient that is no more |
//!
//! Every call that writes moves the recipient's turn in the same transaction. So a turn in flight, which was decided on what was there before,
//! fails as contention and starts anew: it never applies what was just taken away, and it never overwrites an edited state. Calls that turn
//! out to change nothing move no turn.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
//! # eventbox::migrate(&pool).await?;
//! use eventbox::{Event, Recipient, admin};
//!
//! let aircraft = Recipient::new("aircraft", "N14228")?;
//! eventbox::emit(&pool, &aircraft, Event::new("not what it should be")).await?;
//! let bad = admin::events(&pool, &aircraft, None, 10).await?;
//! assert_eq!(admin::quarantine(&pool, &aircraft, &[bad[0].id()], "no flight number").await?, 1);
//! assert_eq!(admin::quarantined(&pool, &aircraft, None, 10).await?[0].reason, "no flight number");
//! assert_eq!(admin::replay(&pool, &aircraft, &[bad[0].id()]).await?, 1);
//! # Ok(()) }
//! ```

mod events;
mod kind;
mod quarantine;
mod recipient;

pub use events::{Backlog, MAX_IDS, MAX_LISTED, MAX_LISTED_BYTES, PURGE_SLICE, backlog, events, purge, purge_all};
pub use kind::{PausedKind, pause_kind, paused_kinds, resume_kind};
pub use quarantine::{MAX_REASON_BYTES, QUARANTINED, Quarantined, discard, quarantine, quarantined, replay};
pub use recipient::{
    FORGET_AFTER, Forgotten, MAX_EDIT_BYTES, Standing, StoredState, forget, pause, reset_state, resume, set_state,
    standing, stored_state,
};

use std::fmt;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Tx, begin_tx};

/// Begins a transaction that has moved the recipient's turn.
async fn begin_moving<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Tx<B>, Fault> {
    let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
    B::move_turn(&mut tx, of.shard().into(), of.as_str(), Uuid::new_v4()).await?;
    Ok(tx)
}

/// Commits what was changed; rolls back, and moves no turn, when that was nothing.
async fn end<B: Backend>(tx: Tx<B>, changed: bool, attempt: impl fmt::Display) -> Result<()> {
    if changed {
        return tx.commit().await.map_err(|fault| fault.during_commit(attempt));
    }
    tx.rollback().await;
    Ok(())
}

fn time_of(since_us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since_us).unwrap_or(0))
}
