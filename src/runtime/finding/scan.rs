//! Finds recipients with events: which shards to scan next, and from which recipient. The rows are the truth; marks
//! and positions only save time.
//!
//! A [poll](Polls) makes every shard due. A *mark* makes one shard due at once and a few more times with growing
//! gaps, because an emit inside a transaction cannot know when that commits. A *pass* over a shard goes on where the
//! last scan ended, until the recipient that was last when the pass began.
//!
//! Scans take half of the time at most: each waits as long as the one before it took, but not longer than the
//! longest pause of polls.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::poll::Polls;
use super::warnings::Warnings;
use crate::eventbox::is_stream;
use crate::runtime::config::RuntimeConfig;
use crate::shard::{SHARDS, ShardSet};
use crate::store::{WalkFrom, WalkedRow};

/// Gaps between the scans of a marked shard, milliseconds.
const PROBE_GAPS_MS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Most recipients of one shard that a scan returns.
const MAX_PER_SHARD: usize = 1_000;

/// Fewest recipients of one shard that a scan returns.
const MIN_PER_SHARD: usize = 4;

/// Longest wait of the first scan for the listener: a scan before that would have to be repeated.
const LISTENING_WITHIN: Duration = Duration::from_millis(100);

/// The shards that are due, and the start of their next scans.
#[derive(Debug)]
pub(crate) struct Scans {
    shards: Vec<ShardScan>,
    due: ShardSet,
    polls: Polls,
    rested_forgotten_at: Instant,
    /// Earliest start of the next scan.
    rests_until: Instant,
    /// Whether the first scan still waits for the listener.
    awaits_listener: bool,
    warnings: Warnings,
}

#[derive(Debug, Clone, Default)]
struct ShardScan {
    after: String,
    last: Option<String>,
    /// Time of the next scan, and the index of the gap after it.
    probe: Option<(Instant, usize)>,
}

/// A scan that was started.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) from: Vec<WalkFrom>,
    pub(crate) per_shard: usize,
    pub(crate) began: Instant,
}

impl Scans {
    /// Makes every shard due, once the listener is there.
    pub(crate) fn new(config: &RuntimeConfig, now: Instant) -> Self {
        Scans {
            shards: vec![ShardScan::default(); usize::from(SHARDS)],
            due: ShardSet::ALL,
            polls: Polls::new(config.min_poll_interval, config.poll_interval, now),
            rested_forgotten_at: now,
            rests_until: if config.remote_wake_ups { now + LISTENING_WITHIN } else { now },
            awaits_listener: config.remote_wake_ups,
            warnings: Warnings::default(),
        }
    }

    /// Notes that the listener hears other processes.
    pub(crate) fn hears(&mut self, now: Instant) {
        if std::mem::take(&mut self.awaits_listener) {
            self.rests_until = self.rests_until.min(now);
        }
    }

    /// Marks shards that may have new events.
    pub(crate) fn mark(&mut self, shards: ShardSet, now: Instant) {
        for shard in shards.iter() {
            if let Some(scan) = self.shards.get_mut(usize::from(shard)) {
                scan.probe = Some((now, 0));
            }
        }
    }

    /// Makes these shards due once.
    pub(crate) fn look_at(&mut self, shards: ShardSet) {
        self.due = self.due.or(shards);
    }

    /// Requests a poll, which starts when scans have not taken too much of the time.
    pub(crate) fn poll_soon(&mut self) {
        self.polls.ask();
    }

    /// Returns when the next scan is due. Polls wait while the queue is full.
    pub(crate) fn next_due(&self, owned: ShardSet, is_busy: bool) -> Instant {
        if !self.due.and(owned).is_empty() {
            return self.rests_until;
        }
        let probes = owned.iter().filter_map(|shard| self.shards.get(usize::from(shard))?.probe);
        probes.map(|(at, _)| at).fold(self.polls.next(is_busy), Instant::min).max(self.rests_until)
    }

    /// Returns true once in a poll interval, when recipients whose rest has ended should be forgotten.
    pub(crate) fn forgets_rested(&mut self, now: Instant) -> bool {
        let forgets = now.duration_since(self.rested_forgotten_at) >= self.polls.pauses().1;
        if forgets {
            self.rested_forgotten_at = now;
        }
        forgets
    }

