//! The settings of a runtime, and their checks.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::dsset::PrunerConfig;
use crate::error::{Error, Result};
use crate::eventbox::{DEFAULT_TURN_BYTES, DEFAULT_TURN_DEADLINE, PoisonPolicy, longest_pause_us};
use crate::shard::{check_endpoint, check_labels, check_zone};

/// Settings of a runtime. The defaults are for a service that does other things too.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// Address of this process in any form, for operators; [`Runtime::resolve`](crate::runtime::Runtime::resolve)
    /// returns it. Not used otherwise.
    pub address: String,
    /// URI at which other processes reach this one, such as `https://10.0.0.7:8443`:
    /// [`Resolver::resolve`](crate::runtime::Resolver::resolve) returns it. At most
    /// [`MAX_ENDPOINT_BYTES`](crate::admin::MAX_ENDPOINT_BYTES) bytes. `None` when no process calls this one.
    pub endpoint: Option<String>,
    /// Leases on shards; `None` switches them off, and every process works on every shard.
    pub leases: Option<LeaseConfig>,
    /// Most shards of this process, 1 to 256.
    pub shard_limit: NonZeroU32,
    /// Zone that this process runs in: a room, a data centre. Empty when it does not matter. Shards that prefer the
    /// zone come here, and the standby of a shard is in another zone than its primary, where there is one. At most
    /// [`MAX_LABEL_BYTES`](crate::admin::MAX_LABEL_BYTES) bytes.
    pub zone: String,
    /// Labels of this process, which [`admin::members`](crate::admin::members()) shows; not used otherwise. At most
    /// [`MAX_LABELS`](crate::admin::MAX_LABELS), whose names and values have at most
    /// [`MAX_LABEL_BYTES`](crate::admin::MAX_LABEL_BYTES) bytes.
    pub labels: BTreeMap<String, String>,
    /// Number of failures in a row that make a shard failed: rounds that failed as a whole, and turns that the database
    /// failed. Failures of recipients do not count, and neither does an outage in which no lease can be renewed. A
    /// failed shard is not worked on until `fail_backoff` ends.
    pub fail_after: NonZeroU32,
    /// Number of times in a row that a shard may fail: with the default pauses nearly three hours. After the last one
    /// it is not tried again until an operator [unassigns](crate::admin::Operator::unassign) it.
    pub fail_tries: NonZeroU32,
    /// Pauses of a failed shard. A longer `cap` saves work while a shard fails for long, and delays it after a repair.
    pub fail_backoff: BackoffConfig,
    /// Longest time that an event stays unnoticed when every wake-up is lost.
    pub poll_interval: Duration,
    /// Shortest time between two polls of a busy database.
    pub min_poll_interval: Duration,
    /// Most events of a turn. The recipients of a round of reducers share 50,000.
    pub max_events: NonZeroU32,
    /// Most bytes of values that a turn lists, or a round for all of its recipients. Larger events go one by one,
    /// and what does not fit waits for the next turn. States have the same bound. So the process holds at most
    /// `rounds` + `workers` times twice this.
    pub max_event_bytes: NonZeroUsize,
    /// Most recipients of a round of reducers.
    pub round_recipients: NonZeroUsize,
    /// Most recipients of a round of a processor, whose code works on one after the other in one transaction.
    pub processor_recipients: NonZeroUsize,
    /// Most events of a round of a processor, which its recipients share.
    pub processor_events: NonZeroU32,
    /// Time that the decisions of a round of a processor, and its transaction, should take. After a longer one the
    /// rounds of the kind become smaller. One that takes [`ROUND_PATIENCE`](crate::runtime::ROUND_PATIENCE) times as
    /// long is given up: its recipients get smaller rounds, and the recipient that it waits for gets a turn of its own.
    pub processor_round_time: Duration,
    /// Most rounds at the same time.
    pub rounds: NonZeroUsize,
    /// Most turns of single recipients at the same time, and most decisions of a round of a processor.
    pub workers: NonZeroUsize,
    /// Most ready recipients in memory.
    pub max_ready: NonZeroUsize,
    /// Most bytes of states in memory: those of reducers, so that a round need not read what this process has written,
    /// and those that processors let the runtime keep ([`Processor::kept_bytes`](crate::Processor::kept_bytes)). 0
    /// switches the cache off, as does `leases` = `None`, where other processes write the states.
    pub state_cache_bytes: usize,
    /// Longest time of one attempt of a turn.
    pub turn_deadline: Duration,
    /// Longest time of the post-process hooks of one turn.
    pub hook_deadline: Duration,
    /// Treatment of a batch that keeps failing.
    pub poison: PoisonPolicy,
    /// Pauses of a failing recipient.
    pub backoff: BackoffConfig,
    /// Most messages in the outbox, with the delivered ones that are retained. Above it the kinds that publish wait
    /// until nine tenths are left. Read at every poll interval. `None` for no bound.
    pub outbox_quota: Option<NonZeroU64>,
    /// The pruner of names that runs next to the workers; `None` when another service of the database runs a
    /// [`Pruner`](crate::Pruner), or when no event has a name.
    pub pruner: Option<PrunerConfig>,
    /// Whether an emit of this process wakes up its workers at once.
    pub local_wake_ups: bool,
    /// Whether processes wake each other up: by NOTIFY on Postgres, on a connection of its own that no pooler
    /// shares, and by the version of the file on SQLite.
    pub remote_wake_ups: bool,
    /// Longest time without a sign of life of a loop before the runtime is unhealthy.
    pub health_grace: Duration,
    /// Whether the metrics `eventbox_shard_…` tell of each shard: its state, generation, turns, events, and the time of
    /// each phase. A process has up to 2,816 series of them: 11 for each of the 256 shards that it ever worked on.
    pub shard_metrics: bool,
}

