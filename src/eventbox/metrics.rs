//! The instruments of eventboxes, in the `metrics` facade. The label is the recipient's kind, except where events of
//! several kinds are counted together. Counts are made after the commit.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use uuid::Uuid;

use super::emit::Emitted;
use super::event::EventId;
use super::turn::Turn;
use crate::clock;
use crate::error::{Error, Result};
use crate::instrument::{Instrument, InstrumentKind};
use crate::recipient::Recipient;
use crate::store::{Class, Fault, ListedRow};

/// Upper ends of the buckets of the reference, thinned out: 1 ms to about ten minutes, each 10^0.29 times the one
/// before.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.0038, 0.0074, 0.0145, 0.0282, 0.055, 0.107, 0.209, 0.407, 0.794, 1.55, 3.02, 5.89, 11.5, 22.4,
    43.7, 85.1, 166.0, 324.0, 631.0,
];
/// Upper ends of the buckets of a phase, of which most take less than 10 ms.
const PHASE_SECONDS: &[f64] = &[0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
const EVENTS: &[f64] =
    &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
const NONE: &[f64] = &[];

macro_rules! instruments {
    ($(
        $constant:ident = $name:expr, $kind:ident, $unit:literal, [$($label:literal),*], $buckets:expr,
        $help:literal;
    )+) => {
        $(pub(crate) const $constant: &str = $name;)+

        /// All instruments of the inbox.
        ///
        /// `kind` is the recipient's kind, so the number of series is the number of kinds, independent of the number of
        /// entities. The effects of a turn are counted after its commit, with the numbers that were really removed.
        pub const INSTRUMENTS: &[Instrument] = &[$(Instrument {
            name: $constant,
            kind: InstrumentKind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            buckets: $buckets,
            help: $help,
        }),+];
    };
}

instruments! {
    LIST_DURATION = "eventbox_list_duration_seconds", Histogram, "s", ["kind", "result"], SECONDS,
        "Time of a listing; the result is OK, TIMEOUT (the database is not available) or FAILURE";
    SENT = "eventbox_sent_total", Counter, "{event}", ["kind"], NONE,
        "Events that were added, counted when the statement was answered: before the commit of a caller's \
         transaction";
    REMOVED = "eventbox_removed_total", Counter, "{event}", ["kind"], NONE,
        "Events that left their box in a committed turn: consumed, or garbage";
    CONTENTION = "eventbox_contention_total", Counter, "{attempt}", ["kind"], NONE,
        "Attempts of a turn that another writer overtook";
    PROCESS_DURATION = "eventbox_process_duration_seconds", Histogram, "s", ["kind", "result"], SECONDS,
        "Time of a call of process_batch; the result is committed, nothing, contention, transient, unknown, paused \
         or failed";
    BATCH_EVENTS = "eventbox_batch_events", Histogram, "{event}", ["kind"], EVENTS,
        "Events that a committed turn was decided on";
    TRANSITIONS = "eventbox_transitions_total", Counter, "{transition}", ["kind"], NONE,
        "Transitions of committed turns";
    GARBAGE = "eventbox_garbage_total", Counter, "{event}", ["kind"], NONE, "Events that were removed as garbage";
    SEND_GROUP_EVENTS = "eventbox_send_group_events", Histogram, "{event}", [], EVENTS,
        "Events that a group of a Sender inserted together";
    EMIT_TO_COMMIT = "eventbox_emit_to_commit_seconds", Histogram, "s", ["kind"], SECONDS,
        "Time from the emit of an event, by the clock of the emitter, to the commit of the turn that consumed \
         it; the wait of a timer is a part of it";
    PHASE = "eventbox_phase_seconds", Histogram, "s", ["phase"], PHASE_SECONDS,
        "Time of a phase of a turn or of a round: listing (scans included), preparing, committing, post-processing; \
         and idle, reported once a second, while a runtime has nothing to do";
    SHARD_PHASE = "eventbox_shard_phase_seconds", Gauge, "s", ["shard", "phase"], NONE,
        "Time that this process has spent in a phase for a shard since its start, when RuntimeConfig or \
         TurnOptions ask for shard_metrics; recipients of a round share its time evenly";
    QUARANTINED = "eventbox_quarantined_total", Counter, "{event}", ["kind"], NONE,
        "Events that went into quarantine because they made every batch fail";
    DUPLICATES = "eventbox_duplicates_total", Counter, "{event}", ["kind"], NONE,
        "Named events that changed nothing, because their name is remembered";
    TOMBSTONES = "eventbox_tombstones", Gauge, "{name}", [], NONE,
        "Names that are remembered after a pass of the pruner";
}

/// Shard numbers as texts, made once.
static SHARD_NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..=u8::MAX).map(|shard| shard.to_string()).collect());

