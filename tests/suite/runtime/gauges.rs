//! The gauges of a runtime show its state, and change with it.

use std::num::NonZeroU64;
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, CloudEvent, Event, Outcome, Precision, Recipient, Reducer, admin};
use sqlx::{AssertSqlSafe, ConnectOptions};

use super::{STOP, Tally, backoff, config, emit, tallying};
use crate::support::recorded::{Recording, becomes, recorded, recorded_on_every_engine};
use crate::support::{CellEngine, SOON, TestDb, eventually, with_database};

/// Publishes every event.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let message = |_| CloudEvent::builder("tests", "published").build();
        let messages = events.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + 1).consuming(events).publishing(messages))
    }
}

/// Returns a runtime with a pool that has room for all its loops on one thread.
async fn start<B: CellEngine>(db: &TestDb<B>, config: RuntimeConfig) -> Runtime<B> {
    let runtime = Runtime::builder(db.open(6)).reducer("tally", Tally).reducer("publisher", Publisher);
    runtime.config(config).start().await.unwrap()
}

/// Shards and members, with one process and with two.
async fn shards_and_members<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let (shards, members) = ("eventbox_runtime_shards", "eventbox_runtime_members");
    let one = start(db, config()).await;
    becomes(recording, shards, &[], |value| value == 256.0).await;
    becomes(recording, members, &[], |value| value == 1.0).await;
    let other = tallying(db.open(6)).start().await.unwrap();
    becomes(recording, shards, &[], |value| value == 128.0).await;
    becomes(recording, members, &[], |value| value == 2.0).await;
    other.stop(STOP).await;
    becomes(recording, shards, &[], |value| value == 256.0).await;
    becomes(recording, members, &[], |value| value == 1.0).await;
    one.stop(STOP).await;
}

/// The age of the leases grows until they are renewed, and starts again from zero.
async fn lease_age<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let mut config = config();
    if let Some(leases) = &mut config.leases {
        leases.renew_interval = Duration::from_millis(400);
    }
    let runtime = start(db, config).await;
    for _ in 0..2 {
        becomes(recording, "eventbox_runtime_lease_age_seconds", &[], |value| value > 0.15).await;
        becomes(recording, "eventbox_runtime_lease_age_seconds", &[], |value| value < 0.1).await;
    }
    runtime.stop(STOP).await;
}

/// The kinds on hold, by reason, and their end.
async fn held_kinds<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let held = "eventbox_runtime_held_kinds";
    let mut config = config();
    config.outbox_quota = NonZeroU64::new(3);
    let runtime = start(db, config).await;
    for reason in ["paused", "outbox"] {
        becomes(recording, held, &[("reason", reason)], |value| value == 0.0).await;
    }
    admin::pause_kind(&db.pool, "tally").await.unwrap();
    admin::pause_kind(&db.pool, "other").await.unwrap();
    becomes(recording, held, &[("reason", "paused")], |value| value == 2.0).await;
    emit(db, &Recipient::new("publisher", "1").unwrap(), 0..4).await;
    becomes(recording, held, &[("reason", "outbox")], |value| value == 1.0).await;
    admin::resume_kind(&db.pool, "other").await.unwrap();
    becomes(recording, held, &[("reason", "paused")], |value| value == 1.0).await;
    db.run("DELETE FROM eventbox_outbox").await;
    becomes(recording, held, &[("reason", "outbox")], |value| value == 0.0).await;
    runtime.stop(STOP).await;
}

/// The number and the oldest age of waiting events are those of the database, and 0 when no event waits. A kind that is
/// not registered has no series.
async fn backlog<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let of = |kind| [("kind", kind)];
    admin::pause_kind(&db.pool, "tally").await.unwrap();
    emit(db, &Recipient::new("tally", "1").unwrap(), 0..5).await;
    emit(db, &Recipient::new("tally", "2").unwrap(), 0..2).await;
    emit(db, &Recipient::new("stranger", "1").unwrap(), 0..3).await;
    let counted = eventbox::backlog(&db.pool, &["publisher", "stranger", "tally"]).await.unwrap();
    let numbers: Vec<_> = counted.iter().map(|kind| (kind.events, kind.precision)).collect();
    assert_eq!(numbers, [0, 3, 7].map(|events| (events, Precision::Exact)));
    let oldest = admin::backlog(&db.pool, &Recipient::new("tally", "1").unwrap()).await.unwrap().oldest;
    assert_eq!(counted[2].oldest, oldest);
    assert!(eventbox::backlog(&db.pool, &["a/b"]).await.is_err());

    let runtime = start(db, config()).await;
    becomes(recording, "eventbox_size", &of("tally"), |value| value == 7.0).await;
    becomes(recording, "eventbox_oldest_age_seconds", &of("tally"), |value| value > 0.0 && value < 60.0).await;
    becomes(recording, "eventbox_size", &of("publisher"), |value| value == 0.0).await;
    admin::resume_kind(&db.pool, "tally").await.unwrap();
    becomes(recording, "eventbox_size", &of("tally"), |value| value == 0.0).await;
    becomes(recording, "eventbox_oldest_age_seconds", &of("tally"), |value| value == 0.0).await;
    assert_eq!(recording.total("eventbox_size"), 0.0, "the kind that is not registered has no series");
    runtime.stop(STOP).await;
}

