//! Finding work: which shards to look at next, and where. The rows of the boxes are the truth; marks and positions only make it faster.
//!
//! A [poll](Polls) makes every shard due. A *mark* makes one shard due at once and a few times more with growing gaps, because an emit inside a
//! transaction cannot know when that commits. A *pass* over a shard goes on where the last walk ended, until the recipient that was last when it
//! began.
//!
//! Walks take half of the time at most: each rests as long as the one before it took, but no longer than the longest pause of polls.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::poll::Polls;
use super::warnings::Warnings;
use crate::runtime::config::RuntimeConfig;
use crate::shard::ShardSet;
use crate::store::{WalkFrom, WalkedRow};

/// The gaps between the looks at a shard that was marked, milliseconds.
const PROBE_GAPS_MS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The most recipients that one walk brings of one shard.
const MAX_PER_SHARD: usize = 1_000;

/// The fewest.
const MIN_PER_SHARD: usize = 4;

/// How long the first walk waits until others are listened to: one that began before that would have to be repeated.
const LISTENING_WITHIN: Duration = Duration::from_millis(100);

/// Where to look next.
#[derive(Debug)]
pub(crate) struct Walks {
    shards: Vec<ShardWalk>,
    due: ShardSet,
    polls: Polls,
    rested_forgotten_at: Instant,
    /// The next walk begins no earlier.
    rests_until: Instant,
    /// Whether that is because nobody is listened to yet.
    awaits_listener: bool,
    warnings: Warnings,
}

#[derive(Debug, Clone, Default)]
struct ShardWalk {
    after: String,
    last: Option<String>,
    /// When to look again, and which gap follows.
    probe: Option<(Instant, usize)>,
}

/// A walk that was begun.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) from: Vec<WalkFrom>,
    pub(crate) per_shard: usize,
    pub(crate) began: Instant,
}

impl Walks {
    /// Everything is due, as soon as others are listened to.
    pub(crate) fn new(config: &RuntimeConfig, now: Instant) -> Self {
        Walks {
            shards: vec![ShardWalk::default(); 256],
            due: ShardSet::ALL,
            polls: Polls::new(config.min_poll_interval, config.poll_interval, now),
            rested_forgotten_at: now,
            rests_until: if config.wake_ups { now + LISTENING_WITHIN } else { now },
            awaits_listener: config.wake_ups,
            warnings: Warnings::default(),
        }
    }

    /// Others are listened to.
    pub(crate) fn hears(&mut self, now: Instant) {
        if std::mem::take(&mut self.awaits_listener) {
            self.rests_until = self.rests_until.min(now);
        }
    }

    /// These shards may have new events.
    pub(crate) fn mark(&mut self, shards: ShardSet, now: Instant) {
        for shard in shards.iter() {
            if let Some(walk) = self.shards.get_mut(usize::from(shard)) {
                walk.probe = Some((now, 0));
            }
        }
    }

    /// These shards are to be looked at once.
    pub(crate) fn look_at(&mut self, shards: ShardSet) {
        self.due = self.due.or(shards);
    }

    /// All shards are to be looked at, as soon as that does not take too much of the time.
    pub(crate) fn poll_soon(&mut self) {
        self.polls.ask();
    }

    /// When something is due next; while there is much to do, polls wait.
    pub(crate) fn next_due(&self, owned: ShardSet, is_busy: bool) -> Instant {
        if !self.due.and(owned).is_empty() {
            return self.rests_until;
        }
        let probes = owned.iter().filter_map(|shard| self.shards.get(usize::from(shard))?.probe);
        probes.map(|(at, _)| at).fold(self.polls.next(is_busy), Instant::min).max(self.rests_until)
    }

    /// True once in a poll interval: who does not rest any more is to be forgotten.
    pub(crate) fn forgets_rested(&mut self, now: Instant) -> bool {
        let forgets = now.duration_since(self.rested_forgotten_at) >= self.polls.pauses().1;
        if forgets {
            self.rested_forgotten_at = now;
        }
        forgets
    }

    /// The next walk, over everything that is due; `None` when nothing is, or when it is too early.
    pub(crate) fn begin(&mut self, owned: ShardSet, room: usize, is_busy: bool, now: Instant) -> Option<Walk> {
        if now < self.rests_until {
            return None;
        }
        self.awaits_listener = false;
        if self.polls.begin(is_busy, now) {
            self.due = ShardSet::ALL;
        }
        for shard in owned.iter() {
            let Some(walk) = self.shards.get_mut(usize::from(shard)) else { continue };
            if let Some((at, gap)) = walk.probe
                && at <= now
            {
                self.due.insert(shard);
                walk.probe = PROBE_GAPS_MS.get(gap).map(|gap_ms| (now + Duration::from_millis(*gap_ms), gap + 1));
            }
        }
        let due = self.due.and(owned);
        if due.is_empty() {
            return None;
        }
        // Those of others are looked at when they come here.
        self.due = ShardSet::default();
        let per_shard = (room / due.len()).clamp(MIN_PER_SHARD, MAX_PER_SHARD);
        let from = due.iter().filter_map(|shard| {
            let walk = self.shards.get(usize::from(shard))?;
            Some(WalkFrom { shard: shard.into(), after: walk.after.clone(), last: walk.last.clone() })
        });
        Some(Walk { from: from.collect(), per_shard, began: now })
    }

