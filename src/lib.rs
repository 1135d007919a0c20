//! A transactional inbox for every entity, and a durable outbox next to it, in the SQL database you already have.
//!
//! An entity (an order, a run, an aircraft) is a [`Recipient`] and owns an eventbox. [`emit`] puts an [`Event`] into
//! it, alone or inside the caller's own SQL transaction. A [`Reducer`] or a [`Processor`] decides what the pending
//! events do to the entity. A *turn* applies that in one transaction: it saves the state, removes the consumed events,
//! runs side effects and writes messages to the [`outbox`]. The [`emitter`] delivers these to Chip Ingress, at least
//! once, under keys that let a receiver make it exactly once.
//!
//! ```
//! use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, emit, reduce_batch, state};
//!
//! struct Orders;
//!
//! impl Reducer for Orders {
//!     type State = u64; // how many items were ordered; the library keeps it
//!
//!     fn reduce(&self, _order: &Recipient, events: &[Event], items: u64) -> Result<Outcome<u64>, BoxError> {
//!         Ok(Outcome::to(items + events.len() as u64).consuming(events))
//!     }
//! }
//!
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! # let pool = eventbox::pool_options::<sqlx::Sqlite>().max_connections(1);
//! # let pool = pool.connect_with(eventbox::sqlite_options(":memory:")).await?;
//! eventbox::migrate(&pool).await?;
//! let order = Recipient::new("order", "7")?;
//! emit(&pool, &order, Event::new("a pencil").named("click-1")).await?;
//! emit(&pool, &order, Event::new("a pencil").named("click-1")).await?; // sent again: changes nothing
//! let turn = reduce_batch(&pool, &order, &Orders, 100.try_into()?).await?;
//! assert_eq!((turn.number, turn.consumed), (Some(1), 1));
//! let at = state::<u64>(&pool, &order).await?.ok_or("no turn yet")?;
//! assert_eq!((at.turn, at.state), (1, Some(1)));
//! # Ok(()) }
//! # #[cfg(not(feature = "sqlite"))] fn main() {}
//! ```
//!
//! # Where to begin
//!
//! | To | use |
//! | --- | --- |
//! | make a database ready | [`migrate`], [`pool_options`], `sqlite_options`, `postgres_options` |
//! | put events in | [`emit`], [`emit_all`], [`Sender`]; [`Event::named`] makes a repeated emit harmless |
//! | slow down before a box is full | [`emit_with`], [`EmitOptions::max_waiting`] |
//! | let the library keep the state | [`Reducer`], [`Outcome`]; [`reduce_batch`], [`state()`] |
//! | keep the state in your tables | [`Processor`], [`Transition`], [`Mutation`]; [`process_batch`], [`pending`] |
//! | have workers do that in any number of processes | `runtime::Runtime` (feature `runtime`) |
//! | pop named events together with your own writes | [`dsset`] |
//! | consume files, or the changes of other tables, exactly once | `source` (feature `runtime`) |
//! | connect eventboxes to the outside | `peer` (feature `peer`): TCP, HTTP, WebSocket, files and more |
//! | send messages to the outside | [`outbox`]; `emitter` (feature `emitter`) delivers them |
//! | turn the bytes of connections into events | `peer` (feature `peer`) |
//! | ask and change shards over gRPC, send requests to a holder | `shard_api` (feature `shards`) |
//! | look at and repair what is stored | [`admin`]; `dashboard` (feature `dashboard`) is a web page for it |
//! | know whether to try again | [`Error`] |
//! | watch it | [`metrics`], `prometheus` (feature `prometheus`), [`Event::traced`] |
//!
//! The engine is a type parameter: every function takes `sqlx`'s own pools and connections, on `sqlx::Postgres` or
//! `sqlx::Sqlite` ([`Backend`]). Constants are in [`limits`], timers in [`timer`].
//!
//! # What this is not
//!
//! Not a broker and not a stream: an event has one recipient, and is gone when that has consumed it.

pub mod admin;
#[cfg(feature = "emitter")]
pub mod chip;
mod clock;
pub mod cloudevent;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod dsset;
#[cfg(feature = "emitter")]
pub mod emitter;
mod error;
mod eventbox;
#[cfg(any(feature = "ingress", feature = "shards"))]
mod grpc;
#[cfg(any(feature = "emitter", feature = "runtime"))]
mod heartbeat;
#[cfg(feature = "ingress")]
pub mod ingress;
mod instrument;
mod json;
mod origin;
pub mod outbox;
#[cfg(feature = "peer")]
pub mod peer;
#[cfg(feature = "prometheus")]
pub mod prometheus;
pub mod proto;
mod recipient;
mod retry;
#[cfg(feature = "emitter")]
mod room;
#[cfg(feature = "runtime")]
pub mod runtime;
mod service;
mod shard;
#[cfg(feature = "shards")]
pub mod shard_api;
#[cfg(feature = "runtime")]
pub mod source;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod text;

