//! A transactional inbox for every entity, and a durable outbox beside it, in the SQL database you already have.
//!
//! An entity (an order, a run, an aircraft) is a [`Recipient`] and owns an eventbox. [`emit`] puts an [`Event`] into it, alone or inside the caller's
//! own SQL transaction. A [`Processor`] decides what pending events do to the entity, and [`process_batch`] applies that in a *turn*: one
//! transaction in which the entity's state is saved, the consumed events are removed, side effects run and messages are written to the outbox.
//! The [`emitter`] delivers the [`outbox`] to Chip Ingress, at least once, under keys that let a receiver make it exactly once.
//!
//! The engine is a type parameter: every function takes `sqlx`'s own pools and connections, on [`sqlx::Postgres`] or [`sqlx::Sqlite`]
//! ([`Backend`]).
//!
//! # Where to begin
//!
//! * [`migrate`] makes a database ready; [`sqlite_options`] opens a file so that a commit survives.
//! * [`emit`], [`emit_all`]: put events in. [`Event::named`]: make re-sending harmless.
//! * [`Processor`], [`Transition`], [`Mutation`]: what you write. [`process_batch`], [`pending`]: what you call.
//! * [`Reducer`], [`Outcome`]: what you write when the library may keep the state. [`reduce_batch`], [`state()`]: what you call.
//! * `runtime::Runtime` (feature `runtime`): workers that do that by themselves, in any number of processes.
//! * [`Error`]: what can go wrong, and whether to try again.
//! * [`INSTRUMENTS`]: what is told through the `metrics` facade. [`Event::traced`]: the context of a trace beside an event.
//!
//! # The layout
//!
//! The modules of the inbox are private and their names stand here, so that one writes `eventbox::emit`. [`dsset`] (a set of named events), [`admin`]
//! (looking and mending), [`outbox`] (messages for the world outside), [`emitter`] (their delivery), [`chip`] (the client that delivers) and
//! [`ingress`] are modules of their own. Below all of them, and private, lies the store: every SQL statement, for both engines.
//!
//! # What this is not
//!
//! Not a broker and not a stream: an event has one recipient, and is gone when that has consumed it.

pub mod admin;
#[cfg(feature = "emitter")]
pub mod chip;
mod clock;
mod cloudevent;
pub mod dsset;
#[cfg(feature = "emitter")]
pub mod emitter;
mod error;
mod eventbox;
#[cfg(any(feature = "emitter", feature = "runtime"))]
mod heartbeat;
#[cfg(feature = "ingress")]
pub mod ingress;
mod instrument;
mod json;
pub mod outbox;
pub mod proto;
mod recipient;
mod retry;
#[cfg(feature = "emitter")]
mod room;
#[cfg(feature = "runtime")]
pub mod runtime;
mod service;
mod shard;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod text;

pub use cloudevent::{
    AttributeValue, Attributes, CONTENT_TYPE, CloudEvent, CloudEventBuilder, CloudEventError, ExtensionValue,
    JSON_CONTENT_TYPE, RESERVED_NAMES, SPEC_VERSION, resource_names, resource_value,
};
pub use dsset::{DEFAULT_TOMBSTONE_DELAY, Pruner, PrunerConfig};
pub use error::{BoxError, Error, Misuse, Outage, Result, StateError, UnknownEvent};
pub use eventbox::*;
pub use instrument::{Instrument, Kind};
pub use json::MAX_JSON_DEPTH;
pub use recipient::{MAX_KEY_BYTES, Recipient};
pub use service::{Health, StopReport};
pub use store::{ANSWER_WAIT, Backend, EmitExecutor, IDLE_LIMIT, NAME_WAIT, RELEASE_WAIT};

/// The README's code is compiled and run.
#[cfg(all(doctest, feature = "sqlite", feature = "emitter"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The code of the guides is compiled and run.
#[cfg(all(doctest, feature = "sqlite", feature = "emitter", feature = "testing"))]
mod guides {
    #[doc = include_str!("../docs/turn.md")]
    struct Turn;
    #[doc = include_str!("../docs/names-and-tombstones.md")]
    struct NamesAndTombstones;
    #[cfg(feature = "postgres")]
    #[doc = include_str!("../docs/high-availability.md")]
    struct HighAvailability;
    #[doc = include_str!("../docs/writing-a-processor.md")]
    struct WritingAProcessor;
}
