//! The inbox: emitting events, and turns that process them. Private; lib.rs exports its names.

mod backlog;
mod database;
mod decide;
mod emit;
mod event;
mod metrics;
mod migrate;
mod migrations;
mod pending;
#[cfg(feature = "runtime")]
mod round;
mod turn;

pub use crate::shard::SHARDS;
pub use backlog::{KindBacklog, MAX_COUNTED_EVENTS, Precision, backlog};
#[cfg(feature = "postgres")]
pub use database::postgres_options;
pub use database::{REVALIDATE_IDLE_AFTER, begin, check, layout, pool_options};
#[cfg(feature = "sqlite")]
pub use database::{SQLITE_BUSY_TIMEOUT, SQLITE_CACHE_KIB, sqlite_options};
#[cfg(all(test, feature = "runtime"))]
pub(crate) use decide::erased::AnyState;
#[cfg(feature = "runtime")]
pub(crate) use decide::erased::ErasedProcessor;
#[cfg(feature = "runtime")]
pub use decide::hooks::{Round, RoundHooks, RoundResult};
pub use decide::processor::{EVersion, Processor};
pub use decide::reducer::{Next, Outcome, Reducer};
#[cfg(feature = "testing")]
pub(crate) use decide::reducer_adapter::with_state_error;
pub use decide::reducer_adapter::{ReducerAsProcessor, reduce_batch, reduce_batch_with};
pub use decide::state::Protobuf;
pub use decide::state::{Json, MAX_STATE_BYTES, StateAt, StateCodec, state, state_as};
pub use decide::transition::{HookErrors, Mutation, PostProcess, SideEffect, Transition};
#[cfg(feature = "runtime")]
pub(crate) use emit::check as check_event;
#[cfg(feature = "peer")]
pub(crate) use emit::check_all;
pub use emit::depth::{Depth, DepthClass, EmitOptions, MANY_WAITING, MAX_MAX_WAITING, emit_with};
pub(crate) use emit::emit_all_in;
#[cfg(feature = "peer")]
pub(crate) use emit::emit_all_on;
pub use emit::sender::{Sender, SenderConfig};
pub(crate) use emit::wake_up::STREAM_KIND;
#[cfg(feature = "runtime")]
pub(crate) use emit::wake_up::in_transaction;
pub(crate) use emit::wake_up::wake_shard;
#[cfg(feature = "runtime")]
pub(crate) use emit::wake_up::{WakeUp, WakeUps, is_stream, listen};
pub use emit::{Emitted, MAX_EMIT_BYTES, MAX_EMIT_EVENTS, MAX_VALUE_BYTES, emit, emit_all};
pub use event::receipt::Receipt;
pub use event::status::{Status, status};
#[cfg(feature = "testing")]
pub(crate) use event::timer::move_due_at;
pub use event::timer::{
    Due, MAX_LISTED_TIMER_BYTES, MAX_LISTED_TIMERS, MAX_MOVED, MAX_TIMER, Moved, cancel, move_due, timers,
};
pub use event::{Event, EventId, PayloadError};
pub use metrics::INSTRUMENTS;
pub(crate) use metrics::TOMBSTONES;
#[cfg(feature = "runtime")]
pub(crate) use metrics::{Phase, shard_name, spent, spent_for};
#[cfg(feature = "runtime")]
pub(crate) use migrate::check_migrated;
pub(crate) use migrate::{Migrated, migrated};
pub use migrate::{migrate, migrate_citus_by_shard, migrate_citus_schema};
pub use migrations::{Migration, migration_sql, migrations, roles_sql};
pub use pending::{MAX_PENDING, pending};
#[cfg(feature = "runtime")]
pub(crate) use round::{
    CodeLimits, Done, ErasedReducer, KnownState, Limits, MAX_ROUND_EVENTS, ProcessorWay, ReducerWay, RoundMember,
    Rounded, TypedReducer, round,
};
#[cfg(feature = "runtime")]
pub(crate) use turn::hooked::{Begun, ErasedHooks};
pub use turn::inside::Failure;
#[cfg(feature = "runtime")]
pub(crate) use turn::kept_state::{Keeper, KeptState};
#[cfg(feature = "runtime")]
pub(crate) use turn::options::Jury;
#[cfg(feature = "runtime")]
pub(crate) use turn::options::longest_pause_us;
pub use turn::options::{DEFAULT_HOOK_DEADLINE, DEFAULT_TURN_BYTES, DEFAULT_TURN_DEADLINE, TurnOptions};
#[cfg(feature = "runtime")]
pub(crate) use turn::poison::failed_in_part;
pub use turn::poison::{POISON_CODE, PoisonPolicy};
pub use turn::{MAX_CONTENTION_RETRIES, MAX_TURN_AGE, Turn, process_batch, process_batch_with};
#[cfg(feature = "runtime")]
pub(crate) use turn::{Work, process_batch_keeping};
