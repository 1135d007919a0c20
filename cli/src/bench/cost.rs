//! The costs of a measurement besides its time: statements, commits, WAL, dead tuples, CPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::{EnvFilter, Layer};

use super::engine::Counted;

/// The log target of sqlx for statements.
const STATEMENTS_TARGET: &str = "sqlx::query";

/// Whether the subscriber counts statements. It is off while a rate is measured, because logging statements takes
/// time.
static COUNTING: AtomicBool = AtomicBool::new(false);
static STATEMENTS: AtomicU64 = AtomicU64::new(0);

/// The costs of 1,000 events. A cost is `None` if this engine or server does not report it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// Number of statements that this process sent, without BEGIN.
    pub(crate) statements: Option<f64>,
    #[serde(flatten)]
    pub(crate) counted: Counted,
    /// CPU time of this process, seconds.
    pub(crate) client_cpu_seconds: Option<f64>,
    /// CPU time of the server in seconds, if the benchmark started the server.
    pub(crate) server_cpu_seconds: Option<f64>,
}

impl Cost {
    /// Reads the counters of this process and of the server whose first process is `postmaster`.
    pub(crate) fn so_far(postmaster: Option<u32>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "fewer statements than a number has digits for")]
        let statements = Some(STATEMENTS.load(Ordering::Relaxed) as f64);
        Cost {
            statements,
            counted: Counted::default(),
            client_cpu_seconds: own_cpu_seconds(),
            server_cpu_seconds: postmaster.and_then(server_cpu_seconds),
        }
    }

    /// Returns the lesser of each count of two runs of the same work. Times are not counts.
    pub(crate) fn least(self, other: Cost) -> Cost {
        let least = |one: Option<f64>, two: Option<f64>| Some(one?.min(two?));
        Cost {
            statements: least(self.statements, other.statements),
            counted: Counted {
                commits: least(self.counted.commits, other.counted.commits),
                wal_bytes: least(self.counted.wal_bytes, other.counted.wal_bytes),
                dead_tuples: least(self.counted.dead_tuples, other.counted.dead_tuples),
            },
            ..Cost::default()
        }
    }

    /// Returns the difference to `before`, divided by thousands of `events`.
    pub(crate) fn since(self, before: Cost, events: usize) -> Cost {
        #[allow(clippy::cast_precision_loss, reason = "there are some millions of events at most")]
        let thousands = events.max(1) as f64 / 1_000.0;
        let per = |now: Option<f64>, then: Option<f64>| Some((now? - then?).max(0.0) / thousands);
        Cost {
            statements: per(self.statements, before.statements),
            counted: Counted {
                commits: per(self.counted.commits, before.counted.commits),
                wal_bytes: per(self.counted.wal_bytes, before.counted.wal_bytes),
                dead_tuples: per(self.counted.dead_tuples, before.counted.dead_tuples),
            },
            client_cpu_seconds: per(self.client_cpu_seconds, before.client_cpu_seconds),
            server_cpu_seconds: per(self.server_cpu_seconds, before.server_cpu_seconds),
        }
    }
}

#[cfg(unix)]
fn own_cpu_seconds() -> Option<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    #[allow(clippy::cast_precision_loss, reason = "microseconds of some hours")]
    let us = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64;
    Some(us / 1e6)
}

#[cfg(not(unix))]
fn own_cpu_seconds() -> Option<f64> {
    None
}

/// Sums the CPU time of a server's processes, including ended ones. Returns `None` if the system does not report it.
fn server_cpu_seconds(postmaster: u32) -> Option<f64> {
    /// Ticks per second in `/proc/PID/stat`. The unit is the same for every program, whatever the kernel uses.
    const TICKS_A_SECOND: f64 = 100.0;
    let mut ticks = 0;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        let Some((name, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        let [_, parent, _, _, _, _, _, _, _, _, _, user, system, ended_user, ended_system, ..] = fields[..] else {
            continue;
        };
        if name.split(' ').next() == Some(postmaster.to_string().as_str()) {
            ticks += user + system + ended_user + ended_system;
        } else if parent == u64::from(postmaster) {
            ticks += user + system;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "hundredths of seconds of some hours")]
    let seconds = ticks as f64 / TICKS_A_SECOND;
    (ticks > 0).then_some(seconds)
}

/// Switches the counting of statements on or off.
pub(crate) fn count_statements(on: bool) {
    COUNTING.store(on, Ordering::Relaxed);
}

/// Installs the log: the levels that RUST_LOG names, and the statement counter.
pub(crate) fn init_log() {
    let text = EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into()).from_env_lossy();
    let shown = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(text);
    let subscriber = tracing_subscriber::registry().with(shown).with(Counter.with_filter(WhileCounting));
    // Another subscriber may be installed already; the benchmark then uses it.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Counter;

impl<S: Subscriber> Layer<S> for Counter {
    fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
        STATEMENTS.fetch_add(1, Ordering::Relaxed);
    }
}

struct WhileCounting;

impl<S> Filter<S> for WhileCounting {
    fn enabled(&self, meta: &tracing::Metadata<'_>, _context: &Context<'_, S>) -> bool {
        meta.target() == STATEMENTS_TARGET && COUNTING.load(Ordering::Relaxed)
    }

    fn callsite_enabled(&self, meta: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        match meta.target() == STATEMENTS_TARGET {
            true => tracing::subscriber::Interest::sometimes(),
            false => tracing::subscriber::Interest::never(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_a_thousand_events() {
        let cost = |statements, wal_bytes| Cost {
            statements,
            counted: Counted { wal_bytes, ..Counted::default() },
            ..Cost::default()
        };
        let between = cost(Some(30.0), Some(9_000.0)).since(cost(Some(10.0), Some(1_000.0)), 4_000);
        assert_eq!(between, cost(Some(5.0), Some(2_000.0)));
        assert_eq!(cost(None, Some(1.0)).since(cost(Some(1.0), None), 10), Cost::default());
    }
}
