//! The loop that finds recipients with events and gives them to rounds and turns.
//!
//! One task owns all state, so nothing is locked. Scans, rounds and turns are tasks that report back. Each number of
//! tasks has a bound.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::idle::Idle;
use super::lane::{Lane, Queues};
use super::pace::Paces;
use super::paused::PausedKinds;
use super::ready::ReadySet;
use super::registry::Handler;
use super::releasing::is_held;
use super::state_cache::{Entry, StateCache};
use super::tasks::{Aim, Report, run_scan, run_turn};
use super::window::{Durations, Windows};
use crate::error::Result;
use crate::eventbox::{EventId, Rounded, WakeUp, WakeUps};
use crate::heartbeat::Beat;
use crate::recipient::Recipient;
use crate::runtime::failing::backoffs::Backoffs;
use crate::runtime::failing::outage::Ended;
use crate::runtime::failing::trouble::Interruption;
use crate::runtime::finding::old_transactions;
use crate::runtime::finding::scan::{Scan, Scans, Seen};
use crate::runtime::shared::Shared;
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, WalkedRow};

/// The recipients of a task, to give them back when the task ends.
pub(super) enum Task {
    Scan,
    Round(Lane, Vec<Recipient>),
    Turn(Recipient),
}

/// The work that is left when the loop stops.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Left {
    pub(crate) waiting: usize,
    pub(crate) interrupted: usize,
}

pub(crate) struct Scheduler<B: Backend> {
    pub(crate) shared: Arc<Shared<B>>,
    pub(super) owned: watch::Receiver<ShardSet>,
    local: Arc<WakeUps>,
    pub(super) held: watch::Receiver<PausedKinds>,
    /// Wake-ups from other processes.
    remote: Arc<WakeUps>,
    pub(crate) scans: Scans,
    pub(crate) queue: ReadySet,
    pub(crate) states: StateCache,
    pub(super) tasks: JoinSet<Report>,
    pub(super) running: HashMap<Id, Task>,
    /// The sizes of the rounds of processors.
    pub(super) paces: Paces,
    /// The rounds that collect events.
    pub(super) windows: Windows,
    /// The lane of the last round that was started.
    pub(super) last_lane: Lane,
    scanning: bool,
    pub(crate) rounds: usize,
    pub(crate) turns: usize,
    pub(crate) trouble: Interruption,
    pub(crate) backoffs: Backoffs,
    idle: Idle,
}