/// Case 11 of the acceptance cases: the state of each shard, its generation, turns and events, in one that works, has
/// failed, works again, and has gone to another process.
async fn single_shards<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let mut config = config();
    if config.leases.is_none() {
        return;
    }
    (config.shard_metrics, config.fail_after) = (true, 2.try_into().unwrap());
    config.fail_backoff = backoff(Duration::from_millis(300), Duration::from_millis(300));
    let to = Recipient::new("tally", "1").unwrap();
    let shard = to.shard().to_string();
    let up = |state| [("shard", shard.clone()), ("state", String::from(state))];
    let is = async |state, wanted: f64| {
        let labels = up(state);
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        becomes(recording, "eventbox_shard_up", &labels, |value| value == wanted).await;
    };
    let of_shard = [("shard", shard.as_str())];
    let runtime = start(db, config).await;
    is("primary", 1.0).await;
    becomes(recording, "eventbox_shard_generation", &of_shard, |value| value == 1.0).await;
    becomes(recording, "eventbox_shard_up", &[("state", "primary")], |value| value == 256.0).await;
    emit(db, &to, 0..3).await;
    becomes(recording, "eventbox_shard_events_total", &of_shard, |value| value == 3.0).await;
    becomes(recording, "eventbox_shard_turns_total", &of_shard, |value| value == 1.0).await;

    db.run("ALTER TABLE eventbox_state RENAME TO away").await;
    emit(db, &to, 0..1).await;
    is("failed", 1.0).await;
    is("primary", 0.0).await;
    becomes(recording, "eventbox_runtime_shard_failures_total", &[], |value| value >= 1.0).await;
    db.run("ALTER TABLE away RENAME TO eventbox_state").await;
    is("primary", 1.0).await;
    is("failed", 0.0).await;
    becomes(recording, "eventbox_shard_events_total", &of_shard, |value| value == 4.0).await;

    let other = tallying(db.open(6)).start().await.unwrap();
    eventually(SOON, async || other.shards() > 0).await;
    admin::Operator::new(db.pool.clone(), "ana").move_shard(to.shard(), other.worker()).await.unwrap();
    is("primary", 0.0).await;
    becomes(recording, "eventbox_shard_generation", &of_shard, |value| value == 0.0).await;
    becomes(recording, "eventbox_shard_up", &[("state", "standby")], |value| value >= 128.0).await;
    other.stop(STOP).await;
    is("primary", 1.0).await;
    runtime.stop(STOP).await;
    is("primary", 0.0).await;
}

recorded_on_every_engine!(shards_and_members lease_age held_kinds backlog single_shards);

/// Whether the runtime listens for wake-ups: 1 while the connection exists, 0 while it does not, and 1 again. Only
/// Postgres has such a connection.
#[cfg(feature = "postgres")]
#[test]
fn listening_is_a_gauge() {
    recorded(async |recording| {
        with_database::<sqlx::Postgres, _>("listening", async |db| {
            let listening = "eventbox_runtime_listening";
            let runtime = tallying(db.open(6)).start().await.unwrap();
            becomes(recording, listening, &[], |value| value == 1.0).await;
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE datname = $1 AND query LIKE 'LISTEN%'";
            // Without this the listener connects again before the test looks. A session cannot close its own database.
            let mut conn = db.options().database("postgres").connect().await.unwrap();
            let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&db.pool).await.unwrap();
            let allow = |yes| AssertSqlSafe(format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS {yes}"));
            sqlx::raw_sql(allow(false)).execute(&mut conn).await.unwrap();
            let ended: i64 = sqlx::query_scalar(end).bind(&name).fetch_one(&mut conn).await.unwrap();
            assert_eq!(ended, 1);
            becomes(recording, listening, &[], |value| value == 0.0).await;
            sqlx::raw_sql(allow(true)).execute(&mut conn).await.unwrap();
            becomes(recording, listening, &[], |value| value == 1.0).await;
            runtime.stop(STOP).await;
        })
        .await;
    });
}
