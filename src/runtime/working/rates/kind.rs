//! The rates of one kind: which of its recipients may begin a turn now, and which wait for it in the queue.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{Bucket, part_of};
use super::config::KindRates;
use super::pauses::Pauses;
use crate::recipient::Recipient;
use crate::store::{HeldRecipient, RatedKind};

/// Number of held recipients of a kind in the report of the process.
const MAX_REPORTED: usize = 10;

/// What holds the recipients of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::runtime) enum HeldBy {
    MinInterval,
    MaxConcurrent,
    Rate,
}

impl HeldBy {
    pub(in crate::runtime) const ALL: [HeldBy; 3] = [HeldBy::MinInterval, HeldBy::MaxConcurrent, HeldBy::Rate];

    /// Returns the name of the bound, as a service sets it.
    pub(in crate::runtime) fn name(self) -> &'static str {
        match self {
            HeldBy::MinInterval => "min_interval",
            HeldBy::MaxConcurrent => "max_concurrent",
            HeldBy::Rate => "rate",
        }
    }
}

/// The recipients of a kind whose keys have the same longest prefix with a rate, first come, first served.
#[derive(Debug)]
struct Line {
    prefix: String,
    bucket: Option<Bucket>,
    waiting: VecDeque<Recipient>,
}

/// The rates of a kind.
#[derive(Debug)]
pub(super) struct OfKind {
    pauses: Option<Pauses>,
    max_concurrent: Option<NonZeroU32>,
    /// Most turns at the same time in this process.
    slots: usize,
    running: usize,
    bucket: Option<Bucket>,
    /// The lines, the longest prefixes first. The last one has the recipients without a prefix.
    lines: Vec<Line>,
    /// The line that is served first.
    next_line: usize,
    /// The recipients of the lines.
    waiting: HashSet<Recipient>,
    /// Recipients that left their line with tokens and a slot, and are ready. Nobody overtakes them.
    granted: HashSet<Recipient>,
    /// Most recipients of the lines.
    most_waiting: usize,
    /// Whether recipients found no place in the lines.
    left_out: bool,
    /// The last numbers of held recipients that were told, by bound.
    told: [Option<usize>; 3],
}

