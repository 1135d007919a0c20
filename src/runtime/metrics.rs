//! Metrics of the workers.

use std::time::{Duration, SystemTime};

use metrics::{counter, gauge, histogram};

use super::working::paused::PausedKinds;
use super::working::rates::HeldBy;
use crate::eventbox::{KindBacklog, shard_name};
use crate::instrument::{Instrument, InstrumentKind};

const SHARDS: &str = "eventbox_runtime_shards";
const SHARD_STATES: &str = "eventbox_runtime_shard_states";
const MEMBERS: &str = "eventbox_runtime_members";
const HANDED_OVER: &str = "eventbox_runtime_handed_over_total";
const TAKEN: &str = "eventbox_runtime_taken_total";
const SHARD_FAILURES: &str = "eventbox_runtime_shard_failures_total";
const LEASE_AGE: &str = "eventbox_runtime_lease_age_seconds";
const LISTENING: &str = "eventbox_runtime_listening";
const HELD: &str = "eventbox_runtime_held_kinds";
const HELD_RECIPIENTS: &str = "eventbox_runtime_held_recipients";
const HOOKS: &str = "eventbox_runtime_hooks_total";
pub(super) const UNREGISTERED: &str = "eventbox_runtime_unregistered_total";

const SIZE: &str = "eventbox_size";
const OLDEST_AGE: &str = "eventbox_oldest_age_seconds";

const SCAN: &str = "eventbox_runtime_scan_seconds";

const SHARD_UP: &str = "eventbox_shard_up";
const SHARD_GENERATION: &str = "eventbox_shard_generation";
const SHARD_TURNS: &str = "eventbox_shard_turns_total";
const SHARD_EVENTS: &str = "eventbox_shard_events_total";

/// States of a shard, as labels.
pub(super) const PRIMARY: &str = "primary";
pub(super) const STANDBY: &str = "standby";
pub(super) const FAILED: &str = "failed";

const NONE: &[f64] = &[];

const SECONDS: &[f64] = &[0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// All instruments of the runtime.
pub const INSTRUMENTS: &[Instrument] = &[
    Instrument {
        name: SIZE,
        kind: InstrumentKind::Gauge,
        unit: "{event}",
        labels: &["kind"],
        buckets: NONE,
        help: "Events that wait in the eventboxes of a registered kind, of the whole database: take the maximum over \
               the processes. Counted every 10 s; beyond the bound of eventbox::backlog an estimate or a lower bound",
    },
    Instrument {
        name: OLDEST_AGE,
        kind: InstrumentKind::Gauge,
        unit: "s",
        labels: &["kind"],
        buckets: NONE,
        help: "Age of the oldest event that eventbox_size has counted, 0 without events",
    },
    Instrument {
        name: SHARDS,
        kind: InstrumentKind::Gauge,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Shards that this process works on",
    },
    Instrument {
        name: SHARD_STATES,
        kind: InstrumentKind::Gauge,
        unit: "{shard}",
        labels: &["state"],
        buckets: NONE,
        help: "Shards of this process by state: primary (it works on them), standby (it would take them), failed (it \
               holds them, and leaves them alone because their rounds failed as a whole)",
    },
    Instrument {
        name: MEMBERS,
        kind: InstrumentKind::Gauge,
        unit: "{process}",
        labels: &[],
        buckets: NONE,
        help: "Processes that work on the boxes of the database",
    },
    Instrument {
        name: HANDED_OVER,
        kind: InstrumentKind::Counter,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Shards that this process handed over",
    },
    Instrument {
        name: TAKEN,
        kind: InstrumentKind::Counter,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Shards that this process took because no process held them: they were free, or their leases had expired",
    },
    Instrument {
        name: SHARD_FAILURES,
        kind: InstrumentKind::Counter,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Number of times that a shard of this process failed, because its rounds failed as a whole",
    },
    Instrument {
        name: LEASE_AGE,
        kind: InstrumentKind::Gauge,
        unit: "s",
        labels: &[],
        buckets: NONE,
        help: "Time since this process renewed its leases; at the lease's time other processes take its shards",
    },
    Instrument {
        name: LISTENING,
        kind: InstrumentKind::Gauge,
        unit: "1",
        labels: &[],
        buckets: NONE,
        help: "1 while wake-ups of other processes are heard, 0 while the poll alone finds their events",
    },
    Instrument {
        name: HELD,
        kind: InstrumentKind::Gauge,
        unit: "{kind}",
        labels: &["reason"],
        buckets: NONE,
        help: "Kinds on hold: paused by an operator, or throttled because the outbox is over its quota",
    },
    Instrument {
        name: HELD_RECIPIENTS,
        kind: InstrumentKind::Gauge,
        unit: "{recipient}",
        labels: &["kind", "by"],
        buckets: NONE,
        help: "Recipients with events that this process holds because of a rate of their kind: min_interval, \
               max_concurrent or rate",
    },
    Instrument {
        name: HOOKS,
        kind: InstrumentKind::Counter,
        unit: "{turn}",
        labels: &["kind"],
        buckets: NONE,
        help: "Turns whose post-process hooks were run",
    },
    Instrument {
        name: SCAN,
        kind: InstrumentKind::Histogram,
        unit: "s",
        labels: &[],
        buckets: SECONDS,
        help: "Time of a scan for recipients with events; it grows while an old transaction keeps removed rows",
    },
    Instrument {
        name: SHARD_UP,
        kind: InstrumentKind::Gauge,
        unit: "1",
        labels: &["shard", "state"],
        buckets: NONE,
        help: "1 while the shard has the state in this process, 0 after that, when RuntimeConfig asks for \
               shard_metrics",
    },
    Instrument {
        name: SHARD_GENERATION,
        kind: InstrumentKind::Gauge,
        unit: "1",
        labels: &["shard"],
        buckets: NONE,
        help: "Number of changes of the holder of a shard that this process holds, 0 once it is another's, when \
               RuntimeConfig asks for shard_metrics: take the maximum over the processes",
    },
    Instrument {
        name: SHARD_TURNS,
        kind: InstrumentKind::Counter,
        unit: "{turn}",
        labels: &["shard"],
        buckets: NONE,
        help: "Turns of the recipients of a shard that this process committed, in rounds or alone, when RuntimeConfig \
               asks for shard_metrics",
    },
    Instrument {
        name: SHARD_EVENTS,
        kind: InstrumentKind::Counter,
        unit: "{event}",
        labels: &["shard"],
        buckets: NONE,
        help: "Events that these turns removed from their boxes",
    },
    Instrument {
        name: UNREGISTERED,
        kind: InstrumentKind::Counter,
        unit: "{recipient}",
        labels: &["kind"],
        buckets: NONE,
        help: "Recipients that a scan found whose kind this process does not handle",
    },
];

/// Records the number of waiting events of a kind, and the age of the oldest.
pub(super) fn waiting(backlog: &KindBacklog, now: SystemTime) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
    gauge!(SIZE, "kind" => backlog.kind.clone()).set(backlog.events as f64);
    let age = backlog.oldest.and_then(|oldest| now.duration_since(oldest.emitted_at()).ok());
    gauge!(OLDEST_AGE, "kind" => backlog.kind.clone()).set(age.unwrap_or_default().as_secs_f64());
}

