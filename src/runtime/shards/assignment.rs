//! The assignment of shards: a pure function of the living members and of the specs, so that all members compute the
//! same.
//!
//! It is rendezvous hashing with a bound: a shard goes to the member with the highest hash of (member, shard) that
//! has room. When a member comes or goes, few shards move. Zones change where a shard goes only for a shard that
//! prefers one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use md5::{Digest, Md5};
use uuid::Uuid;

use crate::shard::{SHARDS, ShardSet};

/// A member that takes shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) worker: Uuid,
    /// Most shards that it takes.
    pub(crate) limit: usize,
    /// Where it runs; empty when it does not say.
    pub(crate) zone: String,
}

/// What the specs of the shards ask of the assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Shards that go to no member.
    pub(crate) disabled: ShardSet,
    /// Preferred zones.
    pub(crate) zones: BTreeMap<u8, String>,
}

/// The shards of each member. A shard without a member that has room is in no set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assignment(Vec<(Uuid, ShardSet)>);

impl Assignment {
    /// Computes the assignment for these members, in any order.
    pub(crate) fn of(members: &[Candidate], wishes: &Wishes) -> Self {
        Self::among(&mut ranked(members), wishes)
    }

    fn among(members: &mut [Ranked<'_>], wishes: &Wishes) -> Self {
        let all = usize::from(SHARDS) - wishes.disabled.len();
        let share = all.div_ceil(members.len().max(1));
        // A member with a low limit leaves more to the others, so the bound grows until all shards fit or all
        // members are full.
        let mut bound = share;
        loop {
            let held = Self::bounded(members, bound, wishes);
            if held == all || members.iter().all(|member| member.limit <= bound) {
                return Assignment(members.iter().map(|member| (member.worker, member.shards)).collect());
            }
            bound += share;
        }
    }

    /// Deals the shards; returns how many found a member.
    fn bounded(members: &mut [Ranked<'_>], bound: usize, wishes: &Wishes) -> usize {
        members.iter_mut().for_each(|member| member.shards = ShardSet::default());
        let mut left = ShardSet::ALL.without(wishes.disabled);
        // Shards that prefer a zone come first, while its members have room.
        for (shard, zone) in &wishes.zones {
            if left.contains(*shard) && give(members.iter_mut().filter(|member| member.zone == zone), *shard, bound) {
                left = left.without(std::iter::once(*shard).collect());
            }
        }
        left.iter().for_each(|shard| {
            give(members.iter_mut(), shard, bound);
        });
        members.iter().map(|member| member.shards.len()).sum()
    }

    /// Returns the shards of which a member is the *standby*: those that it would have if the zone of their primary
    /// were gone. While all members are in one zone, those that it would have if their primary were gone.
    pub(crate) fn standby_of(&self, worker: Uuid, members: &[Candidate], wishes: &Wishes) -> ShardSet {
        // A member that takes no shards makes no zone.
        let takers = members.iter().filter(|member| member.limit > 0);
        let by_zone = takers.map(|member| &member.zone).collect::<BTreeSet<_>>().len() > 1;
        let ranked = ranked(members);
        let Some(zone) = ranked.iter().find(|member| member.worker == worker).map(|member| member.zone) else {
            return ShardSet::default();
        };
        let mut standby = ShardSet::default();
        // One assignment for each group of primaries that would be gone together.
        let mut groups: BTreeMap<(&str, Option<Uuid>), ShardSet> = BTreeMap::new();
        for primary in
            ranked.iter().filter(|primary| if by_zone { primary.zone != zone } else { primary.worker != worker })
        {
            let group = groups.entry((primary.zone, (!by_zone).then_some(primary.worker))).or_default();
            *group = group.or(self.held_by(primary.worker));
        }
        for ((gone_zone, gone_worker), shards) in groups {
            let is_gone =
                |member: &Ranked<'_>| gone_worker.map_or(member.zone == gone_zone, |gone| member.worker == gone);
            let mut rest: Vec<_> = ranked.iter().filter(|member| !is_gone(member)).cloned().collect();
            standby = standby.or(Self::among(&mut rest, wishes).held_by(worker).and(shards));
        }
        standby
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

/// A candidate with its scores, which are computed once.
#[derive(Debug, Clone)]
struct Ranked<'a> {
    worker: Uuid,
    limit: usize,
    zone: &'a str,
    /// Score of each shard.
    scores: Rc<[u128]>,
    /// The shards that it has so far.
    shards: ShardSet,
}

/// Returns the members by id, so that the order in which they are seen does not matter.
fn ranked(members: &[Candidate]) -> Vec<Ranked<'_>> {
    let mut ranked: Vec<_> = members
        .iter()
        .map(|member| Ranked {
            worker: member.worker,
            limit: member.limit,
            zone: &member.zone,
            scores: (0..=u8::MAX).map(|shard| score(member.worker, shard)).collect(),
            shards: ShardSet::default(),
        })
        .collect();
    ranked.sort_by_key(|member| member.worker);
    ranked
}

/// Gives a shard to the member with the highest score that has room. False when none has.
fn give<'a, 'z: 'a>(members: impl Iterator<Item = &'a mut Ranked<'z>>, shard: u8, bound: usize) -> bool {
    let free = members.filter(|member| member.shards.len() < member.limit.min(bound));
    let best = free.max_by_key(|member| member.scores.get(usize::from(shard)).copied());
    best.map(|member| member.shards.insert(shard)).is_some()
}

fn score(worker: Uuid, shard: u8) -> u128 {
    let hash = Md5::new().chain_update(worker.as_bytes()).chain_update([shard]).finalize();
    u128::from_be_bytes(hash.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u128) -> Vec<Candidate> {
        in_zones(count, &[""])
    }

    /// Returns members that take turns in the zones.
    fn in_zones(count: u128, zones: &[&str]) -> Vec<Candidate> {
        let zones = zones.iter().cycle();
        let member =
            |(n, zone): (u128, &&str)| Candidate { worker: Uuid::from_u128(n), limit: 256, zone: (*zone).to_owned() };
        (1..=count).zip(zones).map(member).collect()
    }

    fn assigned(members: &[Candidate]) -> Assignment {
        Assignment::of(members, &Wishes::default())
    }

    fn preferring(zone: &str, shards: std::ops::Range<u8>) -> Wishes {
        Wishes { zones: shards.map(|shard| (shard, zone.to_owned())).collect(), ..Wishes::default() }
    }

    fn holder(assignment: &Assignment, shard: u8) -> Option<Uuid> {
        assignment.parts().find(|(_, shards)| shards.contains(shard)).map(|(worker, _)| worker)
    }

    /// Returns the member of each shard that is its standby.
    fn standbys(assignment: &Assignment, members: &[Candidate], wishes: &Wishes) -> Vec<Option<Uuid>> {
        let of = members.iter().map(|member| {
            let worker = member.worker;
            (worker, assignment.standby_of(worker, members, wishes))
        });
        let of: Vec<_> = of.collect();
        (0..=u8::MAX)
            .map(|shard| {
                let mut found = of.iter().filter(|(_, shards)| shards.contains(shard)).map(|(worker, _)| *worker);
                let first = found.next();
                assert_eq!(found.next(), None, "two standbys of shard {shard}");
                first
            })
            .collect()
    }

    #[test]
    fn every_member_has_a_fair_share() {
        for count in [1, 2, 3, 7, 100, 300] {
            let members = members(count);
            let assignment = assigned(&members);
            let held: Vec<usize> = members.iter().map(|member| assignment.held_by(member.worker).len()).collect();
            assert_eq!(held.iter().sum::<usize>(), 256, "{count} members");
            assert!(held.iter().all(|held| *held <= 256_usize.div_ceil(count as usize)), "{held:?}");
        }
    }

    #[test]
    fn a_limit_holds_and_the_other_members_take_the_rest() {
        let mut members = members(4);
        members[0].limit = 10;
        let assignment = assigned(&members);
        let held: Vec<usize> = members.iter().map(|member| assignment.held_by(member.worker).len()).collect();
        assert_eq!((held[0], held.iter().sum::<usize>()), (10, 256));
        members.iter_mut().for_each(|member| member.limit = 20);
        let held: usize = assigned(&members).parts().map(|(_, shards)| shards.len()).sum();
        assert_eq!(held, 80, "shards without room stay free");
    }

    #[test]
    fn a_member_that_leaves_moves_little() {
        let before = assigned(&members(8));
        let after = assigned(&members(7));
        let moved = (0..=u8::MAX).filter(|shard| holder(&before, *shard) != holder(&after, *shard));
        let moved = moved.count();
        assert!((32..=96).contains(&moved), "{moved} of 256 moved when one of eight left");
    }

    #[test]
    fn a_pinned_shard_is_with_its_member_while_that_is_there() {
        let members = members(3);
        for shard in [0, 7, 255] {
            for member in &members {
                let pinned = assigned(&members).with_pins([(shard, member.worker)]);
                let holders = pinned.parts().filter(|(_, shards)| shards.contains(shard)).map(|(worker, _)| worker);
                assert_eq!(holders.collect::<Vec<_>>(), [member.worker]);
                assert_eq!(pinned.parts().map(|(_, shards)| shards.len()).sum::<usize>(), 256);
            }
        }
        let of_nobody = assigned(&members).with_pins([(7, Uuid::from_u128(9))]);
        assert_eq!(of_nobody, assigned(&members));
    }

    #[test]
    fn the_order_in_which_they_are_seen_does_not_matter() {
        let (mut one, other) = (members(5), members(5));
        one.reverse();
        assert_eq!(assigned(&one), assigned(&other));
    }

    #[test]
    fn a_disabled_shard_goes_to_no_member_and_the_others_are_shared() {
        let members = in_zones(3, &["a", "b"]);
        let wishes = Wishes { disabled: (0..100).collect(), ..Wishes::default() };
        let assignment = Assignment::of(&members, &wishes);
        let held: Vec<usize> = assignment.parts().map(|(_, shards)| shards.len()).collect();
        assert_eq!((held.iter().sum::<usize>(), held.iter().max()), (156, Some(&52)));
        assert!((0..100).all(|shard| holder(&assignment, shard).is_none()));
        let standbys = standbys(&assignment, &members, &wishes);
        assert_eq!(standbys.iter().filter(|standby| standby.is_some()).count(), 156);
        let all = Wishes { disabled: ShardSet::ALL, ..Wishes::default() };
        assert_eq!(Assignment::of(&members, &all).parts().map(|(_, shards)| shards.len()).sum::<usize>(), 0);
    }

    #[test]
    fn a_preferred_zone_has_its_shards_while_a_member_of_it_has_room() {
        let members = in_zones(4, &["a", "b"]);
        let zone_of =
            |worker: Uuid| members.iter().find(|member| member.worker == worker).map(|member| member.zone.as_str());
        let in_b = |assignment: &Assignment, shards: std::ops::Range<u8>| {
            shards.filter(|shard| holder(assignment, *shard).and_then(zone_of) == Some("b")).count()
        };
        assert_eq!(in_b(&Assignment::of(&members, &preferring("b", 0..100)), 0..100), 100);
        let full = Assignment::of(&members, &preferring("b", 0..200));
        assert_eq!(in_b(&full, 0..200), 128, "the fair share of two members is their room");
        assert!(full.parts().all(|(_, shards)| shards.len() == 64));
        // No member is in that zone.
        assert_eq!(Assignment::of(&members, &preferring("c", 0..100)), assigned(&members));
    }

    #[test]
    fn the_share_of_a_zone_is_that_of_its_members() {
        let members = in_zones(4, &["a", "a", "a", "b"]);
        assert_eq!(assigned(&members), assigned(&self::members(4)), "zones alone move no shard");
        assert!(assigned(&members).parts().all(|(_, shards)| shards.len() == 64));
    }

    #[test]
    fn the_standby_is_the_member_that_would_be_next() {
        for count in [2, 3, 7] {
            let members = members(count);
            let assignment = assigned(&members);
            let standbys = standbys(&assignment, &members, &Wishes::default());
            for shard in 0..=u8::MAX {
                let primary = holder(&assignment, shard);
                let rest: Vec<_> = members.iter().filter(|member| Some(member.worker) != primary).cloned().collect();
                let standby = standbys.get(usize::from(shard)).copied().flatten();
                assert!(standby.is_some() && standby != primary);
                assert_eq!(standby, holder(&assigned(&rest), shard), "shard {shard} of {count} members");
            }
        }
        let alone = members(1);
        assert_eq!(standbys(&assigned(&alone), &alone, &Wishes::default()), [None; 256]);
    }

    #[test]
    fn the_standby_is_in_another_zone_where_there_is_one() {
        for (count, zones) in
            [(2, &["a", "b"][..]), (5, &["a", "b"]), (6, &["a", "b", "c"]), (4, &["a", "a", "a", "b"])]
        {
            let members = in_zones(count, zones);
            let wishes = preferring("a", 0..20);
            let pin = members.last().map(|member| (200, member.worker));
            let assignment = Assignment::of(&members, &wishes).with_pins(pin);
            let zone_of = |worker: Option<Uuid>| {
                members.iter().find(|member| Some(member.worker) == worker).map(|member| &member.zone)
            };
            for (shard, standby) in (0..=u8::MAX).zip(standbys(&assignment, &members, &wishes)) {
                let primary = holder(&assignment, shard);
                assert!(standby.is_some() && zone_of(standby) != zone_of(primary), "shard {shard} of {zones:?}");
            }
        }
    }

    #[test]
    fn a_member_that_takes_no_shards_makes_no_zone() {
        let mut members = in_zones(3, &["a", "a", "b"]);
        members.iter_mut().filter(|member| member.zone == "b").for_each(|member| member.limit = 0);
        let standbys = standbys(&assigned(&members), &members, &Wishes::default());
        assert!(standbys.iter().all(Option::is_some));
    }

    #[test]
    fn the_standbys_are_shared_too() {
        let members = in_zones(4, &["a", "b"]);
        let assignment = assigned(&members);
        for member in &members {
            let standby = assignment.standby_of(member.worker, &members, &Wishes::default()).len();
            assert!((32..=96).contains(&standby), "{standby} of 256");
        }
        assert_eq!(assignment.standby_of(Uuid::from_u128(9), &members, &Wishes::default()), ShardSet::default());
    }
}