impl OfKind {
    pub(super) fn new(rates: &KindRates, most_waiting: usize, now: Instant) -> Self {
        let line = |prefix: &str, bucket| Line { prefix: prefix.to_owned(), bucket, waiting: VecDeque::new() };
        let prefixed = rates.prefixes.iter().map(|(prefix, rate)| line(prefix, Some(Bucket::new(*rate, now))));
        let mut lines: Vec<Line> = prefixed.chain([line("", None)]).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.prefix.len()));
        OfKind {
            pauses: rates.min_interval.map(Pauses::new),
            max_concurrent: rates.max_concurrent,
            slots: rates.max_concurrent.map_or(usize::MAX, |most| most.get() as usize),
            running: 0,
            bucket: rates.rate.map(|rate| Bucket::new(rate, now)),
            lines,
            next_line: 0,
            waiting: HashSet::new(),
            granted: HashSet::new(),
            most_waiting,
            left_out: false,
            told: [None; 3],
        }
    }

    /// Takes the part of this number of shards.
    pub(super) fn share(&mut self, shards: usize) {
        if let Some(most) = self.max_concurrent {
            let shards = u32::try_from(shards).unwrap_or(u32::MAX);
            self.slots = part_of(most.get(), shards) as usize;
        }
        let of_lines = self.lines.iter_mut().filter_map(|line| line.bucket.as_mut());
        self.bucket.iter_mut().chain(of_lines).for_each(|bucket| bucket.share(shards));
    }

    /// Lets a ready recipient begin a turn, or holds it. Returns whether it begins.
    pub(super) fn admit(&mut self, to: &Recipient, now: Instant) -> bool {
        let is_granted = self.granted.remove(to);
        if self.pauses.as_mut().is_some_and(|pauses| pauses.holds(to, now)) {
            return false;
        }
        if !is_granted {
            let line = self.line_of(to);
            if self.room(now) == 0 || !self.line_has_token(line, now) || self.somebody_is_next(now) {
                self.hold(to, line);
                return false;
            }
            self.take_tokens(line, now);
        }
        self.running += 1;
        true
    }

    /// Notes a turn that begins whatever the rates say.
    pub(super) fn begins(&mut self) {
        self.running += 1;
    }

    /// Notes that a turn ended, or that its recipient left its round.
    pub(super) fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Notes that a turn committed.
    pub(super) fn turned(&mut self, to: &Recipient, now: Instant) {
        if let Some(pauses) = &mut self.pauses {
            pauses.turned(to, now);
        }
    }

    /// Gives back the tokens of a recipient whose round had no place for it.
    pub(super) fn gives_back(&mut self, to: &Recipient) {
        let line = self.line_of(to);
        let of_line = self.lines.get_mut(line).and_then(|line| line.bucket.as_mut());
        self.bucket.iter_mut().chain(of_line).for_each(Bucket::give_back);
    }

    /// Forgets that a recipient may begin: it is not ready any more.
    pub(super) fn forget(&mut self, to: &Recipient) {
        self.granted.remove(to);
    }

    pub(super) fn forget_granted(&mut self) {
        self.granted.clear();
    }

    /// Returns whether a recipient with events is held. Its release makes it ready.
    pub(super) fn waits(&mut self, to: &Recipient, now: Instant) -> bool {
        if self.waiting.contains(to) || self.pauses.as_mut().is_some_and(|pauses| pauses.holds(to, now)) {
            return true;
        }
        let finds_no_place = self.is_full() && !self.granted.contains(to);
        self.left_out |= finds_no_place;
        finds_no_place
    }

    /// Returns whether the lines take nobody more.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.most_waiting
    }

    /// Releases the recipients that may begin, for the queue. Returns whether a scan should look for those that found
    /// no place.
    pub(super) fn release(&mut self, now: Instant, released: &mut Vec<Recipient>) -> bool {
        if let Some(pauses) = &mut self.pauses {
            pauses.release(now, released);
        }
        let mut room = if self.waiting.is_empty() { 0 } else { self.room(now) };
        let mut passed = 0;
        while room > 0 && passed < self.lines.len() {
            let at = self.next_line % self.lines.len();
            self.next_line = at + 1;
            match self.first_of(at, now) {
                Some(to) => {
                    (room, passed) = (room - 1, 0);
                    released.push(to);
                }
                None => passed += 1,
            }
        }
        let has_place = self.waiting.len() <= self.most_waiting / 2;
        has_place && std::mem::take(&mut self.left_out)
    }

    /// Returns when the next recipient may be released without the end of a turn.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let end_of_pause = self.pauses.as_ref().and_then(Pauses::next);
        end_of_pause.into_iter().chain(self.next_token(now)).min()
    }

    /// Returns the number of recipients with events that this holds.
    pub(super) fn held(&self, by: HeldBy) -> usize {
        match by {
            HeldBy::MinInterval => self.pauses.as_ref().map_or(0, Pauses::held),
            HeldBy::MaxConcurrent if self.free_slots() == 0 => self.waiting.len(),
            HeldBy::Rate if self.free_slots() > 0 => self.waiting.len(),
            HeldBy::MaxConcurrent | HeldBy::Rate => 0,
        }
    }

    /// Returns the number of all recipients with events that this holds.
    pub(super) fn all_held(&self) -> usize {
        HeldBy::ALL.map(|by| self.held(by)).iter().sum()
    }

    /// Calls `tell` with the bounds and the numbers of held recipients that have changed since the last call.
    pub(super) fn tell_changes(&mut self, mut tell: impl FnMut(HeldBy, usize)) {
        let now = HeldBy::ALL.map(|by| Some(self.held(by)));
        let before = std::mem::replace(&mut self.told, now);
        for (by, (before, now)) in HeldBy::ALL.into_iter().zip(before.into_iter().zip(now)) {
            if let Some(held) = now.filter(|_| before != now) {
                tell(by, held);
            }
        }
    }

    /// Returns what the process reports of the held recipients.
    pub(super) fn report(&self, kind: &str, now: Instant) -> Option<RatedKind> {
        let held = self.all_held();
        let pauses = self.pauses.iter().flat_map(|pauses| pauses.waits(now));
        let pauses = pauses.map(|(to, left)| (to, HeldBy::MinInterval, Some(left)));
        let by = if self.free_slots() == 0 { HeldBy::MaxConcurrent } else { HeldBy::Rate };
        let lines = self.lines.iter().flat_map(|line| &line.waiting).map(|to| (to, by, None));
        // Half of the places for each, so that neither hides the other.
        let named = pauses.take(MAX_REPORTED / 2).chain(lines.take(MAX_REPORTED / 2));
        let recipients = named.map(|(to, by, left): (&Recipient, HeldBy, Option<Duration>)| HeldRecipient {
            recipient: to.to_string(),
            by: by.name().to_owned(),
            left_us: left.map(crate::clock::micros),
        });
        (held > 0).then(|| RatedKind { kind: kind.to_owned(), held: held as u64, recipients: recipients.collect() })
    }

    fn line_of(&self, to: &Recipient) -> usize {
        let at = self.lines.iter().position(|line| to.key().starts_with(&line.prefix));
        at.unwrap_or(self.lines.len().saturating_sub(1))
    }

    fn free_slots(&self) -> usize {
        self.slots.saturating_sub(self.running + self.granted.len())
    }

    /// Returns how many turns the kind may begin. Those of the granted are counted already.
    fn room(&self, now: Instant) -> usize {
        let tokens = self.bucket.as_ref().map_or(usize::MAX, |bucket| bucket.tokens(now));
        self.free_slots().min(tokens)
    }

    fn line_has_token(&self, line: usize, now: Instant) -> bool {
        let bucket = self.lines.get(line).and_then(|line| line.bucket.as_ref());
        bucket.is_none_or(|bucket| bucket.tokens(now) > 0)
    }

    /// Returns whether a recipient in a line waits for nothing but the rates of the kind.
    fn somebody_is_next(&self, now: Instant) -> bool {
        let waits = |line: &Line| !line.waiting.is_empty();
        self.lines.iter().enumerate().any(|(at, line)| waits(line) && self.line_has_token(at, now))
    }

    fn hold(&mut self, to: &Recipient, line: usize) {
        if self.waiting.len() >= self.most_waiting {
            self.left_out = true;
        } else if let Some(line) = self.lines.get_mut(line)
            && self.waiting.insert(to.clone())
        {
            line.waiting.push_back(to.clone());
        }
    }

    fn take_tokens(&mut self, line: usize, now: Instant) {
        let of_line = self.lines.get_mut(line).and_then(|line| line.bucket.as_mut());
        self.bucket.iter_mut().chain(of_line).for_each(|bucket| bucket.take(now));
    }

    /// Grants a turn to the first recipient of a line, if the line has a token.
    fn first_of(&mut self, line: usize, now: Instant) -> Option<Recipient> {
        if !self.line_has_token(line, now) {
            return None;
        }
        let to = self.lines.get_mut(line)?.waiting.pop_front()?;
        self.take_tokens(line, now);
        self.waiting.remove(&to);
        self.granted.insert(to.clone());
        Some(to)
    }

    /// Returns when the first token for a recipient in a line is there.
    fn next_token(&self, now: Instant) -> Option<Instant> {
        if self.waiting.is_empty() || self.free_slots() == 0 {
            return None;
        }
        let at = |bucket: &Option<Bucket>| bucket.as_ref().map_or(now, |bucket| bucket.next(now));
        let lines = self.lines.iter().filter(|line| !line.waiting.is_empty());
        lines.map(|line| at(&line.bucket).max(at(&self.bucket))).min()
    }
}
