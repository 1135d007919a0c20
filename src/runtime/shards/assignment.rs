//! The assignment of shards: a pure function of the living members, so that all of them compute the same.
//!
//! It is rendezvous hashing with a bound: a shard goes to the member with the highest hash of (member, shard) that
//! has room. When a member comes or goes, few shards move.

use md5::{Digest, Md5};
use uuid::Uuid;

use crate::shard::{SHARDS, ShardSet};

/// A member that takes shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) worker: Uuid,
    /// Most shards that it takes.
    pub(crate) limit: usize,
}

/// The shards of each member. A shard without a member that has room is in no set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assignment(Vec<(Uuid, ShardSet)>);

impl Assignment {
    /// Computes the assignment for these members, in any order.
    pub(crate) fn of(members: &[Candidate]) -> Self {
        let all = usize::from(SHARDS);
        let share = all.div_ceil(members.len().max(1));
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.worker);
        // A member with a low limit leaves more to the others, so the bound grows until all shards fit or all
        // members are full.
        let mut bound = share;
        loop {
            let assigned = Self::bounded(&members, bound);
            let held: usize = assigned.0.iter().map(|(_, shards)| shards.len()).sum();
            if held == all || members.iter().all(|member| member.limit <= bound) {
                return assigned;
            }
            bound += share;
        }
    }

    fn bounded(members: &[Candidate], bound: usize) -> Self {
        let mut room: Vec<usize> = members.iter().map(|member| member.limit.min(bound)).collect();
        let mut held: Vec<(Uuid, ShardSet)> =
            members.iter().map(|member| (member.worker, ShardSet::default())).collect();
        for shard in 0..=u8::MAX {
            let free = held.iter_mut().zip(&mut room).filter(|(_, room)| **room > 0);
            if let Some(((_, shards), room)) = free.max_by_key(|((worker, _), _)| score(*worker, shard)) {
                shards.insert(shard);
                *room -= 1;
            }
        }
        Assignment(held)
    }

    /// Gives shards to the members that an operator pinned them to. A pin on a member that is not there has no effect.
    pub(crate) fn with_pins(mut self, pins: impl IntoIterator<Item = (u8, Uuid)>) -> Self {
        for (shard, to) in pins {
            if self.0.iter().any(|(member, _)| *member == to) {
                let pinned: ShardSet = std::iter::once(shard).collect();
                for (member, shards) in &mut self.0 {
                    *shards = if *member == to { shards.or(pinned) } else { shards.without(pinned) };
                }
            }
        }
        self
    }

    /// Returns the shards of one member.
    pub(crate) fn held_by(&self, worker: Uuid) -> ShardSet {
        self.0.iter().find(|(member, _)| *member == worker).map(|(_, shards)| *shards).unwrap_or_default()
    }

    /// Returns the shards of each member.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Uuid, ShardSet)> + '_ {
        self.0.iter().copied()
    }
}

fn score(worker: Uuid, shard: u8) -> [u8; 16] {
    Md5::new().chain_update(worker.as_bytes()).chain_update([shard]).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u128) -> Vec<Candidate> {
        (1..=count).map(|n| Candidate { worker: Uuid::from_u128(n), limit: 256 }).collect()
    }

    #[test]
    fn every_member_has_a_fair_share() {
        for count in [1, 2, 3, 7, 100, 300] {
            let members = members(count);
            let assignment = Assignment::of(&members);
            let held: Vec<usize> = members.iter().map(|member| assignment.held_by(member.worker).len()).collect();
            assert_eq!(held.iter().sum::<usize>(), 256, "{count} members");
            assert!(held.iter().all(|held| *held <= 256_usize.div_ceil(count as usize)), "{held:?}");
        }
    }

    #[test]
    fn a_limit_holds_and_the_other_members_take_the_rest() {
        let mut members = members(4);
        members[0].limit = 10;
        let assignment = Assignment::of(&members);
        let held: Vec<usize> = members.iter().map(|member| assignment.held_by(member.worker).len()).collect();
        assert_eq!((held[0], held.iter().sum::<usize>()), (10, 256));
        members.iter_mut().for_each(|member| member.limit = 20);
        let held: usize = Assignment::of(&members).parts().map(|(_, shards)| shards.len()).sum();
        assert_eq!(held, 80, "shards without room stay free");
    }

    #[test]
    fn a_member_that_leaves_moves_little() {
        let before = Assignment::of(&members(8));
        let after = Assignment::of(&members(7));
        let moved = (0..=u8::MAX).filter(|shard| {
            let holder = |assignment: &Assignment| {
                assignment.parts().find(|(_, shards)| shards.contains(*shard)).map(|(worker, _)| worker)
            };
            holder(&before) != holder(&after)
        });
        let moved = moved.count();
        assert!((32..=96).contains(&moved), "{moved} of 256 moved when one of eight left");
    }

    #[test]
    fn a_pinned_shard_is_with_its_member_while_that_is_there() {
        let members = members(3);
        for shard in [0, 7, 255] {
            for member in &members {
                let pinned = Assignment::of(&members).with_pins([(shard, member.worker)]);
                let holders = pinned.parts().filter(|(_, shards)| shards.contains(shard)).map(|(worker, _)| worker);
                assert_eq!(holders.collect::<Vec<_>>(), [member.worker]);
                assert_eq!(pinned.parts().map(|(_, shards)| shards.len()).sum::<usize>(), 256);
            }
        }
        let of_nobody = Assignment::of(&members).with_pins([(7, Uuid::from_u128(9))]);
        assert_eq!(of_nobody, Assignment::of(&members));
    }

    #[test]
    fn the_order_in_which_they_are_seen_does_not_matter() {
        let (mut one, other) = (members(5), members(5));
        one.reverse();
        assert_eq!(Assignment::of(&one), Assignment::of(&other));
    }
}
