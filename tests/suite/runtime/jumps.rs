//! The clock of the database goes back an hour, as after a fail-over to another server: times that were stored before
//! lie an hour ahead. The tests move the times and leave the clock.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventbox::dsset::prune_slice;
use eventbox::outbox;
use eventbox::runtime::LeaseConfig;
use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, dsset::DEFAULT_TOMBSTONE_DELAY};
use uuid::Uuid;

use super::{STOP, Tally, config, emit, idle, seen, tally, tallying};
use crate::support::receiver::{Fake, started};
use crate::support::{SOON, TestDb, TestEngine, drain, eventually, on_every_engine};

/// Returns an hour and a term from now.
fn ahead_us() -> i64 {
    let ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3_610);
    i64::try_from(ahead.as_micros()).unwrap()
}

/// A worker that died an hour ahead holds every shard.
async fn hold_by_the_dead<B: TestEngine>(db: &TestDb<B>) {
    let dead = Uuid::new_v4();
    let dead = if B::FOLDER == "postgres" { format!("'{dead}'") } else { format!("x'{}'", dead.simple()) };
    let ahead = ahead_us();
    db.run(format!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
         VALUES ({dead}, 'dead', 256, false, {ahead})"
    ))
    .await;
    db.run(format!("UPDATE eventbox_lease SET holder = {dead}, generation = 1, expires_at_us = {ahead}")).await;
}

/// Notes a failure whose pause ends an hour ahead.
async fn pause_until_ahead<B: TestEngine>(db: &TestDb<B>, to: &Recipient) {
    let (shard, ahead) = (to.shard(), ahead_us());
    db.run(format!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
         VALUES ({shard}, '{to}', 2, {ahead}, 'x')"
    ))
    .await;
}

/// Fails at its first batch, so that a turn of its own follows.
struct Failing(std::sync::atomic::AtomicBool);

impl Reducer for Failing {
    type State = Vec<String>;

    fn reduce(&self, to: &Recipient, events: &[Event], state: Vec<String>) -> Result<Outcome<Vec<String>>, BoxError> {
        if self.0.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err("not yet".into());
        }
        Tally.reduce(to, events, state)
    }
}

fn message(text: &str) -> CloudEvent {
    CloudEvent::builder("tests", "ahead").payload(text.to_owned()).build().unwrap()
}