#[allow(clippy::cast_precision_loss, reason = "there are fewer processes than the precision")]
pub(super) fn members(members: usize) {
    gauge!(MEMBERS).set(members as f64);
}

pub(super) fn shard_states(primary: usize, standby: usize, failed: usize) {
    #[allow(clippy::cast_precision_loss, reason = "there are 256 shards")]
    gauge!(SHARDS).set(primary as f64);
    #[allow(clippy::cast_precision_loss, reason = "there are 256 shards")]
    for (state, shards) in [(PRIMARY, primary as f64), (STANDBY, standby as f64), (FAILED, failed as f64)] {
        gauge!(SHARD_STATES, "state" => state).set(shards);
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are few kinds")]
pub(super) fn held(held: &PausedKinds) {
    for (reason, kinds) in [("paused", &held.paused), ("outbox", &held.throttled)] {
        gauge!(HELD, "reason" => reason).set(kinds.len() as f64);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
pub(super) fn held_recipients(kind: &str, by: HeldBy, held: usize) {
    gauge!(HELD_RECIPIENTS, "kind" => kind.to_owned(), "by" => by.name()).set(held as f64);
}

pub(super) fn scanned(took: Duration) {
    histogram!(SCAN).record(took.as_secs_f64());
}

pub(super) fn lease_age(age: Duration) {
    gauge!(LEASE_AGE).set(age.as_secs_f64());
}

pub(super) fn listening(yes: bool) {
    gauge!(LISTENING).set(f64::from(u8::from(yes)));
}

pub(super) fn handed_over(shards: u64) {
    counter!(HANDED_OVER).increment(shards);
}

pub(super) fn taken(shards: u64) {
    counter!(TAKEN).increment(shards);
}

pub(super) fn shard_failed() {
    counter!(SHARD_FAILURES).increment(1);
}

/// Makes the counters of rare occurrences known with 0, so that the first occurrence is an increase.
pub(super) fn no_failures_yet() {
    for name in [HANDED_OVER, TAKEN, SHARD_FAILURES] {
        counter!(name).increment(0);
    }
}

pub(super) fn shard_up(shard: u8, state: &'static str, is_up: bool) {
    gauge!(SHARD_UP, "shard" => shard_name(shard), "state" => state).set(f64::from(u8::from(is_up)));
}

#[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
pub(super) fn shard_generation(shard: u8, generation: i64) {
    gauge!(SHARD_GENERATION, "shard" => shard_name(shard)).set(generation as f64);
}

/// Counts a turn by its shard.
pub(super) fn shard_turn(shard: u8, removed: usize) {
    counter!(SHARD_TURNS, "shard" => shard_name(shard)).increment(1);
    counter!(SHARD_EVENTS, "shard" => shard_name(shard)).increment(removed as u64);
}

pub(super) fn hooks_ran(kind: &str) {
    counter!(HOOKS, "kind" => kind.to_owned()).increment(1);
}