    /// A walk has ended: the next one waits a little.
    pub(crate) fn ended(&mut self, walk: &Walk, now: Instant) {
        let took = now - walk.began;
        crate::runtime::metrics::walked(took);
        self.rests_until = now + took.min(self.polls.pauses().1);
    }

    /// A walk found what nobody had told of: the next poll comes soon.
    pub(crate) fn found_news(&mut self, now: Instant) {
        self.polls.found_news(now);
    }

    /// Takes what a walk brought into account; `keep` is asked about every recipient and says what is thought of it.
    pub(crate) fn walked(
        &mut self,
        walk: &Walk,
        rows: &[WalkedRow],
        now: Instant,
        mut keep: impl FnMut(&WalkedRow) -> Kept<'_>,
    ) {
        let mut of_shard: HashMap<i16, Vec<&WalkedRow>> = HashMap::new();
        for row in rows {
            of_shard.entry(row.shard).or_default().push(row);
        }
        let mut new = 0;
        for from in &walk.from {
            let Ok(shard) = u8::try_from(from.shard) else { continue };
            let Some(state) = self.shards.get_mut(usize::from(shard)) else { continue };
            let (mut count, mut at_end, mut behind) = (0, true, None);
            for row in of_shard.remove(&from.shard).unwrap_or_default() {
                count += 1;
                at_end = Some(&row.recipient) == row.last.as_ref();
                state.last.clone_from(&row.last);
                behind = Some(match keep(row) {
                    Kept::New => {
                        new += 1;
                        row.recipient.clone()
                    }
                    Kept::Known => row.recipient.clone(),
                    Kept::UnknownKind(kind) => {
                        self.warnings.found_unknown(kind);
                        behind_kind(kind)
                    }
                    Kept::HeldKind(kind) => behind_kind(kind),
                });
            }
            if at_end || count < walk.per_shard {
                *state = ShardWalk { probe: state.probe, ..ShardWalk::default() };
            } else if let Some(behind) = behind {
                state.after = behind;
                self.due.insert(shard);
            }
        }
        self.polls.walked(now - walk.began, new);
        if self.due.is_empty() {
            self.polls.ended(now);
        } else {
            // The pass goes on, and there is much to be found.
            self.rests_until = self.rests_until.min(now + self.polls.pauses().0);
        }
    }
}

