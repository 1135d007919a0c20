//! What one check of the leases decides, from the members, leases and specs that it has read.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::assignment::{Assignment, Candidate, Wishes};
use super::failed;
use crate::shard::ShardSet;
use crate::store::{LeaseRow, MemberRow, ShardOrder};

/// Returns the members that take shards. This process lives, whatever the clock says of its heartbeat.
pub(super) fn candidates(members: &[MemberRow], worker: Uuid, ttl_us: i64) -> Vec<Candidate> {
    let lives = |member: &&MemberRow| !member.exiting && (member.worker == worker || member.lives(ttl_us));
    let living = members.iter().filter(lives);
    living
        .map(|member| Candidate {
            worker: member.worker,
            limit: usize::try_from(member.shard_limit).unwrap_or(0),
            zone: member.zone.clone(),
        })
        .collect()
}

/// Returns what the specs ask of the assignment.
pub(super) fn wishes(orders: &[ShardOrder]) -> Wishes {
    Wishes {
        disabled: orders.iter().filter(|order| order.is_disabled).map(failed::shard_of).collect(),
        zones: orders.iter().filter_map(|order| Some((failed::shard_of(order), order.zone.clone()?))).collect(),
    }
}

/// The decisions of one check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Shards to take.
    pub(super) free: ShardSet,
    /// Shards to hand over.
    pub(super) handed_over: Vec<(Uuid, ShardSet)>,
}

impl Plan {
    pub(super) fn of(worker: Uuid, assignment: &Assignment, leases: &[LeaseRow], ttl_us: i64) -> Self {
        let kept = held(leases, worker);
        let wanted = assignment.held_by(worker);
        let is_free =
            |lease: &&LeaseRow| lease.holder.is_none() || (!lease.is_valid(ttl_us) && lease.holder != Some(worker));
        let free = leases.iter().filter(is_free).map(shard_of).filter(|shard| wanted.contains(*shard)).collect();
        let others = assignment.parts().filter(|(member, _)| *member != worker);
        let handed_over = others
            .map(|(member, shards)| (member, shards.iter().filter(|shard| kept.contains(*shard)).collect::<ShardSet>()))
            .filter(|(_, shards)| !shards.is_empty())
            .collect();
        Plan { free, handed_over }
    }
}

/// Returns the shards of a holder.
pub(super) fn held(leases: &[LeaseRow], worker: Uuid) -> ShardSet {
    leases.iter().filter(|lease| lease.holder == Some(worker)).map(shard_of).collect()
}

pub(super) fn shard_of(lease: &LeaseRow) -> u8 {
    u8::try_from(lease.shard).unwrap_or_default()
}

/// Returns the generation of each shard of a holder.
pub(super) fn generations(leases: &[LeaseRow], worker: Uuid) -> BTreeMap<u8, i64> {
    let held = leases.iter().filter(|lease| lease.holder == Some(worker));
    held.map(|lease| (shard_of(lease), lease.generation)).collect()
}

/// Returns the time until the first lease of another member ends, if that member stays silent: then both the lease and
/// its last heartbeat are a term old.
pub(super) fn first_end(leases: &[LeaseRow], members: &[MemberRow], worker: Uuid, ttl_us: i64) -> Option<Duration> {
    let lives_for = |holder: Uuid| {
        let member = members.iter().find(|member| member.worker == holder);
        member.map_or(0, |member| ttl_us.saturating_sub(member.silent_us))
    };
    let others = leases.iter().filter_map(|lease| Some((lease, lease.holder.filter(|holder| *holder != worker)?)));
    let ends = others.map(|(lease, holder)| lease.left_us.max(lives_for(holder)));
    let first = ends.filter(|end| *end > 0).min()?;
    u64::try_from(first).ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemberReport;

    const TTL_US: i64 = 15_000_000;

    #[test]
    fn a_check_knows_when_the_first_lease_of_another_member_ends() {
        let (me, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let lease = |holder, left_us| LeaseRow { shard: 7, holder, generation: 1, left_us, pinned: None };
        let silent_for = |silent_us| MemberRow {
            worker: other,
            address: String::new(),
            shard_limit: 256,
            exiting: false,
            silent_us,
            report: MemberReport::default(),
            zone: String::new(),
            labels: BTreeMap::new(),
            endpoint: None,
        };
        let end = |leases: &[LeaseRow], silent_us| {
            first_end(leases, &[silent_for(silent_us)], me, TTL_US).map(|end| end.as_micros())
        };
        assert_eq!(end(&[lease(Some(me), 5), lease(None, 5)], 0), None, "those of this member do not count");
        assert_eq!(end(&[lease(Some(other), 9_000_000)], 14_000_000), Some(9_000_000));
        assert_eq!(end(&[lease(Some(other), 9_000_000), lease(Some(other), 7)], TTL_US), Some(7));
        assert_eq!(end(&[lease(Some(other), -1)], 14_000_000), Some(1_000_000), "the heartbeat is younger");
        assert_eq!(end(&[lease(Some(other), -1)], TTL_US), None, "it has ended");
    }
}
