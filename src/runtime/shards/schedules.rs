//! Schedules of the checks of several members, without a clock: whatever the order, some member works on each shard.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{Pool, Sqlite};
use tokio::sync::watch;
use uuid::Uuid;

use super::failed::FailedShards;
use super::membership::Membership;
use super::passing::Passing;
use crate::runtime::config::{LeaseConfig, RuntimeConfig};
use crate::runtime::working::paused::PausedKinds;
use crate::shard::ShardSet;

/// A term that does not end in a test.
const LONG: Duration = Duration::from_secs(3_600);

async fn database(directory: &tempfile::TempDir) -> Pool<Sqlite> {
    let options = crate::sqlite_options(directory.path().join("boxes.db"));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
    crate::migrate(&pool).await.unwrap();
    pool
}

fn member(pool: &Pool<Sqlite>, number: u128) -> Membership<Sqlite> {
    let leases = LeaseConfig { lease_ttl: LONG, ..LeaseConfig::default() };
    Membership {
        pool: pool.clone(),
        worker: Uuid::from_u128(number),
        shard_limit: 256,
        leases,
        config: RuntimeConfig::default(),
        kinds: vec!["order".to_owned()],
        held: watch::channel(PausedKinds::default()).1,
        at_work: Arc::default(),
        outages: Arc::default(),
        attended: None,
        complaints: Arc::default(),
        failed_shards: Arc::<FailedShards>::default(),
        #[cfg(feature = "emitter")]
        emitter: None,
        owned: watch::Sender::default(),
        standing: watch::Sender::default(),
        passing: Passing::default(),
        stage: watch::Sender::default(),
        gauges: None,
    }
}

fn works_on(member: &Membership<Sqlite>) -> ShardSet {
    *member.owned.borrow()
}

fn together(members: &[(Membership<Sqlite>, bool)]) -> ShardSet {
    members.iter().fold(ShardSet::default(), |all, (member, _)| all.or(works_on(member)))
}

/// Case 15: the old holder works on a shard until the new one does, however many checks come between.
#[tokio::test]
async fn the_new_holder_works_on_a_shard_before_the_old_one_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let pool = database(&directory).await;
    let (old, new) = (member(&pool, 1), member(&pool, 2));
    old.check(true, false).await.unwrap();
    assert_eq!(works_on(&old), ShardSet::ALL);
    new.check(true, false).await.unwrap();
    for _ in 0..3 {
        old.check(false, false).await.unwrap();
        assert_eq!((works_on(&old), works_on(&new).len()), (ShardSet::ALL, 0), "the new holder has not looked");
    }
    new.check(false, false).await.unwrap();
    assert_eq!((works_on(&old), works_on(&new).len()), (ShardSet::ALL, 128), "both of them work");
    old.check(false, false).await.unwrap();
    assert_eq!(
        (works_on(&old), works_on(&old).or(works_on(&new))),
        (ShardSet::ALL.without(works_on(&new)), ShardSet::ALL)
    );

    // A member that stops hands over in the same way, and knows when it may go.
    assert!(old.check(false, true).await.unwrap().is_passing);
    assert!(old.check(false, true).await.unwrap().is_passing);
    assert_eq!(works_on(&old).len(), 128, "the new holder has not looked");
    new.check(false, false).await.unwrap();
    assert_eq!(works_on(&new), ShardSet::ALL);
    assert!(!old.check(false, true).await.unwrap().is_passing);
    assert!(works_on(&old).is_empty());
    old.leave().await.unwrap();
    // The last one has nobody to wait for.
    assert!(!new.check(false, true).await.unwrap().is_passing);
}

/// Members come, check in any order, and stop: each step leaves a member at work on each shard.
#[tokio::test]
async fn in_any_order_of_checks_some_member_works_on_each_shard() {
    for seed in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let pool = database(&directory).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut members = vec![(member(&pool, 1), false)];
        members[0].0.check(true, false).await.unwrap();
        let mut count = 1;
        for step in 0..60 {
            match random.random_range(0..8_u8) {
                0 if members.len() < 4 => {
                    count += 1;
                    members.push((member(&pool, count), false));
                }
                // One of the others works and stays.
                1 if members.iter().filter(|(_, is_exiting)| !is_exiting).count() > 1 => {
                    let at = random.random_range(0..members.len());
                    members[at].1 = true;
                }
                _ => {}
            }
            let at = random.random_range(0..members.len());
            let (member, is_exiting) = &members[at];
            let checked = member.check(random.random(), *is_exiting).await.unwrap();
            if *is_exiting && !checked.is_passing && works_on(member).is_empty() {
                members.swap_remove(at).0.leave().await.unwrap();
            }
            assert_eq!(together(&members), ShardSet::ALL, "seed {seed}, step {step}");
        }
    }
}
