//! What the workers tell through the `metrics` facade.

use std::time::Instant;

use metrics::{counter, gauge};

use crate::instrument::{Instrument, Kind};

const SHARDS: &str = "eventbox_runtime_shards";
const MEMBERS: &str = "eventbox_runtime_members";
const HANDED_OVER: &str = "eventbox_runtime_handed_over_total";
const PHASE_US: &str = "eventbox_runtime_phase_us_total";
const HOOKS: &str = "eventbox_runtime_hooks_total";
pub(super) const UNREGISTERED: &str = "eventbox_runtime_unregistered_total";

const NONE: &[f64] = &[];

/// All instruments of the runtime.
pub const INSTRUMENTS: &[Instrument] = &[
    Instrument {
        name: SHARDS,
        kind: Kind::Gauge,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Shards that this process works on",
    },
    Instrument {
        name: MEMBERS,
        kind: Kind::Gauge,
        unit: "{process}",
        labels: &[],
        buckets: NONE,
        help: "Processes that work on the boxes of the database",
    },
    Instrument {
        name: HANDED_OVER,
        kind: Kind::Counter,
        unit: "{shard}",
        labels: &[],
        buckets: NONE,
        help: "Shards that this process gave to another one",
    },
    Instrument {
        name: PHASE_US,
        kind: Kind::Counter,
        unit: "us",
        labels: &["phase"],
        buckets: NONE,
        help: "Time spent in a phase, of all tasks together: listing, round, turn or post-processing (which is a part of the former two)",
    },
    Instrument {
        name: HOOKS,
        kind: Kind::Counter,
        unit: "{turn}",
        labels: &["kind"],
        buckets: NONE,
        help: "Turns whose post-process hooks were run",
    },
    Instrument {
        name: UNREGISTERED,
        kind: Kind::Counter,
        unit: "{recipient}",
        labels: &["kind"],
        buckets: NONE,
        help: "How often a walk met a recipient of a kind that nobody here processes",
    },
];

pub(super) fn shards(owned: usize, members: usize) {
    #[allow(clippy::cast_precision_loss, reason = "there are 256 shards, and fewer processes than the precision")]
    for (name, value) in [(SHARDS, owned as f64), (MEMBERS, members as f64)] {
        gauge!(name).set(value);
    }
}

pub(super) fn handed_over(shards: u64) {
    counter!(HANDED_OVER).increment(shards);
}

pub(super) fn hooks_ran(kind: &str) {
    counter!(HOOKS, "kind" => kind.to_owned()).increment(1);
}

/// A phase of a task, counted when it ends.
pub(super) struct Phase {
    name: &'static str,
    since: Instant,
}

impl Phase {
    fn of(name: &'static str) -> Self {
        Phase { name, since: Instant::now() }
    }

    pub(super) fn listing() -> Self {
        Self::of("listing")
    }

    pub(super) fn round() -> Self {
        Self::of("round")
    }

    pub(super) fn turn() -> Self {
        Self::of("turn")
    }

    pub(super) fn post_processing() -> Self {
        Self::of("post-processing")
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        let us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        counter!(PHASE_US, "phase" => self.name).increment(us);
    }
}