/// Number of times [`RuntimeConfig::processor_round_time`] after which a round of a processor is given up.
pub const ROUND_PATIENCE: u32 = 20;

/// Settings of the leases on shards.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LeaseConfig {
    /// Term of a lease; after it other processes work on the shards of a process that died.
    pub lease_ttl: Duration,
    /// Time between two renewals.
    pub renew_interval: Duration,
    /// Time between two checks of the assignment.
    pub check_interval: Duration,
}

/// Pauses of a failing recipient or shard: `base`, doubled with each failure in a row up to `cap`, minus a random half.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// First pause.
    pub base: Duration,
    /// Longest pause.
    pub cap: Duration,
}

impl BackoffConfig {
    /// Returns whether a failing recipient with this wait is backing off. A wait of more than twice the longest
    /// pause comes from a clock of the database that has gone back since.
    pub(super) fn leaves_alone(&self, wait_us: i64) -> bool {
        (1..=self.longest_us()).contains(&wait_us)
    }

    /// Returns the longest wait that counts as a pause, microseconds.
    pub(super) fn longest_us(&self) -> i64 {
        longest_pause_us(self.cap)
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            address: String::new(),
            endpoint: None,
            leases: Some(LeaseConfig::default()),
            shard_limit: NonZeroU32::new(256).unwrap_or(NonZeroU32::MIN),
            zone: String::new(),
            labels: BTreeMap::new(),
            fail_after: NonZeroU32::new(20).unwrap_or(NonZeroU32::MIN),
            fail_tries: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
            fail_backoff: BackoffConfig { base: Duration::from_secs(1), cap: Duration::from_secs(10) },
            poll_interval: Duration::from_secs(1),
            min_poll_interval: Duration::from_millis(10),
            max_events: NonZeroU32::new(250).unwrap_or(NonZeroU32::MIN),
            max_event_bytes: NonZeroUsize::new(DEFAULT_TURN_BYTES).unwrap_or(NonZeroUsize::MIN),
            round_recipients: NonZeroUsize::new(500).unwrap_or(NonZeroUsize::MIN),
            processor_recipients: NonZeroUsize::new(100).unwrap_or(NonZeroUsize::MIN),
            processor_events: NonZeroU32::new(25_000).unwrap_or(NonZeroU32::MIN),
            processor_round_time: Duration::from_millis(50),
            rounds: NonZeroUsize::new(6).unwrap_or(NonZeroUsize::MIN),
            workers: NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN),
            max_ready: NonZeroUsize::new(20_000).unwrap_or(NonZeroUsize::MIN),
            state_cache_bytes: 32 << 20,
            turn_deadline: DEFAULT_TURN_DEADLINE,
            hook_deadline: Duration::from_secs(30),
            poison: PoisonPolicy::Isolate { after: NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN) },
            backoff: BackoffConfig::default(),
            outbox_quota: NonZeroU64::new(1_000_000),
            pruner: Some(PrunerConfig::default()),
            local_wake_ups: true,
            remote_wake_ups: true,
            health_grace: Duration::from_secs(10),
            shard_metrics: false,
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        LeaseConfig {
            lease_ttl: Duration::from_secs(15),
            renew_interval: Duration::from_secs(5),
            check_interval: Duration::from_secs(1),
        }
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        BackoffConfig { base: Duration::from_millis(200), cap: Duration::from_secs(300) }
    }
}