    /// Returns the next scan, over everything that is due; `None` when nothing is due, or it is too early.
    pub(crate) fn begin(&mut self, owned: ShardSet, room: usize, is_busy: bool, now: Instant) -> Option<Scan> {
        if now < self.rests_until {
            return None;
        }
        self.awaits_listener = false;
        if self.polls.begin(is_busy, now) {
            self.due = ShardSet::ALL;
        }
        for shard in owned.iter() {
            let Some(scan) = self.shards.get_mut(usize::from(shard)) else { continue };
            if let Some((at, gap)) = scan.probe
                && at <= now
            {
                self.due.insert(shard);
                scan.probe = PROBE_GAPS_MS.get(gap).map(|gap_ms| (now + Duration::from_millis(*gap_ms), gap + 1));
            }
        }
        let due = self.due.and(owned);
        if due.is_empty() {
            return None;
        }
        // Shards of other processes become due when they come here.
        self.due = ShardSet::default();
        let per_shard = (room / due.len()).clamp(MIN_PER_SHARD, MAX_PER_SHARD);
        let from = due.iter().filter_map(|shard| {
            let scan = self.shards.get(usize::from(shard))?;
            Some(WalkFrom { shard: shard.into(), after: scan.after.clone(), last: scan.last.clone() })
        });
        Some(Scan { from: from.collect(), per_shard, began: now })
    }

    /// Notes the end of a scan: the next one waits as long as this one took.
    pub(crate) fn ended(&mut self, scan: &Scan, now: Instant) {
        let took = now - scan.began;
        crate::runtime::metrics::scanned(took);
        self.rests_until = now + took.min(self.polls.pauses().1);
    }

    /// Notes that a scan found events without a wake-up: the next poll comes soon.
    pub(crate) fn found_news(&mut self, now: Instant) {
        self.polls.found_news(now);
    }

    /// Takes the rows of a scan; asks `keep` about each recipient.
    pub(crate) fn scanned(
        &mut self,
        scan: &Scan,
        rows: &[WalkedRow],
        now: Instant,
        mut keep: impl FnMut(&WalkedRow) -> Seen<'_>,
    ) {
        let mut of_shard: HashMap<i16, Vec<&WalkedRow>> = HashMap::new();
        for row in rows {
            of_shard.entry(row.shard).or_default().push(row);
        }
        let mut new = 0;
        for from in &scan.from {
            let Ok(shard) = u8::try_from(from.shard) else { continue };
            let Some(state) = self.shards.get_mut(usize::from(shard)) else { continue };
            let (mut count, mut at_end, mut behind) = (0, true, None);
            for row in of_shard.remove(&from.shard).unwrap_or_default() {
                count += 1;
                at_end = Some(&row.recipient) == row.last.as_ref();
                state.last.clone_from(&row.last);
                behind = Some(match keep(row) {
                    Seen::New => {
                        new += 1;
                        row.recipient.clone()
                    }
                    Seen::Known => row.recipient.clone(),
                    Seen::UnknownKind(kind) => {
                        // Peers look after events of streams that nobody has.
                        if !is_stream(kind) {
                            self.warnings.found_unknown(kind);
                        }
                        behind_kind(kind)
                    }
                    Seen::HeldKind(kind) => behind_kind(kind),
                });
            }
            if at_end || count < scan.per_shard {
                *state = ShardScan { probe: state.probe, ..ShardScan::default() };
            } else if let Some(behind) = behind {
                state.after = behind;
                self.due.insert(shard);
            }
        }
        self.polls.scanned(now - scan.began, new);
        if self.due.is_empty() {
            self.polls.ended(now);
        } else {
            // The pass goes on, because more recipients follow.
            self.rests_until = self.rests_until.min(now + self.polls.pauses().0);
        }
    }
}

