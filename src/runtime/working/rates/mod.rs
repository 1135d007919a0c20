//! Rates: bounds on the turns of a kind. A recipient that may not begin yet is held here, with its events in its box,
//! and uses neither a worker nor a task nor a timer of its own.
//!
//! The loop of the workers asks for each ready recipient whether it may begin. A recipient that is held leaves the
//! queue of ready recipients, and comes back when its time has come. Scans and wake-ups pass over it meanwhile.
//!
//! Rates are no part of correctness. Each process keeps the part of its shards, from memory, so a rate costs no
//! statement: see [`RuntimeBuilder::rates`](crate::runtime::RuntimeBuilder::rates) for what holds when shards change
//! hands.

mod bucket;
mod config;
mod kind;
#[cfg(test)]
mod model;
mod pauses;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub use self::config::{KindRates, MAX_RATE_PERIOD, MAX_RATE_PREFIXES, Rate};
pub(in crate::runtime) use self::kind::HeldBy;
use self::kind::OfKind;
use crate::recipient::Recipient;
use crate::shard::{SHARDS, ShardSet};
use crate::store::RatedKind;

/// The rates of the kinds that have any.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Whether no kind has rates; read before the lock is taken.
    is_off: bool,
    kinds: Mutex<HashMap<String, OfKind>>,
    /// Number of shards whose part this process takes.
    shards: AtomicUsize,
}

/// What a release brings.
#[derive(Debug, Default)]
pub(super) struct Released {
    /// Recipients that may begin.
    pub(super) recipients: Vec<Recipient>,
    /// Whether a scan should look for recipients that found no place.
    pub(super) needs_scan: bool,
}

impl Rates {
    /// Makes the rates of these kinds, each of which holds at most `most_waiting` recipients for tokens and slots.
    pub(crate) fn new(of: &BTreeMap<String, KindRates>, most_waiting: usize, now: Instant) -> Self {
        let kind = |(kind, rates): (&String, &KindRates)| (kind.clone(), OfKind::new(rates, most_waiting, now));
        let kinds: HashMap<_, _> = of.iter().map(kind).collect();
        Rates { is_off: kinds.is_empty(), kinds: Mutex::new(kinds), shards: AtomicUsize::new(SHARDS.into()) }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off
    }

    /// Takes the part of these shards.
    pub(super) fn share(&self, owned: ShardSet) {
        let shards = owned.len();
        if self.shards.swap(shards, Ordering::Relaxed) != shards {
            self.kinds().values_mut().for_each(|kind| kind.share(shards));
        }
    }

    /// Lets a ready recipient begin a turn, or holds it. Returns whether it begins.
    pub(super) fn admit(&self, to: &Recipient, now: Instant) -> bool {
        self.of(to, |kind| kind.admit(to, now)).unwrap_or(true)
    }

    /// Notes a turn that begins whatever the rates say.
    pub(super) fn begins(&self, to: &Recipient) {
        self.of(to, OfKind::begins);
    }

    /// Notes the end of the turn, or of the round, that these recipients were admitted to.
    pub(super) fn ended(&self, recipients: &[Recipient]) {
        for to in recipients {
            self.of(to, OfKind::ended);
        }
    }

    /// Notes that a turn committed.
    pub(in crate::runtime) fn turned(&self, to: &Recipient) {
        self.of(to, |kind| kind.turned(to, Instant::now()));
    }

    /// Gives back the tokens of a recipient whose round had no place for it.
    pub(in crate::runtime) fn gives_back(&self, to: &Recipient) {
        self.of(to, |kind| kind.gives_back(to));
    }

    /// Forgets that a recipient may begin: it is not ready any more.
    pub(super) fn forget(&self, to: &Recipient) {
        self.of(to, |kind| kind.forget(to));
    }

    /// Forgets which recipients may begin: none is ready any more.
    pub(in crate::runtime) fn forget_granted(&self) {
        if !self.is_off {
            self.kinds().values_mut().for_each(OfKind::forget_granted);
        }
    }

    /// Returns whether a recipient with events is held. Its release makes it ready.
    pub(super) fn waits(&self, to: &Recipient, now: Instant) -> bool {
        self.of(to, |kind| kind.waits(to, now)).unwrap_or(false)
    }

    /// Returns whether no further recipient of a kind can be held.
    pub(super) fn is_full(&self, kind: &str) -> bool {
        !self.is_off && self.kinds().get(kind).is_some_and(OfKind::is_full)
    }

    /// Returns the kinds of which no further recipient can be held, so that scans pass over them.
    pub(super) fn full_kinds(&self) -> Vec<String> {
        if self.is_off {
            return Vec::new();
        }
        let kinds = self.kinds();
        kinds.iter().filter(|(_, kind)| kind.is_full()).map(|(kind, _)| kind.clone()).collect()
    }

