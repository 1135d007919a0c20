//! How the loop of the workers handles the outcomes of rounds and turns.

use std::time::Duration;

use tokio::time::Instant;

use super::outage::Ended;
use crate::error::{Error, Result};
use crate::eventbox::{Done, Rounded, Turn};
use crate::recipient::Recipient;
use crate::runtime::metrics;
use crate::runtime::working::lane::Lane;
use crate::runtime::working::registry::Handler;
use crate::runtime::working::scheduler::Scheduler;
use crate::runtime::working::state_cache::Entry;
use crate::runtime::working::tasks::Judged;
use crate::shard::ShardSet;
use crate::store::{Backend, is_of_one_statement, retry_after};
use crate::text::Chain;

/// Longest pause of a recipient that fails without a fault of its events, unless its code asks for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Topic of infrastructure errors in health.
const DATABASE: &str = "the database";

impl<B: Backend> Scheduler<B> {
    pub(crate) fn round_done(&mut self, lane: Lane, taken: Vec<Recipient>, done: Result<Rounded<Entry>>) {
        let how = done.as_ref().ok().map(|rounded| (rounded.took, rounded.was_given_up));
        self.round_ended(lane, taken.len(), how);
        let until = Instant::now() + self.shared.config.poll_interval;
        let done = match done {
            Ok(rounded) => rounded.done,
            // Nothing of the round was read, and other kinds go on.
            Err(error @ Error::RoundHook { .. }) => {
                return taken.iter().for_each(|to| self.backs_off(to, &error, Judged::NoEvents));
            }
            Err(error) => {
                self.shared.failed_shards.failed(taken.iter().map(Recipient::shard).collect(), &error);
                for to in taken {
                    self.states.forget(&to);
                    self.queue.done(to, lane, false);
                }
                return self.interrupted_by(&error);
            }
        };
        self.trouble.recovered();
        self.shared.counters.round();
        let mut done = done.into_iter();
        let mut taken: Vec<_> = taken.into_iter().map(|to| (to, done.next())).collect();
        taken.sort_by_key(|(_, done)| !matches!(done, Some(Done::Deferred)));
        for (to, done) in taken {
            match done {
                Some(Done::Committed { turn, left }) => {
                    self.keep(&to, left);
                    self.committed(to, lane, &turn);
                }
                Some(Done::Nothing { last, more, left }) => {
                    match left {
                        None => self.states.forget(&to),
                        left => self.keep(&to, left),
                    }
                    match last {
                        _ if self.shared.attended.is_some() => self.rests_at_the_front(to, lane, until, last.is_some()),
                        Some(last) if more => {
                            self.queue.more_remain(&to, last, true);
                            self.queue.done(to, lane, true);
                        }
                        _ => self.queue.rest(to, lane, until, last.is_some()),
                    }
                }
                Some(Done::Lost) => {
                    self.shared.counters.contention(1);
                    self.queue.done(to, Lane::Turns, true);
                }
                Some(Done::NeedsOwnTurn) | None => self.queue.done(to, Lane::Turns, true),
                Some(Done::Deferred) => {
                    self.shared.rates.gives_back(&to);
                    self.queue.done(to, lane, true);
                }
                Some(Done::Skipped) => self.queue.done(to, lane, false),
            }
        }
    }

    pub(crate) fn turn_done(&mut self, to: Recipient, done: Result<Turn>, judged: Judged) {
        self.turns -= 1;
        let lane = self.shared.handlers.get(to.kind()).map_or(Lane::Turns, Handler::lane);
        match done {
            Ok(Turn { is_left_alone: true, .. }) => {
                self.shared.outages.ended(&to, Ended::Otherwise);
                self.queue.done(to, lane, false);
            }
            Ok(Turn { number: None, last, .. }) => {
                self.shared.outages.ended(&to, Ended::Nothing);
                self.backoffs.is_over(&to);
                let until = Instant::now() + self.shared.config.poll_interval;
                self.queue.rest(to, lane, until, last.is_some());
            }
            Ok(turn) => {
                self.trouble.recovered();
                self.committed(to, lane, &turn);
            }
            Err(error) => self.turn_failed(to, lane, &error, judged),
        }
    }

