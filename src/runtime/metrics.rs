//! Metrics of the workers.

use std::time::{Duration, SystemTime};

use metrics::{counter, gauge, histogram};

use super::working::paused::PausedKinds;
use crate::eventbox::KindBacklog;
use crate::instrument::{Instrument, InstrumentKind};

const SHARDS: &str = "eventbox_runtime_shards";
const SHARD_STATES: &str = "eventbox_runtime_shard_states";
const MEMBERS: &str = "eventbox_runtime_members";
const HANDED_OVER: &str = "eventbox_runtime_handed_over_total";
const LEASE_AGE: &str = "eventbox_runtime_lease_age_seconds";
const LISTENING: &str = "eventbox_runtime_listening";
const HELD: &str = "eventbox_runtime_held_kinds";
const HOOKS: &str = "eventbox_runtime_hooks_total";
pub(super) const UNREGISTERED: &str = "eventbox_runtime_unregistered_total";

const SIZE: &str = "eventbox_size";
const OLDEST_AGE: &str = "eventbox_oldest_age_seconds";

const SCAN: &str = "eventbox_runtime_scan_seconds";

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

pub(super) fn shards(owned: usize, members: usize) {
    #[allow(clippy::cast_precision_loss, reason = "there are 256 shards, and fewer processes than the precision")]
    for (name, value) in [(SHARDS, owned as f64), (MEMBERS, members as f64)] {
        gauge!(name).set(value);
    }
}

pub(super) fn shard_states(primary: usize, standby: usize, failed: usize) {
    #[allow(clippy::cast_precision_loss, reason = "there are 256 shards")]
    for (state, shards) in [("primary", primary as f64), ("standby", standby as f64), ("failed", failed as f64)] {
        gauge!(SHARD_STATES, "state" => state).set(shards);
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are few kinds")]
pub(super) fn held(held: &PausedKinds) {
    for (reason, kinds) in [("paused", &held.paused), ("outbox", &held.throttled)] {
        gauge!(HELD, "reason" => reason).set(kinds.len() as f64);
    }
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

pub(super) fn hooks_ran(kind: &str) {
    counter!(HOOKS, "kind" => kind.to_owned()).increment(1);
}
