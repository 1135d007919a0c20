//! Finding work: which shards to look at next, and where. The rows of the boxes are the truth; marks and positions only make it faster.
//!
//! A *poll* makes every shard due; it comes at `min_poll_interval` while it finds what nobody told of and backs off to `poll_interval` while it
//! does not. A *mark* makes one shard due at once and a few times more with growing gaps, because an emit inside a transaction cannot know when
//! that commits. A *pass* over a shard goes on where the last walk ended, until the recipient that was last when it began.
//!
//! A walk steps over everything that was removed and is still kept for somebody's long snapshot, so what it takes can grow without end: polls take
//! a tenth of the time (a quarter, when they are asked for), or as much as one in each longest pause takes, and walks half of it.

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

/// How many times as long as a poll took the next one waits, but no longer than the longest pause. A walk that brings a new recipient in
/// each [`WORTH_IT`] is not counted.
const PAUSES_A_POLL: u32 = 9;

/// How many times as long as a poll took the next one waits when something asks for it: what asks has seen a change.
const PAUSES_ASKED: u32 = 3;

/// The most that a poll waits for which something asks, however long the one before it took: a moment in which the disk was slow must not make events
/// of other processes wait for long.
const MAX_ASKED_PAUSE: Duration = Duration::from_millis(50);

/// What a walk may take for each recipient that it brings and that was not known to have events.
const WORTH_IT: Duration = Duration::from_micros(100);

/// A walk that takes so long for each recipient that it brings is warned about, once in [`WARN_AGAIN`].
const SLOW_WALK: Duration = Duration::from_millis(100);

/// How long a warning about slow walks holds.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// The most kinds that a warning is remembered for.
const MAX_UNKNOWN_KINDS: usize = 1_000;

/// Where to look next.
#[derive(Debug)]
pub(super) struct Walks {
    shards: Vec<ShardWalk>,
    due: ShardSet,
    next_poll: Instant,
    /// No poll begins earlier by itself, and none that is asked for.
    no_poll_before: Instant,
    no_asked_poll_before: Instant,
    /// Whether a poll was asked for that has not begun.
    asked: bool,
    /// What the walks of the poll that is under way have taken so far.
    polling: Option<Duration>,
    pause: Duration,
    /// Between two polls of a busy and of an idle database.
    pauses: (Duration, Duration),
    rested_forgotten_at: Instant,
    /// The next walk begins no earlier.
    rests_until: Instant,
    unknown: HashSet<String>,
    warned_at: Option<Instant>,
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
            no_poll_before: now,
            no_asked_poll_before: now,
            asked: false,
            polling: Some(Duration::ZERO),
            pause: min_pause,
            pauses: (min_pause, max_pause),
            rested_forgotten_at: now,
            rests_until: now,
            unknown: HashSet::new(),
            warned_at: None,
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

    /// All shards are to be looked at, as soon as that does not take too much of the time.
    pub(super) fn poll_soon(&mut self) {
        self.asked = true;
        self.next_poll = self.next_poll.min(self.no_asked_poll_before);
    }

    /// When something is due next.
    pub(super) fn next_due(&self, owned: ShardSet) -> Instant {
        if !self.due.and(owned).is_empty() {
            return self.rests_until;
        }
        let probes = owned.iter().filter_map(|shard| self.shards.get(usize::from(shard))?.probe);
        probes.map(|(at, _)| at).fold(self.next_poll, Instant::min).max(self.rests_until)
    }

    /// True once in a poll interval: who does not rest any more is to be forgotten.
    pub(super) fn forgets_rested(&mut self, now: Instant) -> bool {
        let forgets = now.duration_since(self.rested_forgotten_at) >= self.pauses.1;
        if forgets {
            self.rested_forgotten_at = now;
        }
        forgets
    }