/// What was thought of a recipient that a walk brought.
pub(crate) enum Kept<'a> {
    /// It waits for its turn now.
    New,
    /// There was nothing to do about it.
    Known,
    /// Nobody here processes this kind: its events stay.
    UnknownKind(&'a str),
    /// Nothing of this kind is begun for now.
    HeldKind(&'a str),
}

/// Behind every recipient of a kind.
fn behind_kind(kind: &str) -> String {
    format!("{kind}0")
}

#[cfg(test)]
mod tests {
    use super::super::poll::MAX_ASKED_PAUSE;
    use super::*;

    const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

    fn walks() -> Walks {
        let mut config = RuntimeConfig::default();
        (config.min_poll_interval, config.poll_interval, config.wake_ups) = (PAUSES.0, PAUSES.1, false);
        Walks::new(&config, Instant::now())
    }

    /// A walk that found nothing and took so long.
    async fn walk_for(walks: &mut Walks, took: Duration) {
        let walk = walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(took).await;
        let now = Instant::now();
        walks.ended(&walk, now);
        walks.walked(&walk, &[], now, |_| Kept::Known);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_walk_waits_until_others_are_listened_to_but_not_for_long() {
        for (hears, waited) in [(true, Duration::from_millis(7)), (false, LISTENING_WITHIN)] {
            let began = Instant::now();
            let mut walks = Walks::new(&RuntimeConfig::default(), began);
            assert!(walks.begin(ShardSet::ALL, 1_000, false, began).is_none());
            tokio::time::advance(Duration::from_millis(7)).await;
            if hears {
                walks.hears(Instant::now());
                walks.look_at(ShardSet::ALL);
            }
            assert_eq!(walks.next_due(ShardSet::ALL, false).max(Instant::now()) - began, waited, "hears: {hears}");
            tokio::time::advance(LISTENING_WITHIN).await;
            walk_for(&mut walks, Duration::from_millis(30)).await;
            let rests_until = walks.rests_until;
            walks.hears(Instant::now());
            assert!(
                walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).is_none(),
                "who listens late ends no rest"
            );
            assert!(walks.begin(ShardSet::ALL, 1_000, false, rests_until).is_none(), "one walk was enough");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_during_a_walk_is_looked_at_after_it() {
        let mut walks = walks();
        let walk = walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        walks.look_at([7].into_iter().collect());
        walks.ended(&walk, Instant::now());
        walks.walked(&walk, &[], Instant::now(), |_| Kept::Known);
        let next = walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        assert_eq!(next.from.iter().map(|from| from.shard).collect::<Vec<_>>(), [7]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_commit_late_is_looked_at_more_than_once_and_what_is_committed_is_not() {
        for (is_committed, looks) in [(false, 1 + PROBE_GAPS_MS.len()), (true, 1)] {
            let mut walks = walks();
            walk_for(&mut walks, Duration::ZERO).await;
            let (shards, began) = ([7].into_iter().collect(), Instant::now());
            if is_committed {
                walks.look_at(shards);
            } else {
                walks.mark(shards, began);
            }
            let mut looked = 0;
            for _ in 0..200 {
                let walk = walks.begin(ShardSet::ALL, 1_000, false, Instant::now());
                looked += usize::from(walk.is_some_and(|walk| walk.from.len() == 1));
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            assert_eq!(looked, looks, "committed: {is_committed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_take_a_tenth_of_the_time_at_most() {
        let mut walks = walks();
        walk_for(&mut walks, Duration::from_millis(30)).await;
        walks.found_news(Instant::now());
        assert_eq!(walks.next_due(ShardSet::ALL, false) - Instant::now(), Duration::from_millis(270));
        tokio::time::advance(Duration::from_millis(270)).await;
        // An event is not unnoticed for longer than is allowed because a walk takes long.
        walk_for(&mut walks, Duration::from_millis(500)).await;
        assert_eq!(walks.next_due(ShardSet::ALL, false) - Instant::now(), PAUSES.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_is_worth_what_is_new() {
        for (is_new, pause) in [(true, PAUSES.0), (false, Duration::from_millis(180))] {
            let mut walks = walks();
            let walk = walks.begin(ShardSet::ALL, 10_000, false, Instant::now()).unwrap();
            let row = |n: i16| WalkedRow {
                shard: n,
                recipient: format!("cell/{n}"),
                first: uuid::Uuid::nil(),
                last: None,
                paused: false,
                wait_us: 0,
            };
            let rows: Vec<_> = (0..250).map(row).collect();
            tokio::time::advance(Duration::from_millis(20)).await;
            let now = Instant::now();
            walks.ended(&walk, now);
            walks.walked(&walk, &rows, now, |_| if is_new { Kept::New } else { Kept::Known });
            walks.found_news(now);
            let rested = Duration::from_millis(20);
            assert_eq!(walks.next_due(ShardSet::ALL, false) - now, pause.max(rested), "new: {is_new}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_asked_for_waits_a_moment_only() {
        let mut walks = walks();
        walk_for(&mut walks, Duration::from_millis(2)).await;
        walks.poll_soon();
        assert_eq!(walks.next_due(ShardSet::ALL, false) - Instant::now(), Duration::from_millis(6));
        tokio::time::advance(Duration::from_millis(6)).await;
        let walk = walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        // Also when it is asked for while a walk is under way.
        walks.poll_soon();
        walks.ended(&walk, Instant::now());
        walks.walked(&walk, &[], Instant::now(), |_| Kept::Known);
        assert_eq!(walks.next_due(ShardSet::ALL, false) - Instant::now(), MAX_ASKED_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn shards_of_others_leave_nothing_to_do() {
        let (mut walks, mine) = (walks(), [1, 2].into_iter().collect());
        let walk = walks.begin(mine, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        let now = Instant::now();
        walks.ended(&walk, now);
        walks.walked(&walk, &[], now, |_| Kept::Known);
        assert_eq!(walks.next_due(mine, false) - now, Duration::from_millis(270));
        walks.look_at(ShardSet::ALL);
        tokio::time::advance(Duration::from_millis(30)).await;
        let all = walks.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        assert_eq!(all.from.len(), 256, "those that come here are looked at");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_find_nothing_are_further_and_further_apart() {
        let mut walks = walks();
        let mut gaps = Vec::new();
        for _ in 0..10 {
            walk_for(&mut walks, Duration::ZERO).await;
            let now = Instant::now();
            gaps.push(walks.next_due(ShardSet::ALL, false) - now);
            tokio::time::advance(gaps[gaps.len() - 1]).await;
        }
        assert!(gaps.is_sorted() && gaps[1] < PAUSES.0 * 5 && gaps[9] == PAUSES.1, "{gaps:?}");
    }
}
