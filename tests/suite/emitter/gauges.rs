//! The gauges of an emitter, as a recorder sees them: they follow the outbox and the client.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use eventbox::chip::{BreakerConfig, Transport};
use eventbox::emitter::{DurableEmitter, Expiry, MetricsConfig, Retain};
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::counting::{HOUR_US, ROWS, Rows, put};
use super::support::{Fake, STOP, event, ok, quick, started};
use crate::support::recorded::{Recording, becomes, recorded_on_every_engine};
use crate::support::{TestDb, TestEngine};

const HOUR: Duration = Duration::from_secs(3_600);

/// Expected values of the gauges of the queue. Times may be up to a minute later.
#[derive(Debug, Clone, Copy)]
struct Queue {
    depth: f64,
    most: f64,
    bytes: f64,
    age: f64,
    near: f64,
}

fn metrics(near_expiry_lead: Duration) -> Option<MetricsConfig> {
    let config = MetricsConfig::default().with_poll_interval(Duration::from_millis(5));
    Some(config.with_max_queue_payload_bytes(1_000).with_near_expiry_lead(near_expiry_lead))
}

/// Starts an emitter that only observes: no row is due or expires during the test.
async fn looking<B: TestEngine>(db: &TestDb<B>, lead: Duration) -> DurableEmitter<B> {
    started(&db.pool, &Fake::ok(), |config| {
        config.expiry = Some(Expiry::default().with_ttl(2 * HOUR).with_interval(HOUR));
        config.metrics = metrics(lead);
    })
    .await
}

async fn tells(recording: &Recording, queue: Queue) {
    let Queue { depth, most, bytes, age, near } = queue;
    let gauge = async |name: &str, wanted: &dyn Fn(f64) -> bool| {
        becomes(recording, &format!("durable_emitter.queue.{name}"), &[], wanted).await;
    };
    gauge("depth", &|value| value == depth).await;
    gauge("depth_max", &|value| value == most).await;
    gauge("payload_bytes", &|value| value == bytes).await;
    gauge("capacity_usage_ratio", &|value| value == bytes / 1_000.0).await;
    gauge("near_ttl", &|value| value == near).await;
    let late = if age == 0.0 { 0.0 } else { 60.0 };
    gauge("oldest_pending_age_seconds", &|value| (age..=age + late).contains(&value)).await;
    gauge("ttl_budget_seconds", &|value| (7_200.0 - age - late - 1.0..=7_200.0 - age).contains(&value)).await;
}

/// The seven gauges of the queue are right without rows, with rows, with expired rows, and after deletions.
async fn queue<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let emitter = looking(db, HOUR).await;
    let nothing = Queue { depth: 0.0, most: 0.0, bytes: 0.0, age: 0.0, near: 0.0 };
    tells(recording, nothing).await;
    put(db, Rows { count: 3, age_us: HOUR_US * 3 / 2, ..ROWS }).await;
    put(db, Rows { shard: 8, count: 4, bytes: 20, ..ROWS }).await;
    put(db, Rows { shard: 9, count: 5, age_us: HOUR_US * 19 / 10, kept: true, bytes: 100, ..ROWS }).await;
    tells(recording, Queue { depth: 12.0, most: 12.0, bytes: 110.0, age: 5_400.0, near: 3.0 }).await;
    // A row past its time to live is not near its end any more.
    put(db, Rows { shard: 10, count: 2, age_us: HOUR_US * 3, ..ROWS }).await;
    tells(recording, Queue { depth: 14.0, most: 14.0, bytes: 130.0, age: 10_800.0, near: 3.0 }).await;
    db.run("DELETE FROM eventbox_outbox WHERE shard IN (7, 10)").await;
    becomes(recording, "durable_emitter.queue.depth", &[], |value| value == 9.0).await;
    for (gauge, wanted) in [("near_ttl", 0.0), ("payload_bytes", 80.0), ("depth_max", 14.0)] {
        becomes(recording, &format!("durable_emitter.queue.{gauge}"), &[], |value| value == wanted).await;
    }
    db.run("DELETE FROM eventbox_outbox").await;
    tells(recording, Queue { most: 14.0, ..nothing }).await;
    emitter.stop(STOP).await;
}

/// With a lead as long as the time to live, every row would be near its end. The gauge counts none then.
async fn a_lead_over_the_time_to_live_counts_no_row<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    put(db, Rows { count: 3, age_us: HOUR_US, ..ROWS }).await;
    let emitter = looking(db, 2 * HOUR).await;
    tells(recording, Queue { depth: 3.0, most: 3.0, bytes: 30.0, age: 3_600.0, near: 0.0 }).await;
    emitter.stop(STOP).await;
}

