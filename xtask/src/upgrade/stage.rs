//! The phases of a run: the old version alone, the new one beside it, the old one alone again, and the new one at last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::args::Engine;
use super::build::{Side, Versions};
use super::oracle::{Counted, Oracle, Verdict, fresh_place};
use super::process::{Place, Process};
use super::report::{Phase, Report};
use crate::run::interrupted;

/// Time after the load until everything has had its effect. A claim of a message lasts a minute after its process died.
const FINISH: Duration = Duration::from_secs(180);

/// Pause between two looks at the boxes.
const COUNT_EVERY: Duration = Duration::from_secs(2);

/// Pause between two looks at the user's interrupt.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Shortest and longest time between two processes that are killed or stopped, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 1_000..4_000;

/// Events that a sender sends again after the one before it was killed.
const SENT_AGAIN: u64 = 20;

/// The number of processes on an engine.
struct Crew {
    old: usize,
    new: usize,
    senders: u64,
    /// Old workers that stay when old workers cannot start again, beside the new version.
    old_beside_new: usize,
}

impl Crew {
    fn of(engine: Engine) -> Self {
        match engine {
            Engine::Postgres => Crew { old: 6, new: 3, senders: 3, old_beside_new: 3 },
            Engine::Sqlite => Crew { old: 4, new: 2, senders: 2, old_beside_new: 2 },
        }
    }
}

/// What happens to processes in a phase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Killed processes come back with their version.
    Alone(Side),
    /// The new version is rolled out: workers come back with their version, senders with the other one.
    Forward,
    /// The new version is taken away: nothing comes back with it.
    Back,
}

/// A lane of events, and its sender.
struct Lane {
    number: u64,
    /// The first place that no sender has tried.
    fresh: u64,
    sender: Option<Process>,
}

pub(super) struct Stage<'a> {
    versions: &'a Versions,
    place: Place,
    crew: Crew,
    random: fastrand::Rng,
    workers: Vec<Process>,
    lanes: Vec<Lane>,
    /// Number of processes that were started, for their names.
    started: usize,
    report: Report,
    acknowledged: usize,
    applied: usize,
}

impl<'a> Stage<'a> {
    pub(super) fn new(versions: &'a Versions, place: Place, engine: Engine, seed: u64) -> Self {
        let report = Report {
            engine: engine.name(),
            old: versions.old.commit.clone(),
            new: versions.new.commit.clone(),
            seed,
            phases: Vec::new(),
            refused: 0,
            verdict: Verdict::default(),
            problems: Vec::new(),
        };
        Stage {
            versions,
            place,
            crew: Crew::of(engine),
            random: fastrand::Rng::with_seed(seed),
            workers: Vec::new(),
            lanes: Vec::new(),
            started: 0,
            report,
            acknowledged: 0,
            applied: 0,
        }
    }

    /// Plays all phases, and weighs the counts.
    pub(super) fn play(mut self, time: Duration) -> Result<Report> {
        let versions = self.versions;
        self.place.run(&versions.old, &["migrate"])?;
        self.place.run(&versions.old, &["create"])?;
        self.start_workers(Side::Old, self.crew.old)?;
        for number in 0..self.crew.senders {
            self.lanes.push(Lane { number, fresh: 0, sender: None });
        }
        self.start_senders(Side::Old)?;
        self.phase("the old version alone", Way::Alone(Side::Old), time.mul_f64(0.1))?;
        self.place.run(&versions.new, &["migrate"])?;
        self.start_workers(Side::New, self.crew.new)?;
        self.phase("the new version migrates, and comes beside it", Way::Forward, time.mul_f64(0.4))?;
        self.phase("the new version is taken away", Way::Back, time.mul_f64(0.2))?;
        self.take_away(Side::New)?;
        self.phase("the old version alone, on the new tables", Way::Alone(Side::Old), time.mul_f64(0.15))?;
        self.start_workers(Side::New, self.crew.new)?;
        self.take_away(Side::Old)?;
        self.phase("the new version alone", Way::Alone(Side::New), time.mul_f64(0.15))?;
        self.finish()?;
        Ok(self.report)
    }