    fn turn_failed(&mut self, to: Recipient, lane: Lane, error: &Error, judged: Judged) {
        match (error, judged) {
            // Another process works on the recipient too: a scan of its shard shows what it left.
            (Error::Contention { .. }, _) => {
                self.shared.outages.ended(&to, Ended::Otherwise);
                self.shared.counters.contention(1);
                self.scans.mark([to.shard()].into_iter().collect(), Instant::now());
                self.queue.done(to, lane, false);
            }
            (Error::Paused { .. }, _) => {
                self.shared.outages.ended(&to, Ended::Nothing);
                self.queue.done(to, lane, false);
            }
            (Error::Transient { .. } | Error::Unknown { .. }, _) if !is_of_one_statement(error) => {
                self.shared.outages.ended(&to, Ended::Otherwise);
                self.shared.failed_shards.failed(std::iter::once(to.shard()).collect(), error);
                self.queue.done(to, lane, false);
                self.interrupted_by(error);
            }
            // The database has its back-off.
            (_, Judged::Noted) => {
                self.shared.counters.failure();
                tracing::warn!(recipient = %to, error = %Chain(error), "a recipient fails: it backs off");
                self.queue.done(to, lane, false);
            }
            _ => self.backs_off(&to, error, judged),
        }
    }

    /// Backs off a recipient whose failure the database does not have.
    fn backs_off(&mut self, to: &Recipient, error: &Error, judged: Judged) {
        self.shared.counters.failure();
        self.queue.forget(to);
        if self.shared.outages.holds(to.kind()) {
            // It is one of the recipients for probes.
            return;
        }
        let backoff = self.shared.config.backoff;
        let (topic, longest) = match judged {
            Judged::NotNoted => (format!("failures of kind {} cannot be noted", to.kind()), backoff.cap),
            _ => (format!("kind {}", to.kind()), backoff.cap.min(LONGEST_PAUSE)),
        };
        let pauses = (backoff.base.min(longest), longest);
        let pause = self.backoffs.failed(to, pauses, retry_after(error), Instant::now());
        self.shared.complaints.raise(&topic, error, pause);
    }

    pub(super) fn committed(&mut self, to: Recipient, lane: Lane, turn: &Turn) {
        self.shared.counters.turn(turn);
        if self.shared.config.shard_metrics {
            metrics::shard_turn(to.shard(), turn.consumed + turn.garbage);
        }
        self.shared.failed_shards.works(to.shard());
        self.shared.outages.ended(&to, if turn.quarantined > 0 { Ended::Nothing } else { Ended::Succeeded });
        self.backoffs.is_over(&to);
        self.shared.rates.turned(&to);
        if self.queue.was_found_by_scan(&to) {
            self.scans.found_news(Instant::now());
        }
        match turn.last {
            _ if self.shared.attended.is_some() => self.queue.list_anew(&to),
            Some(last) if turn.more_remain => self.queue.more_remain(&to, last, turn.left_listed),
            Some(last) if turn.failures.is_empty() => self.queue.emptied(&to, last),
            _ => self.queue.list_anew(&to),
        }
        self.queue.done(to, lane, turn.more_remain);
    }

    /// Lets an attended recipient rest, whose next listing has the same events. A wake-up ends the rest: the answer of
    /// the other side to an event, or an emit.
    fn rests_at_the_front(&mut self, to: Recipient, lane: Lane, until: Instant, left_events: bool) {
        self.queue.list_anew(&to);
        self.queue.rest(to, lane, until, left_events);
    }

    /// Pauses the start of new work after an infrastructure error; the loop goes on.
    pub(crate) fn interrupted_by(&mut self, error: &dyn std::error::Error) {
        self.queue.clear_waiting();
        self.shared.rates.forget_granted();
        // The next scan finds all ready recipients again.
        self.scans.look_at(ShardSet::ALL);
        let pause = self.trouble.failed();
        self.shared.complaints.raise(DATABASE, error, pause);
    }
}