on_every_engine! {
    async fn leases_and_heartbeats_of_the_dead_hold_nothing(db) {
        hold_by_the_dead(db).await;
        for n in 0..20 {
            emit(db, &tally(n), ["x"]).await;
        }
        let mut config = config();
        // Terms of a service, so that the first check must notice the jump.
        config.leases = Some(LeaseConfig::default());
        let runtime = tallying(db.pool.clone()).config(config).start().await.unwrap();
        idle(db).await;
        eventually(SOON, async || runtime.shards() == 256).await;
        assert!(runtime.resolve(&tally(1)).await.unwrap().is_here);
        // The runtime's own times are an hour ahead now. The runtime goes on, and writes them again.
        db.run(format!("UPDATE eventbox_lease SET expires_at_us = {0}", ahead_us())).await;
        db.run(format!("UPDATE eventbox_member SET heartbeat_at_us = {0}", ahead_us())).await;
        emit(db, &tally(1), ["y"]).await;
        idle(db).await;
        assert_eq!(seen(db, &tally(1)).await, ["x", "y"]);
        eventually(SOON, async || runtime.resolve(&tally(1)).await.unwrap().is_here).await;
        runtime.stop(STOP).await;
    }

    async fn a_member_that_is_far_ahead_is_removed(db) {
        hold_by_the_dead(db).await;
        let runtime = tallying(db.pool.clone()).start().await.unwrap();
        let dead = "SELECT count(*) FROM eventbox_member WHERE address = 'dead'";
        eventually(SOON, async || db.number(dead).await == 0).await;
        runtime.stop(STOP).await;
    }

    /// For a round, and for a turn after a round that failed.
    async fn a_pause_that_is_longer_than_any_is_none(db) {
        let boxes = [tally(1), tally(2), Recipient::new("failing", "1").unwrap()];
        for to in &boxes {
            emit(db, to, ["x"]).await;
            pause_until_ahead(db, to).await;
        }
        let failing = Failing(true.into());
        let runtime = tallying(db.pool.clone()).reducer("failing", failing).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        for to in &boxes {
            assert_eq!(seen(db, to).await, ["x"], "{to}");
        }
    }

    async fn a_pause_within_its_term_is_kept(db) {
        let mut config = config();
        config.backoff.cap = Duration::from_secs(3_600);
        emit(db, &tally(1), ["x"]).await;
        pause_until_ahead(db, &tally(1)).await;
        let runtime = tallying(db.pool.clone()).config(config).start().await.unwrap();
        emit(db, &tally(2), ["x"]).await;
        eventually(SOON, async || seen(db, &tally(2)).await == ["x"]).await;
        assert_eq!(seen(db, &tally(1)).await, [""; 0], "it is left alone");
        runtime.stop(STOP).await;
    }

    async fn a_message_is_not_due_later_than_a_claim_or_a_pause_may_be(db) {
        for n in 0..5 {
            drop(outbox::publish_in(&db.pool, message(&n.to_string())).await.unwrap());
        }
        // The times are claims, and a pause after a first failure.
        db.run(format!("UPDATE eventbox_outbox SET created_at_us = {0}, next_attempt_at_us = {0}", ahead_us())).await;
        let one = "(SELECT id FROM eventbox_outbox ORDER BY id LIMIT 1)";
        db.run(format!("UPDATE eventbox_outbox SET last_code = 'UNAVAILABLE' WHERE id = {one}")).await;
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        emitter.stop(STOP).await;
    }

    /// A delivered message that is kept is due at the end of time. Neither this time nor a long pause is a jump.
    async fn a_message_that_waits_for_long_goes_on_waiting(db) {
        for n in 0..2 {
            drop(outbox::publish_in(&db.pool, message(&n.to_string())).await.unwrap());
        }
        db.run(
            "UPDATE eventbox_outbox SET delivered_at_us = 1, next_attempt_at_us = 9223372036854775807
             WHERE id = (SELECT id FROM eventbox_outbox ORDER BY id LIMIT 1)",
        )
        .await;
        db.run(format!(
            "UPDATE eventbox_outbox SET attempts = 12, last_code = 'UNAVAILABLE', next_attempt_at_us = {} - 600000000
             WHERE delivered_at_us IS NULL",
            ahead_us()
        ))
        .await;
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| {
            config.slow_backoff.max = Duration::from_secs(3_600);
            config.backoff.max = Duration::from_secs(60);
        })
        .await;
        emitter.publish(message("now")).await.unwrap();
        eventually(SOON, async || emitter.stats().delivered == 1).await;
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE next_attempt_at_us > 1000").await, 2);
        emitter.stop(STOP).await;
    }

    async fn a_stamp_of_the_future_is_replaced(db) {
        let to = Recipient::new("order", "7").unwrap();
        eventbox::emit(&db.pool, &to, Event::new("x").named("n")).await.unwrap();
        drain(&db.pool, &to).await;
        let prune = async || {
            let (most, delay) = (NonZeroU32::new(100).unwrap(), DEFAULT_TOMBSTONE_DELAY);
            let mut tx = eventbox::begin(&db.pool).await.unwrap();
            let pruned = prune_slice::<Engine>(&mut tx, to.shard(), None, most, delay).await.unwrap();
            tx.commit().await.unwrap();
            pruned
        };
        assert_eq!(prune().await.stamped, 1);
        db.run(format!("UPDATE eventbox_tombstone SET gone_at_us = {}", ahead_us())).await;
        assert_eq!(prune().await.stamped, 1, "an hour ahead is not gone yet");
        let stamped = db.number("SELECT gone_at_us FROM eventbox_tombstone").await;
        assert!(stamped <= ahead_us() - 3_600_000_000, "{stamped}");
        assert_eq!(prune().await.stamped, 0, "a stamp that is valid stays");
        assert_eq!(db.number("SELECT gone_at_us FROM eventbox_tombstone").await, stamped);
    }
}