pub use cloudevent::CloudEvent;
pub use dsset::{Pruner, PrunerConfig};
pub use error::{BoxError, Error, Misuse, Outage, Result, StateError, UnknownEvent};
#[cfg(feature = "postgres")]
pub use eventbox::postgres_options;
#[cfg(feature = "sqlite")]
pub use eventbox::sqlite_options;
pub use eventbox::{
    Depth, DepthClass, EVersion, EmitOptions, Emitted, Event, EventId, Failure, HookErrors, Json, KindBacklog,
    Migration, Mutation, Next, Outcome, PayloadError, PoisonPolicy, PostProcess, Precision, Processor, Protobuf,
    Receipt, Reducer, ReducerAsProcessor, Sender, SenderConfig, SideEffect, StateAt, StateCodec, Status, Transition,
    Turn, TurnOptions, backlog, begin, check, emit, emit_all, emit_with, layout, migrate, migrate_citus_by_shard,
    migrate_citus_schema, migration_sql, migrations, pending, pool_options, process_batch, process_batch_with,
    reduce_batch, reduce_batch_with, roles_sql, state, state_as, status,
};
pub use origin::{Origin, OriginEntry};
pub use recipient::Recipient;
pub use service::{Health, StopReport};
pub use store::{Backend, EmitExecutor, Layout};
pub use {sqlx, uuid};

/// Events that are due later: how to cancel, list and move them. [`Event::due_in`] and [`Event::due_at`] make them.
pub mod timer {
    pub use crate::eventbox::{
        Due, MAX_LISTED_TIMER_BYTES, MAX_LISTED_TIMERS, MAX_MOVED, MAX_TIMER, Moved, cancel, move_due, timers,
    };
}

/// Bounds and default times.
pub mod limits {
    pub use crate::eventbox::{
        DEFAULT_HOOK_DEADLINE, DEFAULT_TURN_BYTES, DEFAULT_TURN_DEADLINE, MANY_WAITING, MAX_CONTENTION_RETRIES,
        MAX_COUNTED_EVENTS, MAX_EMIT_BYTES, MAX_EMIT_EVENTS, MAX_MAX_WAITING, MAX_PENDING, MAX_STATE_BYTES,
        MAX_TURN_AGE, MAX_VALUE_BYTES, POISON_CODE, REVALIDATE_IDLE_AFTER, SHARDS,
    };
    #[cfg(feature = "sqlite")]
    pub use crate::eventbox::{SQLITE_BUSY_TIMEOUT, SQLITE_CACHE_KIB};
    pub use crate::json::MAX_JSON_DEPTH;
    pub use crate::recipient::MAX_KEY_BYTES;
    pub use crate::store::{ANSWER_WAIT, IDLE_LIMIT, NAME_WAIT, RELEASE_WAIT};
}

/// Instruments of the inbox, which it records through the [`metrics`](https://docs.rs/metrics) facade.
///
/// Other tables are `chip::INSTRUMENTS`, `emitter::INSTRUMENTS`, `runtime::INSTRUMENTS` and
/// `source::INSTRUMENTS`.
pub mod metrics {
    pub use crate::eventbox::INSTRUMENTS;
    pub use crate::instrument::{Instrument, InstrumentKind};
}

/// The guides, as they stand in `docs/` of the repository.
#[cfg(all(doc, not(doctest)))]
pub mod guides {
    #[doc = include_str!("../docs/turn.md")]
    pub mod turn {}
    #[doc = include_str!("../docs/writing-a-processor.md")]
    pub mod writing_a_processor {}
    #[doc = include_str!("../docs/names-and-tombstones.md")]
    pub mod names_and_tombstones {}
    #[doc = include_str!("../docs/journal.md")]
    pub mod journal {}
    #[doc = include_str!("../docs/finding-work.md")]
    pub mod finding_work {}
    #[doc = include_str!("../docs/delivery.md")]
    pub mod delivery {}
    #[doc = include_str!("../docs/errors.md")]
    pub mod errors {}
    #[doc = include_str!("../docs/peers.md")]
    pub mod peers {}
    #[doc = include_str!("../docs/sources.md")]
    pub mod sources {}
    #[doc = include_str!("../docs/leases.md")]
    pub mod leases {}
    #[doc = include_str!("../docs/high-availability.md")]
    pub mod high_availability {}
    #[doc = include_str!("../docs/performance.md")]
    pub mod performance {}
    #[doc = include_str!("../docs/operating.md")]
    pub mod operating {}
}

/// The README's code is compiled and run.
#[cfg(all(doctest, feature = "sqlite", feature = "emitter"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The code of the guides is compiled and run.
#[cfg(all(doctest, feature = "sqlite", feature = "emitter", feature = "testing"))]
mod tested_guides {
    #[doc = include_str!("../docs/turn.md")]
    struct Turn;
    #[doc = include_str!("../docs/names-and-tombstones.md")]
    struct NamesAndTombstones;
    #[doc = include_str!("../docs/journal.md")]
    struct Journal;
    #[cfg(feature = "postgres")]
    #[doc = include_str!("../docs/high-availability.md")]
    struct HighAvailability;
    #[cfg(feature = "shards")]
    #[doc = include_str!("../docs/leases.md")]
    struct Leases;
    #[doc = include_str!("../docs/writing-a-processor.md")]
    struct WritingAProcessor;
    #[doc = include_str!("../docs/peers.md")]
    struct Peers;
    #[cfg(feature = "postgres")]
    #[doc = include_str!("../docs/sources.md")]
    struct Sources;
}