    /// Lets the load go on for a time, and takes processes away at random moments.
    fn phase(&mut self, name: &'static str, way: Way, time: Duration) -> Result<()> {
        eprintln!("xtask: {}: {name}, {:.0} s", self.report.engine, time.as_secs_f64());
        let began = Instant::now();
        self.report.phases.push(Phase { name, seconds: 0.0, killed: 0, stopped: 0, acknowledged: 0, applied: 0 });
        while began.elapsed() < time {
            let next = Duration::from_millis(self.random.u64(BETWEEN));
            pause(next.min(time.saturating_sub(began.elapsed())))?;
            self.look_for_ended()?;
            if began.elapsed() < time {
                if self.random.usize(..3) == 0 { self.disturb_sender(way)? } else { self.disturb_worker(way)? }
            }
        }
        let counted = self.count(way)?;
        let (acknowledged, applied) = (Oracle::read(&self.place.folder)?.acknowledged(), counted.applied());
        if let Some(phase) = self.report.phases.last_mut() {
            phase.seconds = began.elapsed().as_secs_f64();
            phase.acknowledged = acknowledged.saturating_sub(self.acknowledged);
            phase.applied = applied.saturating_sub(self.applied);
            if phase.acknowledged == 0 || phase.applied == 0 {
                self.report.problems.push(format!("no work was done while {name}"));
            }
        }
        (self.acknowledged, self.applied) = (acknowledged, applied);
        Ok(())
    }

    /// Reads what the boxes have seen, with a version that works now.
    fn count(&self, way: Way) -> Result<Counted> {
        let side = if way == Way::Alone(Side::New) { Side::New } else { Side::Old };
        Counted::parse(&self.place.run(self.versions.of(side), &["count"])?)
    }

    /// Notes processes that have ended by themselves, which is a problem.
    fn look_for_ended(&mut self) -> Result<()> {
        let (mut at, mut ended) = (0, Vec::new());
        while let Some(worker) = self.workers.get_mut(at) {
            if let Some(status) = worker.ended()? {
                ended.push(format!("{} has ended by itself ({status}): {}", worker.name, worker.last_words()));
                drop(self.workers.swap_remove(at));
            } else {
                at += 1;
            }
        }
        for lane in &mut self.lanes {
            if let Some(sender) = &mut lane.sender
                && let Some(status) = sender.ended()?
            {
                ended.push(format!("{} has ended by itself ({status}): {}", sender.name, sender.last_words()));
                lane.sender = None;
            }
        }
        self.report.problems.extend(ended);
        Ok(())
    }

    fn disturb_worker(&mut self, way: Way) -> Result<()> {
        let old = self.workers.iter().filter(|worker| worker.side == Side::Old).count();
        let kept = match way {
            Way::Forward => self.crew.old_beside_new,
            Way::Alone(_) | Way::Back => 1,
        };
        // An old worker that was refused once is refused again, so the last ones stay.
        let may_go = |worker: &Process| match (way, worker.side) {
            (Way::Back, side) => side == Side::New,
            (_, Side::New) => true,
            (_, Side::Old) => self.report.refused == 0 || old > kept,
        };
        let candidates: Vec<usize> =
            self.workers.iter().enumerate().filter(|(_, worker)| may_go(worker)).map(|(at, _)| at).collect();
        let Some(at) = candidates.get(self.random.usize(..candidates.len().max(1))) else { return Ok(()) };
        let worker = self.workers.swap_remove(*at);
        let side = worker.side;
        self.take(worker)?;
        match (way, side) {
            (Way::Back, _) => {}
            (_, Side::New) => self.start_workers(Side::New, 1)?,
            (_, Side::Old) => {
                let refused = self.report.refused;
                self.start_workers(Side::Old, 1)?;
                if way == Way::Forward && self.report.refused > refused {
                    self.start_workers(Side::New, 1)?;
                }
            }
        }
        Ok(())
    }

    fn disturb_sender(&mut self, way: Way) -> Result<()> {
        let at = self.random.usize(..self.lanes.len().max(1));
        let sender = self.lanes.get_mut(at).and_then(|lane| lane.sender.take());
        let before = sender.as_ref().map_or(Side::Old, |sender| sender.side);
        if let Some(sender) = sender {
            self.take(sender)?;
        }
        let side = match way {
            Way::Alone(side) => side,
            Way::Forward => before.other(),
            Way::Back => Side::Old,
        };
        self.start_sender(at, side)
    }

    /// Kills a process, or asks it to stop: one in five.
    fn take(&mut self, process: Process) -> Result<()> {
        let is_asked = self.random.usize(..5) == 0;
        if let Some(phase) = self.report.phases.last_mut() {
            *(if is_asked { &mut phase.stopped } else { &mut phase.killed }) += 1;
        }
        if is_asked {
            self.stop(process)
        } else {
            drop(process);
            Ok(())
        }
    }