    /// The next walk, over everything that is due; `None` when nothing is, or when it is too early.
    pub(super) fn begin(&mut self, owned: ShardSet, room: usize, now: Instant) -> Option<Walk> {
        if now < self.rests_until {
            return None;
        }
        if now >= self.next_poll {
            self.due = ShardSet::ALL;
            self.polling = Some(Duration::ZERO);
            self.asked = false;
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
    pub(super) fn ended(&mut self, walk: &Walk, brought: usize, now: Instant) {
        let took = now - walk.began;
        super::metrics::walked(took);
        let brought = u32::try_from(brought).unwrap_or(u32::MAX);
        if took >= SLOW_WALK.saturating_mul(brought.max(1)) && self.warned_at.is_none_or(|at| now - at >= WARN_AGAIN) {
            self.warned_at = Some(now);
            tracing::warn!(
                took_ms = took.as_millis(),
                brought,
                "looking for work takes long: the database is slow, or keeps what was removed for a transaction that is open for long; end that"
            );
        }
        self.rests_until = now + took.min(self.pauses.1);
    }

    /// A walk found what nobody had told of: the next poll comes soon.
    pub(super) fn found_news(&mut self, now: Instant) {
        self.pause = self.pauses.0;
        self.next_poll = self.next_poll.min(now + self.pause).max(self.no_poll_before);
    }

    /// Takes what a walk brought into account; `keep` is asked about every recipient and says what is thought of it.
    pub(super) fn walked(
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
                        note_unknown(&mut self.unknown, kind);
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
        let took = now - walk.began;
        if let Some(polling) = &mut self.polling
            && took > WORTH_IT.saturating_mul(new)
        {
            *polling += took;
        }
        if !self.due.is_empty() {
            // The pass goes on, and there is much to be found.
            self.rests_until = self.rests_until.min(now + self.pauses.0);
        } else if let Some(took) = self.polling.take() {
            self.no_poll_before = now + took.saturating_mul(PAUSES_A_POLL).min(self.pauses.1);
            self.no_asked_poll_before = now + took.saturating_mul(PAUSES_ASKED).min(MAX_ASKED_PAUSE);
            let earliest = if self.asked { self.no_asked_poll_before } else { self.no_poll_before };
            self.next_poll = self.next_poll.max(earliest);
        }
    }
}

/// What was thought of a recipient that a walk brought.
pub(super) enum Kept<'a> {
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

fn note_unknown(unknown: &mut HashSet<String>, kind: &str) {
    metrics::counter!(super::metrics::UNREGISTERED, "kind" => kind.to_owned()).increment(1);
    if unknown.len() < MAX_UNKNOWN_KINDS && unknown.insert(kind.to_owned()) {
        tracing::warn!(
            kind,
            "events of a kind that nobody here processes stay in their boxes: register it, or purge them"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

    fn walks() -> Walks {
        Walks::new(PAUSES.0, PAUSES.1, Instant::now())
    }

    /// A walk that found nothing and took so long.
    async fn walk_for(walks: &mut Walks, took: Duration) {
        let walk = walks.begin(ShardSet::ALL, 1_000, Instant::now()).unwrap();
        tokio::time::advance(took).await;
        let now = Instant::now();
        walks.ended(&walk, 0, now);
        walks.walked(&walk, &[], now, |_| Kept::Known);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_during_a_walk_is_looked_at_after_it() {
        let mut walks = walks();
        let walk = walks.begin(ShardSet::ALL, 1_000, Instant::now()).unwrap();
        walks.look_at([7].into_iter().collect());
        walks.ended(&walk, 0, Instant::now());
        walks.walked(&walk, &[], Instant::now(), |_| Kept::Known);
        let next = walks.begin(ShardSet::ALL, 1_000, Instant::now()).unwrap();
        assert_eq!(next.from.iter().map(|from| from.shard).collect::<Vec<_>>(), [7]);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_take_a_tenth_of_the_time_at_most() {
        let mut walks = walks();
        walk_for(&mut walks, Duration::from_millis(30)).await;
        walks.found_news(Instant::now());
        assert_eq!(walks.next_due(ShardSet::ALL) - Instant::now(), Duration::from_millis(270));
        tokio::time::advance(Duration::from_millis(270)).await;
        // An event is not unnoticed for longer than is allowed because a walk takes long.
        walk_for(&mut walks, Duration::from_millis(500)).await;
        assert_eq!(walks.next_due(ShardSet::ALL) - Instant::now(), PAUSES.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_is_worth_what_is_new() {
        for (is_new, pause) in [(true, PAUSES.0), (false, Duration::from_millis(180))] {
            let mut walks = walks();
            let walk = walks.begin(ShardSet::ALL, 10_000, Instant::now()).unwrap();
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
            walks.ended(&walk, rows.len(), now);
            walks.walked(&walk, &rows, now, |_| if is_new { Kept::New } else { Kept::Known });
            walks.found_news(now);
            let rested = Duration::from_millis(20);
            assert_eq!(walks.next_due(ShardSet::ALL) - now, pause.max(rested), "new: {is_new}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_asked_for_waits_a_moment_only() {
        let mut walks = walks();
        walk_for(&mut walks, Duration::from_millis(2)).await;
        walks.poll_soon();
        assert_eq!(walks.next_due(ShardSet::ALL) - Instant::now(), Duration::from_millis(6));
        tokio::time::advance(Duration::from_millis(6)).await;
        let walk = walks.begin(ShardSet::ALL, 1_000, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        // Also when it is asked for while a walk is under way.
        walks.poll_soon();
        walks.ended(&walk, 0, Instant::now());
        walks.walked(&walk, &[], Instant::now(), |_| Kept::Known);
        assert_eq!(walks.next_due(ShardSet::ALL) - Instant::now(), MAX_ASKED_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn shards_of_others_leave_nothing_to_do() {
        let (mut walks, mine) = (walks(), [1, 2].into_iter().collect());
        let walk = walks.begin(mine, 1_000, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        let now = Instant::now();
        walks.ended(&walk, 0, now);
        walks.walked(&walk, &[], now, |_| Kept::Known);
        assert_eq!(walks.next_due(mine) - now, Duration::from_millis(270));
        walks.look_at(ShardSet::ALL);
        tokio::time::advance(Duration::from_millis(30)).await;
        let all = walks.begin(ShardSet::ALL, 1_000, Instant::now()).unwrap();
        assert_eq!(all.from.len(), 256, "those that come here are looked at");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_find_nothing_are_further_and_further_apart() {
        let mut walks = walks();
        let mut gaps = Vec::new();
        for _ in 0..10 {
            walk_for(&mut walks, Duration::ZERO).await;
            let now = Instant::now();
            gaps.push(walks.next_due(ShardSet::ALL) - now);
            tokio::time::advance(gaps[gaps.len() - 1]).await;
        }
        assert!(gaps.is_sorted() && gaps[1] < PAUSES.0 * 5 && gaps[9] == PAUSES.1, "{gaps:?}");
    }
}
