//! Finding work: which shards to look at next, and where. The rows of the boxes are the truth; marks and positions only make it faster.
//!
//! A *poll* makes every shard due; it comes at `min_poll_interval` while there is work and backs off to `poll_interval` while there is none.
//! A *mark* makes one shard due at once and a few times more with growing gaps, because an emit inside a transaction cannot know when that
//! commits. A *pass* over a shard goes on where the last walk ended, until the recipient that was last when it began.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::shard::ShardSet;
use crate::store::{WalkFrom, WalkedRow};

/// The gaps between the looks at a shard that was marked, milliseconds.
const PROBE_GAPS_MS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The most recipients that one walk brings of one shard.
const MAX_PER_SHARD: usize = 1_000;

/// The fewest.
const MIN_PER_SHARD: usize = 4;

/// The most kinds that a warning is remembered for.
const MAX_UNKNOWN_KINDS: usize = 1_000;

/// Where to look next.
#[derive(Debug)]
pub(super) struct Walks {
    shards: Vec<ShardWalk>,
    due: ShardSet,
    next_poll: Instant,
    pause: Duration,
    /// Between two polls of a busy and of an idle database.
    pauses: (Duration, Duration),
    hints_forgotten_at: Instant,
    /// The next walk begins no earlier, so that looking for work never takes more than half of the time.
    rests_until: Instant,
    unknown: HashSet<String>,
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
pub(super) struct Walk {
    pub(super) from: Vec<WalkFrom>,
    pub(super) per_shard: usize,
    pub(super) began: Instant,
}

impl Walks {
    pub(super) fn new(min_pause: Duration, max_pause: Duration, now: Instant) -> Self {
        Walks {
            shards: vec![ShardWalk::default(); 256],
            due: ShardSet::ALL,
            next_poll: now + min_pause,
            pause: min_pause,
            pauses: (min_pause, max_pause),
            hints_forgotten_at: now,
            rests_until: now,
            unknown: HashSet::new(),
        }
    }

    /// These shards may have new events.
    pub(super) fn mark(&mut self, shards: ShardSet, now: Instant) {
        for shard in shards.iter() {
            if let Some(walk) = self.shards.get_mut(usize::from(shard)) {
                walk.probe = Some((now, 0));
            }
        }
    }

    /// These shards are to be looked at once.
    pub(super) fn look_at(&mut self, shards: ShardSet) {
        self.due = self.due.or(shards);
    }

    /// When something is due next.
    pub(super) fn next_due(&self, owned: ShardSet) -> Instant {
        if !self.due.and(owned).is_empty() {
            return self.rests_until;
        }
        let probes = owned.iter().filter_map(|shard| self.shards.get(usize::from(shard))?.probe);
        probes.map(|(at, _)| at).fold(self.next_poll, Instant::min).max(self.rests_until)
    }

    /// True once in a poll interval: what is only a hint is to be forgotten.
    pub(super) fn forgets_hints(&mut self, now: Instant) -> bool {
        let forgets = now.duration_since(self.hints_forgotten_at) >= self.pauses.1;
        if forgets {
            self.hints_forgotten_at = now;
        }
        forgets
    }

    /// A walk that began then has ended.
    pub(super) fn rest_after(&mut self, began: Instant, now: Instant) {
        self.rests_until = now + (now - began).min(self.pauses.0);
    }

    /// The next walk, over everything that is due; `None` when nothing is, or when it is too early.
    pub(super) fn begin(&mut self, owned: ShardSet, room: usize, now: Instant) -> Option<Walk> {
        if now < self.rests_until {
            return None;
        }
        if now >= self.next_poll {
            self.due = ShardSet::ALL;
            self.pause = (self.pause * 2).min(self.pauses.1);
            self.next_poll = now + self.pause;
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
        let per_shard = (room / due.len()).clamp(MIN_PER_SHARD, MAX_PER_SHARD);
        let from = due.iter().filter_map(|shard| {
            let walk = self.shards.get(usize::from(shard))?;
            Some(WalkFrom { shard: shard.into(), after: walk.after.clone(), last: walk.last.clone() })
        });
        Some(Walk { from: from.collect(), per_shard, began: now })
    }

    /// Takes what a walk brought into account; `keep` is asked about every recipient and says whether it was news.
    pub(super) fn walked(
        &mut self,
        walk: &Walk,
        rows: &[WalkedRow],
        now: Instant,
        mut keep: impl FnMut(&WalkedRow) -> Kept<'_>,
    ) {
        let mut news = false;
        let mut of_shard: HashMap<i16, Vec<&WalkedRow>> = HashMap::new();
        for row in rows {
            of_shard.entry(row.shard).or_default().push(row);
        }
        for from in &walk.from {
            let Ok(shard) = u8::try_from(from.shard) else { continue };
            let Some(state) = self.shards.get_mut(usize::from(shard)) else { continue };
            let (mut count, mut at_end, mut behind) = (0, true, None);
            for row in of_shard.remove(&from.shard).unwrap_or_default() {
                count += 1;
                at_end = Some(&row.recipient) == row.last.as_ref();
                state.last.clone_from(&row.last);
                behind = Some(match keep(row) {
                    Kept::News => {
                        news = true;
                        row.recipient.clone()
                    }
                    Kept::Known => row.recipient.clone(),
                    Kept::UnknownKind(kind) => {
                        note_unknown(&mut self.unknown, kind);
                        behind_kind(kind)
                    }
                    Kept::HeldKind(kind) => behind_kind(kind),
                });
            }
            if at_end || count < walk.per_shard {
                *state = ShardWalk { probe: state.probe, ..ShardWalk::default() };
                self.due.remove(shard);
            } else if let Some(behind) = behind {
                state.after = behind;
            }
        }
        if news {
            self.pause = self.pauses.0;
            self.next_poll = self.next_poll.min(now + self.pause);
        }
    }
}

/// What was thought of a recipient that a walk brought.
pub(super) enum Kept<'a> {
    News,
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

fn note_unknown(unknown: &mut HashSet<String>, kind: &str) {
    metrics::counter!(super::metrics::UNREGISTERED, "kind" => kind.to_owned()).increment(1);
    if unknown.len() < MAX_UNKNOWN_KINDS && unknown.insert(kind.to_owned()) {
        tracing::warn!(
            kind,
            "events of a kind that nobody here processes stay in their boxes: register it, or purge them"
        );
    }
}