/// Without a time to live and a largest size, their gauges do not exist.
async fn unset_limits_have_no_gauge<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let emitter = started(&db.pool, &Fake::ok(), |config| {
        config.metrics = Some(MetricsConfig::default().with_poll_interval(Duration::from_millis(5)));
    })
    .await;
    put(db, Rows { count: 2, age_us: HOUR_US, ..ROWS }).await;
    becomes(recording, "durable_emitter.queue.depth", &[], |value| value == 2.0).await;
    for gauge in ["near_ttl", "ttl_budget_seconds", "capacity_usage_ratio"] {
        assert_eq!(recording.gauge(&format!("durable_emitter.queue.{gauge}"), &[]), None, "{gauge}");
    }
    emitter.stop(STOP).await;
}

/// The gauge of the breaker is 1 while the breaker is open, and 0 before and after.
async fn breaker<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let open = "durable_emitter.breaker.open";
    let fake = Fake::failing(Code::Unavailable);
    let emitter = started(&db.pool, &fake, |config| {
        config.metrics = metrics(HOUR);
        let cool_down = Duration::from_millis(200);
        let breaker = BreakerConfig::default().with_failures(NonZeroU32::MIN);
        config.batch.breaker = Some(breaker.with_cool_down(cool_down).with_max_cool_down(cool_down));
    })
    .await;
    becomes(recording, open, &[], |value| value == 0.0).await;
    emitter.publish(event("x")).await.unwrap();
    becomes(recording, open, &[], |value| value == 1.0).await;
    fake.become_ok();
    becomes(recording, open, &[], |value| value == 0.0).await;
    emitter.stop(STOP).await;
}

/// A transport whose batches fail, and whose unary calls wait until the gate opens.
struct Gate(watch::Sender<bool>);

#[async_trait]
impl Transport for Gate {
    async fn publish_batch(&self, _: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        Err(Status::unavailable("by the other way"))
    }

    async fn publish(&self, event: &Wire, _: Duration) -> Result<PublishResponse, Status> {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
        Ok(PublishResponse { results: vec![ok(event)] })
    }
}

/// The gauge of fallbacks shows the fallbacks in flight, and 0 at the end.
async fn fallbacks<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let in_flight = "durable_emitter.fallback.in_flight";
    let gate = Arc::new(Gate(watch::Sender::new(false)));
    let emitter = DurableEmitter::builder(db.pool.clone(), Arc::clone(&gate) as Arc<dyn Transport>)
        .configure(quick)
        .configure(|config| {
            (config.fallback, config.retransmit) = (true, false);
            config.batch.batch_size = NonZeroUsize::MIN;
        });
    let emitter = emitter.start().await.unwrap();
    for name in 0..3 {
        emitter.publish(event(name)).await.unwrap();
    }
    becomes(recording, in_flight, &[], |value| value == 3.0).await;
    gate.0.send_replace(true);
    becomes(recording, in_flight, &[], |value| value == 0.0).await;
    emitter.stop(STOP).await;
}

/// The fill of the outcome queue has the name of the outcome: delete, or mark with `retain_delivered`.
/// The other gauge is 0, and both are 0 at the end.
async fn fills<B: TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let fill = |which| format!("durable_emitter.{which}_coalescer.queue_fill_ratio");
    let other = db.open(1);
    for (retain, full, empty) in [(None, "delete", "mark"), (Some(Retain::default()), "mark", "delete")] {
        let fake = Fake::ok();
        fake.set_open(false);
        let emitter = started(&db.pool, &fake, |config| {
            config.metrics = metrics(HOUR);
            config.retain_delivered = retain;
            (config.delete_batch_size, config.delete_workers) = (1, NonZeroUsize::MIN);
        })
        .await;
        for name in 0..20 {
            emitter.publish(event(name)).await.unwrap();
        }
        // Another transaction makes every outcome wait except the first.
        let hold = match B::FOLDER {
            "postgres" => "BEGIN; LOCK TABLE eventbox_outbox IN EXCLUSIVE MODE",
            _ => "BEGIN IMMEDIATE",
        };
        B::run(&other, hold.to_owned()).await.unwrap();
        fake.set_open(true);
        becomes(recording, &fill(full), &[], |value| value > 0.0 && value < 1.0).await;
        assert_eq!(recording.gauge(&fill(empty), &[]), Some(0.0), "{empty}");
        B::run(&other, "ROLLBACK".to_owned()).await.unwrap();
        for which in [full, empty, "insert"] {
            becomes(recording, &fill(which), &[], |value| value == 0.0).await;
        }
        emitter.stop(STOP).await;
    }
    other.close().await;
}

recorded_on_every_engine!(
    queue a_lead_over_the_time_to_live_counts_no_row unset_limits_have_no_gauge breaker fallbacks fills
);
