//! Shards that this process has lost and still works on, until their new holders do. So a planned hand-over leaves no
//! gap. Two processes on one shard are harmless.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::shard::ShardSet;
use crate::store::{LeaseRow, MemberRow};

/// The shards in hand-over, each with the time at which this process saw the loss.
#[derive(Debug, Default)]
pub(crate) struct Passing(Mutex<BTreeMap<u8, Instant>>);

impl Passing {
    /// Returns the shards to go on with, of those that this process worked on and does not hold any more.
    ///
    /// A shard is in hand-over while its new holder does not say that it works on the shard, or while no process holds
    /// it, but no longer than `longest`: the new holder may have died, or may leave the shard alone.
    pub(super) fn keep(
        &self,
        lost: ShardSet,
        leases: &[LeaseRow],
        members: &[MemberRow],
        longest: Duration,
    ) -> ShardSet {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|shard, _| lost.contains(*shard));
        let now = Instant::now();
        let is_passing = |shard: &u8| {
            let lost_at = *since.entry(*shard).or_insert(now);
            let lease = leases.iter().find(|lease| lease.shard == i16::from(*shard) && lease.left_us > 0);
            let is_with = |holder: Uuid| {
                // A holder that is no member, or does not say what it works on, is not waited for.
                let report = members.iter().find(|member| member.worker == holder).map(|member| &member.report);
                report.and_then(|report| report.works_on()).is_none_or(|works_on| works_on.contains(*shard))
            };
            now.duration_since(lost_at) < longest && !lease.and_then(|lease| lease.holder).is_some_and(is_with)
        };
        lost.iter().filter(is_passing).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use sqlx::{Pool, Sqlite};
    use tokio::sync::watch;

    use super::*;
    use crate::runtime::config::{LeaseConfig, RuntimeConfig};
    use crate::runtime::shards::failed::FailedShards;
    use crate::runtime::shards::membership::Membership;
    use crate::runtime::working::paused::PausedKinds;
    use crate::runtime::working::rates::Rates;
    use crate::store::MemberReport;

    const LONGEST: Duration = Duration::from_secs(15);

    fn lease(holder: Option<Uuid>, left_us: i64) -> LeaseRow {
        LeaseRow { shard: 7, holder, generation: 2, left_us, pinned: None }
    }

    fn member(worker: Uuid, works_on: Option<ShardSet>) -> MemberRow {
        let works_on = works_on.map(|shards| shards.to_string()).unwrap_or_default();
        MemberRow {
            worker,
            address: String::new(),
            shard_limit: 256,
            exiting: false,
            silent_us: 0,
            report: MemberReport { works_on, ..MemberReport::default() },
            zone: String::new(),
            labels: BTreeMap::new(),
            endpoint: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_passes_until_its_new_holder_works_on_it() {
        let (next, stranger) = (Uuid::from_u128(2), Uuid::from_u128(3));
        let (seven, none) = (ShardSet::from_iter([7]), ShardSet::default());
        let passing = |lease: LeaseRow, works_on| {
            Passing::default().keep(seven, &[lease], &[member(next, works_on)], LONGEST) == seven
        };
        assert!(passing(lease(Some(next), 1), Some(none)), "the new holder has not begun");
        assert!(!passing(lease(Some(next), 1), Some(seven)), "the new holder works on it");
        assert!(!passing(lease(Some(next), 1), None), "an older version does not say");
        assert!(!passing(lease(Some(stranger), 1), Some(none)), "the holder is no member");
        assert!(passing(lease(None, 0), Some(none)), "nobody has it");
        assert!(passing(lease(Some(next), -1), Some(seven)), "the lease has expired");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_never_begins_is_waited_for_no_longer_than_a_term() {
        let (next, seven) = (Uuid::from_u128(2), ShardSet::from_iter([7]));
        let (passing, leases, members) =
            (Passing::default(), [lease(Some(next), 1)], [member(next, Some(ShardSet::default()))]);
        let keep = |lost| passing.keep(lost, &leases, &members, LONGEST);
        assert_eq!(keep(seven), seven);
        tokio::time::advance(LONGEST - Duration::from_millis(1)).await;
        assert_eq!(keep(seven), seven);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(keep(seven).is_empty());
        // The shard came back and was lost again.
        assert!(keep(ShardSet::default()).is_empty());
        assert_eq!(keep(seven), seven);
    }

    // Schedules of the checks of several members, without a clock.

    /// A term that does not end in a test.
    const LONG: Duration = Duration::from_secs(3_600);

    async fn database(directory: &tempfile::TempDir) -> Pool<Sqlite> {
        let options = crate::sqlite_options(directory.path().join("boxes.db"));
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        pool
    }

    fn joined(pool: &Pool<Sqlite>, number: u128) -> Membership<Sqlite> {
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
            rates: Arc::new(Rates::new(&BTreeMap::new(), 1, Instant::now())),
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
        let (old, new) = (joined(&pool, 1), joined(&pool, 2));
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
            let mut members = vec![(joined(&pool, 1), false)];
            members[0].0.check(true, false).await.unwrap();
            let mut count = 1;
            for step in 0..60 {
                match random.random_range(0..8_u8) {
                    0 if members.len() < 4 => {
                        count += 1;
                        members.push((joined(&pool, count), false));
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
}
