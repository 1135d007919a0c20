//! The numbers of an overview as gauges, for the process that shows them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use metrics::gauge;

use super::view::overview::Overview;
use crate::instrument::{Instrument, InstrumentKind};

/// The runtime records these two for the kinds that it registered; here they are those of all kinds.
const SIZE: &str = "eventbox_size";
const OLDEST_AGE: &str = "eventbox_oldest_age_seconds";

const TIMERS: &str = "eventbox_timers";
const FAILING: &str = "eventbox_failing_recipients";
const PAUSED: &str = "eventbox_paused_recipients";
const QUARANTINED: &str = "eventbox_quarantined_events";
const MEMBERS: &str = "eventbox_members";
const FREE_SHARDS: &str = "eventbox_free_shards";
const OUTBOX: &str = "eventbox_outbox_messages";
const OUTBOX_AGE: &str = "eventbox_outbox_oldest_age_seconds";
const DEAD_MESSAGES: &str = "eventbox_outbox_dead_letters";

const fn gauge_of(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Instrument {
    Instrument { name, kind: InstrumentKind::Gauge, unit, labels, buckets: &[], help }
}

/// Instruments that [`Gauges`] sets besides `eventbox_size` and `eventbox_oldest_age_seconds`, which are in
/// `runtime::INSTRUMENTS`.
pub const INSTRUMENTS: &[Instrument] = &[
    gauge_of(TIMERS, "{timer}", &["kind"], "Timers of a kind, counted up to admin::MAX_KIND_COUNT"),
    gauge_of(FAILING, "{recipient}", &["kind"], "Recipients of a kind whose last turns failed"),
    gauge_of(PAUSED, "{recipient}", &["kind"], "Recipients of a kind that an operator paused"),
    gauge_of(QUARANTINED, "{event}", &["kind"], "Events of a kind in quarantine"),
    gauge_of(MEMBERS, "{process}", &[], "Processes that work on eventboxes"),
    gauge_of(FREE_SHARDS, "{shard}", &[], "Shards that no process holds a valid lease on"),
    gauge_of(OUTBOX, "{message}", &[], "Messages of the outbox that are not delivered"),
    gauge_of(OUTBOX_AGE, "s", &[], "Age of the oldest message of the outbox that is not delivered, 0 without messages"),
    gauge_of(DEAD_MESSAGES, "{message}", &[], "Messages of the outbox that were given up"),
];

/// Gauges of the numbers of overviews, recorded through the `metrics` facade.
///
/// Use it in a process that watches a database and works on none of its events, as `eventbox serve --metrics` does
/// every 10 s. The numbers are those of the whole database, so one process that sets them is enough. It remembers the
/// kinds, so that the gauges of a kind that has vanished become 0.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, Gauges};
///
/// let mut gauges = Gauges::default();
/// gauges.set(&admin::overview(&pool).await?);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Gauges {
    kinds: BTreeSet<String>,
}

impl Gauges {
    /// Sets the gauges to the numbers of this overview.
    pub fn set(&mut self, overview: &Overview) {
        let age = |since: Option<SystemTime>| {
            since.and_then(|since| overview.at.duration_since(since).ok()).unwrap_or(Duration::ZERO).as_secs_f64()
        };
        for kind in &overview.kinds {
            let counts = [kind.waiting, kind.timers, kind.failing, kind.paused, kind.quarantined];
            of_kind(&kind.kind, counts.map(|count| count.number), age(kind.oldest_at));
        }
        let now: BTreeSet<String> = overview.kinds.iter().map(|kind| kind.kind.clone()).collect();
        for vanished in self.kinds.difference(&now) {
            of_kind(vanished, [0; 5], 0.0);
        }
        self.kinds = now;
        let outbox = &overview.outbox;
        for (name, number) in [
            (MEMBERS, overview.members.len() as u64),
            (FREE_SHARDS, overview.free_shards.into()),
            (OUTBOX, outbox.waiting.number),
            (DEAD_MESSAGES, outbox.dead_letters.number),
        ] {
            gauge!(name).set(float(number));
        }
        gauge!(OUTBOX_AGE).set(age(outbox.oldest_at));
    }
}

/// Sets the gauges of a kind; the numbers are in the order of the names.
fn of_kind(kind: &str, numbers: [u64; 5], oldest_age: f64) {
    for (name, number) in [SIZE, TIMERS, FAILING, PAUSED, QUARANTINED].into_iter().zip(numbers) {
        gauge!(name, "kind" => kind.to_owned()).set(float(number));
    }
    gauge!(OLDEST_AGE, "kind" => kind.to_owned()).set(oldest_age);
}

#[allow(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
