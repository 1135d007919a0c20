//! The calls of an operator: they inspect and repair boxes, and return plain data.
//!
//! | call | purpose |
//! | --- | --- |
//! | [`standing`] | show the turn of a recipient, its pause and its failures |
//! | [`events`], [`backlog`] | list the events of a box, a page at a time; count them exactly |
//! | [`purge`], [`purge_all`] | delete events |
//! | [`quarantine`], [`quarantined`] | take events aside with a reason, list them |
//! | [`replay`], [`discard`] | put quarantined events back, or delete them |
//! | [`pause`], [`resume`] | stop the processing of a recipient, and go on |
//! | [`pause_kind`], [`resume_kind`], [`paused_kinds`] | the same for all recipients of a kind |
//! | [`stored_state`] | show the state that the library keeps, even if it cannot be decoded |
//! | [`set_state`], [`reset_state`] | edit or clear that state |
//! | [`forget`] | delete the last rows of a recipient that is gone for good |
//! | [`doctor`] | look at the database itself: what is wrong with it, and what to do |
//!
//! Every call that changes something moves the recipient's turn in the same transaction. So a turn in flight, which
//! decided on the rows before the change, fails as contention and starts again. It never applies an event that was just
//! taken away, and it never overwrites an edited state. A call that changes nothing moves no turn.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
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

mod doctor;
mod events;
mod kind;
mod quarantine;
mod recipient;

pub use doctor::{DoctorOptions, Finding, Severity, doctor};
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

/// Begins a transaction and moves the recipient's turn in it.
async fn begin_moving<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Tx<B>, Fault> {
    let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
    B::move_turn(&mut tx, of.shard().into(), of.as_str(), Uuid::new_v4()).await?;
    Ok(tx)
}

/// Commits if something was changed. Otherwise rolls back, so that no turn is moved.
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
