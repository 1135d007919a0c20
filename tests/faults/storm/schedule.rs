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
    LeaderKilled,
    ManagerKilled,
    NodeKilled,
    NodeFrozen,
    PlannedSwitchOver,
    StoreCut,
    NodeCut,
    StandbyKilled,
    MemberKilled,
    MajorityLost,
}

use Kind::{
    AllSilent, DatabaseClock, DiskFull, HalfSilent, LeaderKilled, MajorityLost, ManagerKilled, MemberKilled,
    NetworkCut, NodeCut, NodeFrozen, NodeKilled, PlannedSwitchOver, PrimaryFrozen, PrimaryKilled, ProcessClock,
    RestartFast, RestartImmediate, RestartKilled, ServerFrozen, StandbyKilled, StoreCut, SwitchOver, WorkerKilled,
};

/// The servers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Servers {
    /// A primary and a standby, whose cluster manager is this program.
    Pair,
    /// Three nodes of Patroni with etcd.
    Patroni,
}

/// Faults after which the standby is the primary.
const FAIL_OVERS: [Kind; 4] = [PrimaryKilled, PrimaryFrozen, SwitchOver, NetworkCut];

/// Faults after which the same server goes on.
const RESTARTS: [Kind; 3] = [RestartFast, RestartImmediate, RestartKilled];

/// Faults that end no server.
const OTHERS: [Kind; 7] = [AllSilent, HalfSilent, ServerFrozen, DiskFull, DatabaseClock, ProcessClock, WorkerKilled];

/// Faults after which Patroni lets another node lead.
const FAIL_OVERS_OF_PATRONI: [Kind; 7] =
    [LeaderKilled, ManagerKilled, NodeKilled, NodeFrozen, PlannedSwitchOver, StoreCut, NodeCut];

/// Faults after which the same node may lead.
const OTHERS_OF_PATRONI: [Kind; 3] = [StandbyKilled, MemberKilled, MajorityLost];

/// Processes of the service: its workers and its senders.
pub(crate) const WORKERS: usize = 2;
pub(crate) const SENDERS: usize = 4;

impl Servers {
    /// Returns the name of the program that breaks these servers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Servers::Pair => "storm",
            Servers::Patroni => "patroni",
        }
    }

    /// Returns the fail-overs, the restarts and the other faults.
    fn groups(self) -> [&'static [Kind]; 3] {
        match self {
            Servers::Pair => [&FAIL_OVERS, &RESTARTS, &OTHERS],
            Servers::Patroni => [&FAIL_OVERS_OF_PATRONI, &[], &OTHERS_OF_PATRONI],
        }
    }

    /// Returns all kinds of faults, in the order of the table.
    pub(crate) fn kinds(self) -> impl Iterator<Item = Kind> {
        self.groups().into_iter().flatten().copied()
    }

    /// Returns the sizes of a run that counts as a proof.
    pub(crate) const fn full(self) -> Sizes {
        match self {
            Servers::Pair => Sizes { fail_overs: 50, restarts: 50, others: 28 },
            Servers::Patroni => Sizes { fail_overs: 42, restarts: 0, others: 12 },
        }
    }

    /// Returns whether the results of a run belong into the documentation.
    pub(crate) fn is_full(self, sizes: Sizes) -> bool {
        sizes.fail_overs >= self.full().fail_overs && sizes.restarts >= self.full().restarts
    }
}

impl Kind {
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
            LeaderKilled => "leader's Postgres killed (`kill -9`)",
            ManagerKilled => "leader's Patroni killed (`kill -9`)",
            NodeKilled => "leader's Postgres and Patroni killed",
            NodeFrozen => "leader's Postgres and Patroni frozen",
            PlannedSwitchOver => "switch-over through Patroni",
            StoreCut => "leader cut off from etcd",
            NodeCut => "leader cut off the network",
            StandbyKilled => "synchronous standby killed (`kill -9`)",
            MemberKilled => "etcd member killed (`kill -9`)",
            MajorityLost => "etcd without a majority for 15 s",
        }
    }

    pub(crate) fn is_fail_over(self) -> bool {
        FAIL_OVERS.contains(&self) || FAIL_OVERS_OF_PATRONI.contains(&self)
    }
}

/// A fault and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    /// Events that are acknowledged before the fault.
    pub(crate) calm: usize,
    /// Time until the cluster manager notices a primary that is frozen or cut off. With Patroni: time between the
    /// first and the second process of a frozen node that continues.
    pub(crate) notice_ms: u64,
    /// The process that the fault hits: a worker below [`WORKERS`], and a sender otherwise. Of etcd it is a member.
    pub(crate) victim: usize,
    /// Whether a clock goes forward, and whether a frozen Postgres continues before its Patroni.
    pub(crate) is_forward: bool,
}

/// Numbers of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) fail_overs: usize,
    pub(crate) restarts: usize,
    pub(crate) others: usize,
}

/// Draws the faults of a run. The same seed and sizes give the same faults in the same order.
pub(crate) fn schedule(servers: Servers, seed: u64, sizes: Sizes) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let counts = [sizes.fail_overs, sizes.restarts, sizes.others];
    let mut kinds = Vec::new();
    for (group, count) in servers.groups().into_iter().zip(counts).filter(|(group, _)| !group.is_empty()) {
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