impl<B: Backend> Scheduler<B> {
    pub(crate) fn new(
        shared: Arc<Shared<B>>,
        durations: &BTreeMap<String, Durations>,
        owned: watch::Receiver<ShardSet>,
        held: watch::Receiver<PausedKinds>,
        local: Arc<WakeUps>,
        remote: Arc<WakeUps>,
    ) -> Self {
        let lane = |kind: &String| shared.handlers.get(kind.as_str()).map(Handler::lane);
        let windows = Windows::new(durations.iter().filter_map(|(kind, durations)| Some((lane(kind)?, *durations))));
        let now = Instant::now();
        let paces = Paces::new(shared.config.processor_recipients.get(), shared.config.processor_round_time);
        Scheduler {
            scans: Scans::new(&shared.config, now),
            idle: Idle::new(now, shared.config.shard_metrics),
            states: StateCache::new(if shared.config.leases.is_some() { shared.config.state_cache_bytes } else { 0 }),
            shared,
            owned,
            held,
            local,
            remote,
            queue: ReadySet::default(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            paces,
            windows,
            last_lane: Lane::Turns,
            scanning: false,
            rounds: 0,
            turns: 0,
            trouble: Interruption::none(now),
            backoffs: Backoffs::default(),
        }
    }

    /// Works until `stopping`, then waits for the tasks in flight until `interrupt`.
    pub(crate) async fn run(mut self, stopping: CancellationToken, interrupt: CancellationToken, beat: Beat) -> Left {
        while !stopping.is_cancelled() {
            beat.beat();
            let now = Instant::now();
            self.start_due(now);
            let next = self.next_wake(now);
            let idle = self.tasks.is_empty();
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.take(ended),
                () = self.local.wait() => {
                    let wake_up = self.local.take();
                    self.on_wake_up(wake_up);
                }
                () = self.remote.wait() => {
                    self.scans.hears(Instant::now());
                    let wake_up = self.remote.take();
                    // A file wakes up for every commit, so its wake-ups name no resting recipient.
                    if B::SENDS_WAKE_UPS { self.on_wake_up(wake_up) } else { self.scans.poll_soon() }
                }
                // Wake-ups of these shards were skipped while another process had them.
                Ok(()) = self.owned.changed() => {
                    self.scans.look_at(ShardSet::ALL);
                    self.states.clear();
                }
                // Recipients skipped while their kind was on hold become due at once.
                Ok(()) = self.held.changed() => self.scans.look_at(ShardSet::ALL),
                () = sleep_until(next) => {}
            }
            if idle {
                self.idle.add(now.elapsed(), *self.owned.borrow(), Instant::now());
            }
        }
        let waiting = self.queue.clear_waiting();
        while !self.tasks.is_empty() && !interrupt.is_cancelled() {
            beat.beat();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.take(ended),
                () = interrupt.cancelled() => {}
            }
            self.queue.clear_waiting();
        }
        let interrupted = self.running.values().filter(|task| !matches!(task, Task::Scan)).count();
        // A dropped turn rolls back, or has committed. It counts as no failure.
        self.tasks.shutdown().await;
        Left { waiting, interrupted }
    }

    fn start_due(&mut self, now: Instant) {
        if self.trouble.pauses_until(now).is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let config = &shared.config;
        self.start_waiting(now);
        self.release_held(now);
        while self.turns < config.workers.get() {
            if self.queue.waiting(Lane::Turns) == 0 {
                break;
            }
            let Some(to) = self.take_free(Lane::Turns, 1).pop() else { continue };
            self.begin_turn(to, Aim::Work);
        }
        // Behind the turns: a round may become a turn, and must not take every worker.
        self.start_rounds(now);
        if !self.scanning && self.wants_more() {
            if self.scans.forgets_rested(now) {
                self.queue.forget_rested(now);
            }
            let owned = *self.owned.borrow();
            let room = config.max_ready.get().saturating_sub(self.queue.all_waiting());
            if let Some(scan) = self.scans.begin(owned, room, self.is_busy(), now) {
                self.scanning = true;
                let task = run_scan(Arc::clone(&self.shared), self.passed_over(), scan);
                self.running.insert(self.tasks.spawn(task).id(), Task::Scan);
            }
        }
    }

    pub(super) fn begin_turn(&mut self, to: Recipient, aim: Aim) {
        // The turn has the state alone, so that a turn that fails or panics leaves none.
        let kept = self.states.take(&to);
        let task = run_turn(Arc::clone(&self.shared), to.clone(), self.queue.position(&to), aim, kept);
        self.turns += 1;
        self.running.insert(self.tasks.spawn(task).id(), Task::Turn(to));
    }

    /// Makes recipients ready again whose back-off has ended or whose kind has recovered, and probes each held kind.
    fn start_waiting(&mut self, now: Instant) {
        let released = self.shared.outages.take_released();
        if !released.is_empty() {
            self.scans.look_at(ShardSet::ALL);
        }
        let again: HashSet<Recipient> = self.backoffs.due(now).into_iter().chain(released).collect();
        if !again.is_empty() {
            self.named(again);
        }
        while self.turns < self.shared.config.workers.get() {
            let Some(to) = self.shared.outages.next_probe(now) else { break };
            if self.queue.begin(&to) {
                self.shared.rates.begins(&to);
                self.begin_turn(to, Aim::Probe);
            } else {
                self.shared.outages.ended(&to, Ended::Otherwise);
            }
        }
    }

    fn on_wake_up(&mut self, wake_up: WakeUp) {
        let shards = wake_up.committed.or(wake_up.shards);
        if !shards.is_empty() {
            self.scans.look_at(wake_up.committed);
            self.scans.mark(wake_up.shards, Instant::now());
            self.queue.wake(|to| shards.contains(to.shard()));
        }
        self.named(wake_up.recipients);
    }

    /// Makes recipients with events ready, without a scan.
    pub(super) fn named(&mut self, recipients: impl IntoIterator<Item = Recipient>) {
        let owned = *self.owned.borrow();
        let (held, rates, now) = (self.held.borrow(), &self.shared.rates, Instant::now());
        for to in recipients {
            // The next scan finds recipients of kinds on hold, and warns about kinds that no process here handles.
            if !self.shared.works_on(&to, owned) || held.contains(to.kind()) || self.backoffs.leaves_alone(&to, now) {
                rates.forget(&to);
                continue;
            }
            if rates.waits(&to, now) {
                continue;
            }
            let Some(lane) = self.shared.handlers.get(to.kind()).map(Handler::lane) else { continue };
            if self.queue.all_waiting() < self.shared.config.max_ready.get() {
                self.queue.woken_up(to, lane);
            } else {
                rates.forget(&to);
                self.scans.look_at([to.shard()].into_iter().collect());
            }
        }
    }

    /// Takes the next recipients of a lane that may begin, for a start at once: their kinds are not on hold, and their
    /// rates let them begin. A later scan, or the rates, bring the others again.
    pub(super) fn take_free(&mut self, lane: Lane, count: usize) -> Vec<Recipient> {
        let held = self.held.borrow();
        let outages = &self.shared.outages;
        let may_begin = |to: &Recipient| !held.contains(to.kind()) && !outages.waits(to);
        // A round of one shard commits on one node, and waits for no other.
        let choose = if B::is_by_shard() { Queues::take_of_one_shard } else { Queues::take };
        let (taken, waiting) = self.queue.take_by(choose, lane, count).into_iter().partition(may_begin);
        drop(held);
        let waiting: Vec<Recipient> = waiting;
        for to in waiting {
            self.queue.forget(&to);
            self.shared.rates.forget(&to);
        }
        self.admit(taken, Instant::now())
    }

    /// Returns whether the queue and the tasks are as full as one start can make them.
    fn is_busy(&self) -> bool {
        let of_task = |task: &Task| if let Task::Round(_, taken) = task { taken.len() } else { 0 };
        let (config, of_turns) = (&self.shared.config, self.queue.waiting(Lane::Turns));
        let of_rounds = self.queue.all_waiting() - of_turns + self.running.values().map(of_task).sum::<usize>();
        of_rounds >= config.round_recipients.get() || of_turns >= config.workers.get()
    }

    /// Returns whether scans should bring more recipients: the queue is short compared with one start.
    fn wants_more(&self) -> bool {
        let config = &self.shared.config;
        self.queue.all_waiting() < (2 * config.rounds.get() * config.round_recipients.get()).min(config.max_ready.get())
    }

    fn next_wake(&self, now: Instant) -> Instant {
        if let Some(until) = self.trouble.pauses_until(now) {
            return until;
        }
        if self.scanning || !self.wants_more() {
            // The end of a task wakes up the loop.
            let poll = now + self.shared.config.poll_interval;
            return self.next_round_due().into_iter().chain(self.shared.rates.next(now)).fold(poll, Instant::min);
        }
        let waits = self.backoffs.next().into_iter().chain(self.shared.outages.next_due());
        let waits = waits.chain(self.next_round_due()).chain(self.shared.rates.next(now));
        let polls = self.scans.next_due(*self.owned.borrow(), self.is_busy());
        waits.fold(polls, Instant::min)
    }

    fn take(&mut self, ended: Result<(Id, Report), tokio::task::JoinError>) {
        match ended {
            Ok((id, report)) => {
                self.remove(id);
                match report {
                    Report::Scanned(scan, rows) => self.scanned(&scan, rows),
                    Report::Round(lane, taken, done) => self.round_done(lane, taken, done),
                    Report::Turn(to, done, judged, kept) => {
                        self.keep(&to, kept.map(Entry::OfProcessor));
                        self.turn_done(to, done, judged);
                    }
                }
            }
            Err(failed) => {
                tracing::error!(error = %failed, "a task of the runtime failed: its recipients are found again");
                match self.remove(failed.id()) {
                    Some(Task::Round(lane, taken)) => self.round_done(lane, taken, Ok(Rounded::none())),
                    Some(Task::Turn(to)) => {
                        self.turns -= 1;
                        self.shared.outages.ended(&to, Ended::Otherwise);
                        self.queue.done(to, Lane::Turns, false);
                    }
                    Some(Task::Scan) => {
                        self.scanning = false;
                        self.scans.look_at(ShardSet::ALL);
                    }
                    None => {}
                }
            }
        }
    }

    /// Keeps what a turn has left for the next one, unless another process has the shard by now.
    pub(crate) fn keep(&mut self, of: &Recipient, left: Option<Entry>) {
        let owned = *self.owned.borrow();
        if let Some(left) = left.filter(|_| self.shared.works_on(of, owned)) {
            self.states.keep(of, left);
        }
    }

    fn scanned(&mut self, scan: &Scan, rows: Result<Vec<WalkedRow>, Fault>) {
        self.scanning = false;
        let now = Instant::now();
        self.scans.ended(scan, now);
        old_transactions::scanned(&self.shared.slow_scans, now - scan.began, rows.as_ref().map_or(0, Vec::len));
        let rows = match rows {
            Ok(rows) => rows,
            Err(fault) => return self.interrupted_by(&fault.0),
        };
        self.trouble.recovered();
        let (handlers, queue, held) = (&self.shared.handlers, &mut self.queue, self.held.borrow());
        let (outages, backoffs, backoff) = (&self.shared.outages, &self.backoffs, self.shared.config.backoff);
        let (attended, rates) = (self.shared.attended.as_deref(), &self.shared.rates);
        self.scans.scanned(scan, &rows, now, |row| {
            let kind = row.recipient.split_once('/').map_or(row.recipient.as_str(), |(kind, _)| kind);
            let Some(handler) = handlers.get(kind) else { return Seen::UnknownKind(kind) };
            if held.contains(kind) || rates.is_full(kind) {
                return Seen::HeldKind(kind);
            }
            let Ok(to) = row.recipient.parse::<Recipient>() else { return Seen::Known };
            if attended.is_some_and(|attended| !attended.contains(&to)) {
                return Seen::Known;
            }
            let waits = backoffs.leaves_alone(&to, now) || outages.knows(&to);
            if row.paused || backoff.leaves_alone(row.wait_us) || waits {
                return Seen::Known;
            }
            if is_held(rates, queue, (&to, EventId::from(row.first)), scan.began, now) {
                return Seen::Known;
            }
            let is_new = queue.found(to, EventId::from(row.first), handler.lane(), scan.began, now);
            if is_new { Seen::New } else { Seen::Known }
        });
    }
}
