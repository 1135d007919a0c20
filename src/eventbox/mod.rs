//! The inbox: events in, turns out. Private; its names are re-exported at the front page.

mod commit;
mod database;
mod decision;
mod emit;
mod event;
mod guard;
mod hint;
mod metrics;
mod migrate;
mod options;
mod pending;
mod poison;
mod process;
mod processor;
mod receipt;
mod reducer;
mod reducing;
#[cfg(feature = "runtime")]
mod round;
mod sender;
mod sending;
mod settle;
mod state;
mod status;
mod timer;
mod trace;
mod transition;

pub use commit::Failure;
#[cfg(feature = "postgres")]
pub use database::postgres_options;
#[cfg(feature = "sqlite")]
pub use database::{SQLITE_BUSY_TIMEOUT, SQLITE_CACHE_KIB, sqlite_options};
pub use database::{TRUSTED_IDLE, begin, check, pool_options};
pub use emit::{Emitted, MAX_EMIT_BYTES, MAX_EMIT_EVENTS, MAX_VALUE_BYTES, emit, emit_all};
pub use event::{Event, EventId, PayloadError};
pub(crate) use hint::mark;
#[cfg(feature = "runtime")]
pub(crate) use hint::{Hinted, Hints, listen};
pub use metrics::INSTRUMENTS;
#[cfg(feature = "runtime")]
pub(crate) use metrics::{Phase, spent};
#[cfg(feature = "runtime")]
pub(crate) use migrate::check_migrated;
pub use migrate::migrate;
#[cfg(feature = "runtime")]
pub(crate) use options::Jury;
#[cfg(feature = "runtime")]
pub(crate) use options::longest_pause_us;
pub use options::{DEFAULT_TURN_BYTES, DEFAULT_TURN_DEADLINE, TurnOptions};
pub use pending::{MAX_PENDING, SHARDS, pending};
pub use poison::{POISON, Poison};
pub use process::{MAX_CONTENTION_RETRIES, MAX_TURN_AGE, Turn, process_batch, process_batch_with};
pub use processor::{EVersion, Processor};
pub use receipt::Receipt;
pub use reducer::{Next, Outcome, Reducer};
#[cfg(feature = "testing")]
pub(crate) use reducing::with_state_error;
pub use reducing::{Reducing, reduce_batch};
#[cfg(feature = "runtime")]
pub(crate) use round::{Done, KnownState, Limits, Part, Rounds, Typed, round};
pub use sender::{Sender, SenderConfig, SenderStopped};
#[cfg(feature = "emitter")]
pub use state::Protobuf;
pub use state::{Json, MAX_STATE_BYTES, StateAt, StateCodec, state, state_as};
pub use status::{Status, status};
pub use timer::{
    Due, MAX_LISTED_TIMER_BYTES, MAX_LISTED_TIMERS, MAX_MOVED, MAX_TIMER, Moved, cancel, move_due, timers,
};
pub use transition::{HookErrors, Mutation, PostProcess, SideEffect, Transition};