impl RuntimeConfig {
    /// Refuses a setting that cannot work, by its name.
    pub(super) fn check(&self, pool_size: u32) -> Result<()> {
        let wrong = |problem: String| Err(Error::setup("start the runtime", problem));
        for (name, value) in [
            ("poll_interval", self.poll_interval),
            ("min_poll_interval", self.min_poll_interval),
            ("processor_round_time", self.processor_round_time),
            ("turn_deadline", self.turn_deadline),
            ("hook_deadline", self.hook_deadline),
            ("backoff.base", self.backoff.base),
            ("fail_backoff.base", self.fail_backoff.base),
            ("health_grace", self.health_grace),
        ] {
            if value.is_zero() {
                return wrong(format!("{name} is zero: set it to more"));
            }
        }
        if self.min_poll_interval > self.poll_interval {
            return wrong("min_poll_interval is longer than poll_interval".to_owned());
        }
        if self.backoff.cap < self.backoff.base {
            return wrong("backoff.cap is shorter than backoff.base".to_owned());
        }
        if self.fail_backoff.cap < self.fail_backoff.base {
            return wrong("fail_backoff.cap is shorter than fail_backoff.base".to_owned());
        }
        check_labels(&self.labels).or_else(|problem| wrong(format!("labels: {problem}")))?;
        check_zone(&self.zone).or_else(|problem| wrong(format!("zone: {problem}")))?;
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint).or_else(|problem| wrong(format!("endpoint: {problem}")))?;
        }
        if self.shard_limit.get() > 256 {
            return wrong(format!("shard_limit is {}: there are 256 shards", self.shard_limit));
        }
        if let Some(leases) = self.leases {
            leases.check().or_else(wrong)?;
        }
        // One for every round and worker, one for scans and one for leases.
        if pool_size < MIN_CONNECTIONS {
            return wrong(format!(
                "the pool's max_connections is {pool_size}: the runtime needs {MIN_CONNECTIONS} or more, so that turns \
                 never keep the leases waiting"
            ));
        }
        Ok(())
    }
}

/// Fewest connections: one for turns, one for scans, one for leases.
const MIN_CONNECTIONS: u32 = 3;

impl LeaseConfig {
    fn check(self) -> Result<(), String> {
        if self.check_interval.is_zero() || self.renew_interval.is_zero() {
            return Err("leases.check_interval or leases.renew_interval is zero: set it to more".to_owned());
        }
        if self.lease_ttl < self.renew_interval * 2 {
            return Err(format!(
                "leases.lease_ttl ({:?}) is shorter than two of leases.renew_interval ({:?}): one late renewal would \
                 lose the shards",
                self.lease_ttl, self.renew_interval
            ));
        }
        if self.check_interval > self.renew_interval {
            return Err("leases.check_interval is longer than leases.renew_interval".to_owned());
        }
        Ok(())
    }
}
