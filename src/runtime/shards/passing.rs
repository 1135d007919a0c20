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
mod tests {
    use super::*;
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
}