/// Phase in which a task spends its time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Listing,
    Preparing,
    Committing,
    #[cfg(feature = "runtime")]
    PostProcessing,
    #[cfg(feature = "runtime")]
    Idle,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Listing => "listing",
            Phase::Preparing => "preparing",
            Phase::Committing => "committing",
            #[cfg(feature = "runtime")]
            Phase::PostProcessing => "post-processing",
            #[cfg(feature = "runtime")]
            Phase::Idle => "idle",
        }
    }
}

/// Records the time of a phase; also by shard, when the shards are given, each with its number of recipients. They
/// share the time.
pub(crate) fn spent(phase: Phase, elapsed: Duration, shards: Option<impl Iterator<Item = (u8, u32)> + Clone>) {
    histogram!(PHASE, "phase" => phase.name()).record(elapsed.as_secs_f64());
    let Some(shards) = shards else { return };
    let recipients: u32 = shards.clone().map(|(_, recipients)| recipients).sum();
    for (shard, its) in shards.filter(|(_, its)| *its > 0) {
        spent_for(phase, elapsed.as_secs_f64() * f64::from(its) / f64::from(recipients), shard);
    }
}

/// Records time that a process spent for a shard.
pub(crate) fn spent_for(phase: Phase, seconds: f64, shard: u8) {
    gauge!(SHARD_PHASE, "shard" => shard_name(shard), "phase" => phase.name()).increment(seconds);
}

/// Returns a shard as the value of a label.
pub(crate) fn shard_name(shard: u8) -> &'static str {
    SHARD_NAMES.get(usize::from(shard)).map_or("", String::as_str)
}

/// Records the wait of events that a turn consumed.
pub(super) fn consumed(kind: &str, ids: impl IntoIterator<Item = Uuid>) {
    let now = clock::now();
    let waited = histogram!(EMIT_TO_COMMIT, "kind" => kind.to_owned());
    for id in ids {
        waited.record(now.duration_since(EventId(id).emitted_at()).unwrap_or_default().as_secs_f64());
    }
}

/// Counts events that went into quarantine because they kept failing.
pub(super) fn quarantined(kind: &str, events: usize) {
    counter!(QUARANTINED, "kind" => kind.to_owned()).increment(events as u64);
}

/// Records the time and result of a listing.
pub(super) fn listed(kind: &str, elapsed: Duration, rows: Result<&[ListedRow], &Fault>) {
    let result = match rows {
        Ok(_) => "OK",
        Err(fault) if fault.class() == Class::Transient => "TIMEOUT",
        Err(_) => "FAILURE",
    };
    histogram!(LIST_DURATION, "kind" => kind.to_owned(), "result" => result).record(elapsed.as_secs_f64());
}

/// Counts an emit when its statement returned. In a caller's transaction that is before the commit.
pub(super) fn emitted(to: &Recipient, answer: Emitted) {
    let name = if answer == Emitted::Added { SENT } else { DUPLICATES };
    counter!(name, "kind" => to.kind().to_owned()).increment(1);
}

/// Records the number of events of a sender's insert.
pub(super) fn sent_group(events: usize) {
    #[allow(clippy::cast_precision_loss, reason = "a group is far smaller than the precision")]
    histogram!(SEND_GROUP_EVENTS).record(events as f64);
}

/// Counts an attempt that another writer overtook.
pub(super) fn contention(kind: &str) {
    counter!(CONTENTION, "kind" => kind.to_owned()).increment(1);
}

/// Counts a committed turn.
pub(super) fn committed(kind: &str, events: usize, transitions: usize, consumed: usize, garbage: usize) {
    #[allow(clippy::cast_precision_loss, reason = "a batch is far smaller than the precision")]
    histogram!(BATCH_EVENTS, "kind" => kind.to_owned()).record(events as f64);
    for (name, count) in [(TRANSITIONS, transitions), (REMOVED, consumed + garbage), (GARBAGE, garbage)] {
        counter!(name, "kind" => kind.to_owned()).increment(count as u64);
    }
}

/// Records the time and result of a call, with a turn or without.
pub(super) fn processed(kind: &str, elapsed: Duration, done: &Result<Turn>) {
    let result = match done {
        Ok(Turn { number: Some(_), .. }) => "committed",
        Ok(_) => "nothing",
        Err(Error::Contention { .. }) => "contention",
        Err(Error::Transient { .. }) => "transient",
        Err(Error::Unknown { .. }) => "unknown",
        Err(Error::Paused { .. }) => "paused",
        Err(_) => "failed",
    };
    histogram!(PROCESS_DURATION, "kind" => kind.to_owned(), "result" => result).record(elapsed.as_secs_f64());
}
