//! The faults of a run, drawn from a seed.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    PrimaryKilled,
    PrimaryFrozen,
    SwitchOver,
    NetworkCut,
    RestartFast,
    RestartImmediate,
    RestartKilled,
    AllSilent,
    HalfSilent,
    ServerFrozen,
    DiskFull,
    DatabaseClock,
    ProcessClock,
    WorkerKilled,
}

use Kind::{
    AllSilent, DatabaseClock, DiskFull, HalfSilent, NetworkCut, PrimaryFrozen, PrimaryKilled, ProcessClock,
    RestartFast, RestartImmediate, RestartKilled, ServerFrozen, SwitchOver, WorkerKilled,
};

/// Faults after which the standby is the primary.
const FAIL_OVERS: [Kind; 4] = [PrimaryKilled, PrimaryFrozen, SwitchOver, NetworkCut];

/// Faults after which the same server goes on.
const RESTARTS: [Kind; 3] = [RestartFast, RestartImmediate, RestartKilled];

/// Faults that end no server.
const OTHERS: [Kind; 7] = [AllSilent, HalfSilent, ServerFrozen, DiskFull, DatabaseClock, ProcessClock, WorkerKilled];

/// Processes of the service: its workers and its senders.
pub(crate) const WORKERS: usize = 2;
pub(crate) const SENDERS: usize = 4;

impl Kind {
    /// Returns all kinds, in the order of the table.
    pub(crate) fn all() -> impl Iterator<Item = Kind> {
        FAIL_OVERS.into_iter().chain(RESTARTS).chain(OTHERS)
    }

    /// Returns what a table calls the fault.
    pub(crate) fn name(self) -> &'static str {
        match self {
            PrimaryKilled => "primary killed (`kill -9`)",
            PrimaryFrozen => "primary frozen, then fenced",
            SwitchOver => "switch-over",
            NetworkCut => "primary cut off the network",
            RestartFast => "restart, `fast`",
            RestartImmediate => "restart, `immediate`",
            RestartKilled => "restart after `kill -9`",
            AllSilent => "all connections dead",
            HalfSilent => "every second connection dead",
            ServerFrozen => "server frozen for 12 s",
            DiskFull => "disk full for 8 s",
            DatabaseClock => "clock of the database ±1 h",
            ProcessClock => "clock of a process ±1 h",
            WorkerKilled => "worker killed (`kill -9`)",
        }
    }

    pub(crate) fn is_fail_over(self) -> bool {
        FAIL_OVERS.contains(&self)
    }
}

/// A fault and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    /// Events that are acknowledged before the fault.
    pub(crate) calm: usize,
    /// Time until the cluster manager notices a primary that is frozen or cut off.
    pub(crate) notice_ms: u64,
    /// The process that the fault hits: a worker below [`WORKERS`], and a sender otherwise.
    pub(crate) victim: usize,
    /// Whether a clock goes forward.
    pub(crate) is_forward: bool,
}

/// Numbers of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) fail_overs: usize,
    pub(crate) restarts: usize,
    pub(crate) others: usize,
}

impl Sizes {
    /// Sizes of a run that counts as a proof.
    pub(crate) const FULL: Sizes = Sizes { fail_overs: 50, restarts: 50, others: 28 };

    /// Returns whether the results of a run belong into the documentation.
    pub(crate) fn is_full(self) -> bool {
        self.fail_overs >= Self::FULL.fail_overs && self.restarts >= Self::FULL.restarts
    }
}

/// Draws the faults of a run. The same seed and sizes give the same faults in the same order.
pub(crate) fn schedule(seed: u64, sizes: Sizes) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let groups: [(&[Kind], usize); 3] =
        [(&FAIL_OVERS, sizes.fail_overs), (&RESTARTS, sizes.restarts), (&OTHERS, sizes.others)];
    let mut kinds = Vec::new();
    for (group, count) in groups {
        // In turn from a random one, so that a long run has as many of each.
        let first = random.usize(..group.len());
        kinds.extend((0..count).map(|number| group[(first + number) % group.len()]));
    }
    random.shuffle(&mut kinds);
    let step = |kind| Step {
        kind,
        calm: random.usize(40..160),
        notice_ms: random.u64(500..2_000),
        victim: random.usize(..if kind == WorkerKilled { WORKERS } else { WORKERS + SENDERS }),
        is_forward: random.bool(),
    };
    kinds.into_iter().map(step).collect()
}