    fn stop(&mut self, process: Process) -> Result<()> {
        let problem = process.stop()?;
        self.report.problems.extend(problem);
        Ok(())
    }

    /// Takes all workers of a version away, and lets the other version's senders take over.
    fn take_away(&mut self, side: Side) -> Result<()> {
        while let Some(at) = self.workers.iter().position(|worker| worker.side == side) {
            let worker = self.workers.swap_remove(at);
            self.take(worker)?;
        }
        for at in 0..self.lanes.len() {
            let is_its = |sender: &mut Process| sender.side == side;
            let sender = self.lanes.get_mut(at).and_then(|lane| lane.sender.take_if(is_its));
            if let Some(sender) = sender {
                self.take(sender)?;
                self.start_sender(at, side.other())?;
            }
        }
        Ok(())
    }

    /// Starts workers, and waits until they work. Old ones may be refused.
    fn start_workers(&mut self, side: Side, count: usize) -> Result<()> {
        for _ in 0..count {
            let name = self.name(side, "worker");
            let words = ["work", &name];
            let version = self.versions.of(side);
            let mut worker = Process::start(&self.place, version, side, name.clone(), &words)?;
            if worker.works()? {
                self.workers.push(worker);
            } else if side == Side::Old {
                self.report.refused += 1;
            } else {
                bail!("the database is too new for the new version: was another version used on it?");
            }
        }
        Ok(())
    }

    fn start_senders(&mut self, side: Side) -> Result<()> {
        (0..self.lanes.len()).try_for_each(|at| self.start_sender(at, side))
    }

    /// Starts the sender of a lane, which begins with the last events of the sender before it.
    fn start_sender(&mut self, at: usize, side: Side) -> Result<()> {
        let name = self.name(side, "sender");
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(()) };
        let number = lane.number.to_string();
        lane.fresh = lane.fresh.max(fresh_place(&self.place.folder.join(format!("sent-{number}.txt")))?);
        let (from, fresh) = (lane.fresh.saturating_sub(SENT_AGAIN).to_string(), lane.fresh.to_string());
        let version = self.versions.of(side);
        lane.sender = Some(Process::start(&self.place, version, side, name, &["send", &number, &from, &fresh])?);
        Ok(())
    }

    fn name(&mut self, side: Side, role: &str) -> String {
        self.started += 1;
        format!("{}-{role}-{}", side.name(), self.started)
    }

    /// Ends the load, lets the workers finish, and weighs what both versions count.
    fn finish(&mut self) -> Result<()> {
        self.look_for_ended()?;
        for at in 0..self.lanes.len() {
            if let Some(sender) = self.lanes.get_mut(at).and_then(|lane| lane.sender.take()) {
                self.stop(sender)?;
            }
        }
        let began = Instant::now();
        let mut verdict = self.weigh(Side::New)?.1;
        while !verdict.is_complete() && began.elapsed() < FINISH {
            pause(COUNT_EVERY)?;
            verdict = self.weigh(Side::New)?.1;
        }
        eprintln!("xtask: {}: finished {:.0} s after the load", self.report.engine, began.elapsed().as_secs_f64());
        self.look_for_ended()?;
        while let Some(worker) = self.workers.pop() {
            self.stop(worker)?;
        }
        let (new, verdict) = self.weigh(Side::New)?;
        self.report.problems.extend(verdict.problems());
        self.report.verdict = verdict;
        if self.weigh(Side::Old)?.0 != new {
            self.report.problems.push("the two versions count differently".to_owned());
        }
        Ok(())
    }

    fn weigh(&self, side: Side) -> Result<(Counted, Verdict)> {
        let counted = Counted::parse(&self.place.run(self.versions.of(side), &["count"])?)?;
        // The notes come last: a message may arrive between the count and the notes, and the other way would lose one.
        let verdict = Verdict::of(&Oracle::read(&self.place.folder)?, &counted);
        Ok((counted, verdict))
    }
}

/// Sleeps, unless the user interrupts.
fn pause(time: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        if interrupted() {
            bail!("interrupted");
        }
        std::thread::sleep(LOOK_EVERY.min(time.saturating_sub(began.elapsed())));
    }
    Ok(())
}