    /// Releases the recipients that may begin.
    pub(super) fn release(&self, now: Instant) -> Released {
        let mut released = Released::default();
        for kind in self.kinds().values_mut() {
            released.needs_scan |= kind.release(now, &mut released.recipients);
        }
        released
    }

    /// Returns when the next recipient may be released without the end of a turn.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        if self.is_off {
            return None;
        }
        self.kinds().values().filter_map(|kind| kind.next(now)).min()
    }

    /// Returns the number of recipients with events that are held.
    pub(in crate::runtime) fn held(&self) -> usize {
        if self.is_off {
            return 0;
        }
        self.kinds().values().map(OfKind::all_held).sum()
    }

    /// Calls `tell` with the kinds, the bounds and the numbers of held recipients that have changed since the last
    /// call.
    pub(super) fn tell_changes(&self, mut tell: impl FnMut(&str, HeldBy, usize)) {
        for (name, kind) in self.kinds().iter_mut() {
            kind.tell_changes(|by, held| tell(name, by, held));
        }
    }

    /// Returns what the process reports of the held recipients.
    pub(in crate::runtime) fn report(&self, now: Instant) -> Vec<RatedKind> {
        if self.is_off {
            return Vec::new();
        }
        let kinds = self.kinds();
        let mut rated: Vec<_> = kinds.iter().filter_map(|(name, kind)| kind.report(name, now)).collect();
        rated.sort_by(|a, b| a.kind.cmp(&b.kind));
        rated
    }

    /// Asks the rates of a recipient's kind; `None` when the kind has none.
    fn of<T>(&self, to: &Recipient, ask: impl FnOnce(&mut OfKind) -> T) -> Option<T> {
        if self.is_off {
            return None;
        }
        self.kinds().get_mut(to.kind()).map(ask)
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<String, OfKind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn to(key: &str) -> Recipient {
        Recipient::new("cell", key).unwrap()
    }

    fn rate(turns: u32, per: Duration) -> Rate {
        Rate::new(turns.try_into().unwrap(), per)
    }

    fn at_most(turns: u32) -> KindRates {
        KindRates::new().max_concurrent(turns.try_into().unwrap())
    }

    fn holding(of: &KindRates, most_waiting: usize) -> Rates {
        Rates::new(&BTreeMap::from([("cell".to_owned(), of.clone())]), most_waiting, Instant::now())
    }

    /// Returns those of the recipients that begin.
    fn begin<'a>(rates: &Rates, keys: &[&'a str]) -> Vec<&'a str> {
        keys.iter().copied().filter(|key| rates.admit(&to(key), Instant::now())).collect()
    }

    fn end(rates: &Rates, key: &str) {
        rates.ended(&[to(key)]);
        rates.turned(&to(key));
    }

    fn released(rates: &Rates) -> Vec<Recipient> {
        rates.release(Instant::now()).recipients
    }

    fn next(rates: &Rates) -> Option<Duration> {
        rates.next(Instant::now()).map(|at| at - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_come_within_the_interval_wait_for_one_turn() {
        let rates = holding(&KindRates::new().min_interval(10 * SECOND), 100);
        assert_eq!(begin(&rates, &["a"]), ["a"]);
        assert!(!rates.waits(&to("a"), Instant::now()), "its turn has not ended");
        end(&rates, "a");
        assert_eq!((next(&rates), rates.held()), (None, 0), "it has no events");
        assert!(rates.waits(&to("a"), Instant::now()) && rates.waits(&to("a"), Instant::now()));
        assert_eq!(begin(&rates, &["a", "b"]), ["b"]);
        assert_eq!((next(&rates), rates.held()), (Some(10 * SECOND), 1));
        let report = rates.report(Instant::now()).remove(0);
        assert_eq!((report.kind.as_str(), report.held, report.recipients.len()), ("cell", 1, 1));
        assert_eq!(
            (report.recipients[0].by.as_str(), report.recipients[0].left_us),
            ("min_interval", Some(10_000_000))
        );
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(released(&rates), [to("a")]);
        assert_eq!((released(&rates), begin(&rates, &["a"]), rates.held()), (vec![], vec!["a"], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_turns_run_than_there_are_slots_and_nobody_overtakes() {
        let rates = holding(&at_most(2), 100);
        assert_eq!(begin(&rates, &["a", "b", "c", "d", "c"]), ["a", "b"]);
        assert_eq!((rates.held(), next(&rates), released(&rates)), (2, None, vec![]), "the end of a turn comes first");
        let mut told = Vec::new();
        rates.tell_changes(|kind, by, held| told.push((kind.to_owned(), by.name(), held)));
        assert!(told.contains(&("cell".to_owned(), "max_concurrent", 2)), "{told:?}");
        rates.tell_changes(|kind, by, held| panic!("{kind} {by:?} {held}: nothing has changed"));
        end(&rates, "a");
        assert_eq!(begin(&rates, &["a"]), [""; 0], "others wait for the slot");
        assert_eq!(released(&rates), [to("c")]);
        assert_eq!(begin(&rates, &["e", "c"]), ["c"]);
        for (ends, follows) in [("b", "d"), ("c", "a"), ("d", "e")] {
            end(&rates, ends);
            assert_eq!(released(&rates), [to(follows)]);
            assert_eq!(begin(&rates, &[follows]), [follows]);
        }
        // A turn that begins by itself takes a slot, too.
        end(&rates, "a");
        rates.begins(&to("probe"));
        assert_eq!(begin(&rates, &["f"]), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recipient_that_is_not_ready_any_more_leaves_its_slot() {
        let rates = holding(&at_most(1), 100);
        assert_eq!(begin(&rates, &["a", "b", "c"]), ["a"]);
        end(&rates, "a");
        assert_eq!(released(&rates), [to("b")]);
        assert_eq!(released(&rates), [], "there is one slot");
        rates.forget(&to("b"));
        assert_eq!(released(&rates), [to("c")]);
        rates.forget_granted();
        assert_eq!(begin(&rates, &["d"]), ["d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_a_burst_begin_and_then_one_after_the_other() {
        let rates = holding(&KindRates::new().rate(rate(2, SECOND)), 100);
        assert_eq!(begin(&rates, &["a", "b", "c", "d"]), ["a", "b"]);
        assert_eq!(next(&rates), Some(SECOND / 2));
        tokio::time::advance(SECOND / 2 - Duration::from_millis(1)).await;
        assert_eq!(released(&rates), []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((released(&rates), begin(&rates, &["c"])), (vec![to("c")], vec!["c"]));
        assert_eq!((released(&rates), rates.report(Instant::now())[0].recipients[0].left_us), (vec![], None));
        rates.gives_back(&to("c"));
        assert_eq!(released(&rates), [to("d")]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_prefix_has_a_line_of_its_own() {
        let slow = rate(1, 10 * SECOND);
        let of = KindRates::new().rate(rate(100, SECOND)).rate_of("eu-", slow).rate_of("eu-fr-", slow);
        let rates = holding(&of, 100);
        let keys = ["eu-1", "eu-2", "us-1", "eu-fr-1", "eu-fr-2", "eu", "eu-3"];
        assert_eq!(begin(&rates, &keys), ["eu-1", "us-1", "eu-fr-1", "eu"]);
        assert_eq!((rates.held(), next(&rates)), (3, Some(10 * SECOND)));
        tokio::time::advance(10 * SECOND).await;
        let mut first = released(&rates);
        first.sort();
        assert_eq!(first, [to("eu-2"), to("eu-fr-2")]);
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(released(&rates), [to("eu-3")]);
    }

    #[tokio::test(start_paused = true)]
    async fn recipients_that_find_no_place_are_left_to_a_scan() {
        let rates = holding(&at_most(1), 2);
        assert_eq!(begin(&rates, &["a", "b", "c"]), ["a"]);
        assert!(rates.is_full("cell") && !rates.is_full("other"));
        assert_eq!(rates.full_kinds(), ["cell"]);
        assert!(!rates.release(Instant::now()).needs_scan, "nobody was left out");
        assert_eq!(begin(&rates, &["d"]), [""; 0]);
        assert!(rates.waits(&to("e"), Instant::now()) && rates.held() == 2);
        end(&rates, "a");
        let one = rates.release(Instant::now());
        assert_eq!((one.recipients, one.needs_scan), (vec![to("b")], true));
        assert!(!rates.is_full("cell") && !rates.release(Instant::now()).needs_scan);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_takes_the_part_of_its_shards() {
        let rates = holding(&at_most(10), 100);
        let keys = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        for (shards, slots) in [(256, 10), (128, 5), (100, 3), (1, 1), (0, 1)] {
            rates.share((0..=u8::MAX).take(shards).collect());
            let begun = begin(&rates, &keys);
            assert_eq!(begun.len(), slots, "{shards}");
            begun.into_iter().for_each(|key| end(&rates, key));
            while !released(&rates).is_empty() {
                rates.forget_granted();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_without_rates_are_left_alone() {
        let rates = holding(&at_most(1), 100);
        let other = Recipient::new("other", "a").unwrap();
        assert!(rates.admit(&other, Instant::now()) && rates.admit(&other, Instant::now()));
        assert!(!rates.waits(&other, Instant::now()));
        let off = Rates::new(&BTreeMap::new(), 100, Instant::now());
        assert!(off.is_off() && off.admit(&other, Instant::now()));
        assert_eq!((off.next(Instant::now()), off.held(), off.full_kinds().len()), (None, 0, 0));
    }
}