/// Verdict on a recipient that a scan returned.
pub(crate) enum Seen<'a> {
    /// It became ready.
    New,
    /// It was known, or is backing off.
    Known,
    /// No process here handles its kind: its events stay.
    UnknownKind(&'a str),
    /// Its kind is on hold.
    HeldKind(&'a str),
}

/// A key after every recipient of a kind.
fn behind_kind(kind: &str) -> String {
    format!("{kind}0")
}

#[cfg(test)]
mod tests {
    use super::super::poll::MAX_ASKED_PAUSE;
    use super::*;

    const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

    fn scans() -> Scans {
        let mut config = RuntimeConfig::default();
        (config.min_poll_interval, config.poll_interval, config.remote_wake_ups) = (PAUSES.0, PAUSES.1, false);
        Scans::new(&config, Instant::now())
    }

    /// Plays a scan that found nothing and took this time.
    async fn walk_for(scans: &mut Scans, took: Duration) {
        let scan = scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(took).await;
        let now = Instant::now();
        scans.ended(&scan, now);
        scans.scanned(&scan, &[], now, |_| Seen::Known);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_walk_waits_until_others_are_listened_to_but_not_for_long() {
        for (hears, waited) in [(true, Duration::from_millis(7)), (false, LISTENING_WITHIN)] {
            let began = Instant::now();
            let mut scans = Scans::new(&RuntimeConfig::default(), began);
            assert!(scans.begin(ShardSet::ALL, 1_000, false, began).is_none());
            tokio::time::advance(Duration::from_millis(7)).await;
            if hears {
                scans.hears(Instant::now());
                scans.look_at(ShardSet::ALL);
            }
            assert_eq!(scans.next_due(ShardSet::ALL, false).max(Instant::now()) - began, waited, "hears: {hears}");
            tokio::time::advance(LISTENING_WITHIN).await;
            walk_for(&mut scans, Duration::from_millis(30)).await;
            let rests_until = scans.rests_until;
            scans.hears(Instant::now());
            assert!(scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).is_none(), "a late listener ends no rest");
            assert!(scans.begin(ShardSet::ALL, 1_000, false, rests_until).is_none(), "one scan was enough");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_during_a_scan_is_followed_after_it() {
        let mut scans = scans();
        let scan = scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        scans.look_at([7].into_iter().collect());
        scans.ended(&scan, Instant::now());
        scans.scanned(&scan, &[], Instant::now(), |_| Seen::Known);
        let next = scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        assert_eq!(next.from.iter().map(|from| from.shard).collect::<Vec<_>>(), [7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_probed_again_unless_its_events_are_committed() {
        for (is_committed, looks) in [(false, 1 + PROBE_GAPS_MS.len()), (true, 1)] {
            let mut scans = scans();
            walk_for(&mut scans, Duration::ZERO).await;
            let (shards, began) = ([7].into_iter().collect(), Instant::now());
            if is_committed {
                scans.look_at(shards);
            } else {
                scans.mark(shards, began);
            }
            let mut looked = 0;
            for _ in 0..200 {
                let scan = scans.begin(ShardSet::ALL, 1_000, false, Instant::now());
                looked += usize::from(scan.is_some_and(|scan| scan.from.len() == 1));
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            assert_eq!(looked, looks, "committed: {is_committed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_take_a_tenth_of_the_time_at_most() {
        let mut scans = scans();
        walk_for(&mut scans, Duration::from_millis(30)).await;
        scans.found_news(Instant::now());
        assert_eq!(scans.next_due(ShardSet::ALL, false) - Instant::now(), Duration::from_millis(270));
        tokio::time::advance(Duration::from_millis(270)).await;
        // A long scan must not make an event wait longer than allowed.
        walk_for(&mut scans, Duration::from_millis(500)).await;
        assert_eq!(scans.next_due(ShardSet::ALL, false) - Instant::now(), PAUSES.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_finds_new_events_is_repeated_sooner() {
        for (is_new, pause) in [(true, PAUSES.0), (false, Duration::from_millis(180))] {
            let mut scans = scans();
            let scan = scans.begin(ShardSet::ALL, 10_000, false, Instant::now()).unwrap();
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
            scans.ended(&scan, now);
            scans.scanned(&scan, &rows, now, |_| if is_new { Seen::New } else { Seen::Known });
            scans.found_news(now);
            let rested = Duration::from_millis(20);
            assert_eq!(scans.next_due(ShardSet::ALL, false) - now, pause.max(rested), "new: {is_new}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_asked_for_waits_a_moment_only() {
        let mut scans = scans();
        walk_for(&mut scans, Duration::from_millis(2)).await;
        scans.poll_soon();
        assert_eq!(scans.next_due(ShardSet::ALL, false) - Instant::now(), Duration::from_millis(6));
        tokio::time::advance(Duration::from_millis(6)).await;
        let scan = scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        // The same for a request during a scan.
        scans.poll_soon();
        scans.ended(&scan, Instant::now());
        scans.scanned(&scan, &[], Instant::now(), |_| Seen::Known);
        assert_eq!(scans.next_due(ShardSet::ALL, false) - Instant::now(), MAX_ASKED_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn shards_of_others_leave_nothing_to_do() {
        let (mut scans, mine) = (scans(), [1, 2].into_iter().collect());
        let scan = scans.begin(mine, 1_000, false, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_millis(30)).await;
        let now = Instant::now();
        scans.ended(&scan, now);
        scans.scanned(&scan, &[], now, |_| Seen::Known);
        assert_eq!(scans.next_due(mine, false) - now, Duration::from_millis(270));
        scans.look_at(ShardSet::ALL);
        tokio::time::advance(Duration::from_millis(30)).await;
        let all = scans.begin(ShardSet::ALL, 1_000, false, Instant::now()).unwrap();
        assert_eq!(all.from.len(), usize::from(SHARDS), "those that come here are looked at");
    }

    #[tokio::test(start_paused = true)]
    async fn polls_that_find_nothing_are_further_and_further_apart() {
        let mut scans = scans();
        let mut gaps = Vec::new();
        for _ in 0..10 {
            walk_for(&mut scans, Duration::ZERO).await;
            let now = Instant::now();
            gaps.push(scans.next_due(ShardSet::ALL, false) - now);
            tokio::time::advance(gaps[gaps.len() - 1]).await;
        }
        assert!(gaps.is_sorted() && gaps[1] < PAUSES.0 * 5 && gaps[9] == PAUSES.1, "{gaps:?}");
    }
}
