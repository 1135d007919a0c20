//! The service, and the faults that it meets.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::super::report::{Report, Result};
use super::clock::{Clock, Threads};
use super::cluster::Cluster;
use super::numbers::{ROUNDS, ROWS, TURNS, box_of};
use super::oracle::{self, Boxes, Oracle, Verdict};
use super::probe::{Back, Probe};
use super::process::Process;
use super::schedule::{Kind, SENDERS, Step, WORKERS};
use super::worker;

/// Lanes: one for each sender, and one for the probe.
const LANES: u64 = SENDERS as u64 + 1;

/// Longest wait for acknowledgements before a fault.
const CALM: Duration = Duration::from_secs(60);

/// Longest time for the service to finish its backlog after the last fault.
const FINISH: Duration = Duration::from_secs(150);

/// Longest time for a read of all boxes.
const READ: Duration = Duration::from_secs(20);

/// Returns a command that runs this program again.
pub(crate) type Again = fn() -> Result<Command>;

pub(crate) struct Stage<C> {
    // The processes end before their servers.
    processes: Vec<Process>,
    clocks: Vec<Clock>,
    probe: Probe,
    pub(crate) cluster: C,
    folder: PathBuf,
    again: Again,
    /// Sizes of the senders' notes at the end of each step.
    ends: Vec<Vec<u64>>,
    seed: u64,
}

/// Returns the name of a process: the workers come first.
fn name(process: usize) -> String {
    if process < WORKERS { format!("worker-{process}") } else { format!("sender-{}", process - WORKERS) }
}

impl<C: Cluster> Stage<C> {
    /// Starts the workers and the senders.
    pub(crate) async fn start(cluster: C, folder: PathBuf, again: Again, seed: u64) -> Result<Self> {
        let probe = Probe::new(&cluster.url(), LANES - 1, &folder)?;
        eventbox::migrate(&probe.pool).await?;
        worker::create_table(&probe.pool).await?;
        let mut stage = Stage { processes: vec![], clocks: vec![], probe, cluster, folder, again, ends: vec![], seed };
        for process in 0..WORKERS + SENDERS {
            stage.clocks.push(Clock::create(&stage.folder, &name(process), Threads::Many)?);
            stage.processes.push(stage.process(process)?);
            if process < WORKERS {
                stage.processes[process].works(0).await?;
            }
        }
        stage.probe.back_at_work(Instant::now()).await?;
        Ok(stage)
    }

    fn process(&self, process: usize) -> Result<Process> {
        let name = name(process);
        // The receiver of each worker fails at moments of its own.
        let seed = self.seed.wrapping_add((self.ends.len() * WORKERS + process) as u64);
        let role =
            if process < WORKERS { format!("work {name} {seed}") } else { format!("send {}", process - WORKERS) };
        let mut command = (self.again)()?;
        command.envs(self.clocks[process].environment());
        Process::start(command, &name, &role, &self.cluster.url(), &self.folder)
    }

    /// Waits until more events are acknowledged.
    async fn works_for(&self, events: usize) -> Result<()> {
        let (began, before) = (Instant::now(), oracle::sizes(&self.folder, LANES));
        while oracle::acknowledged_since(&self.folder, &before)? < events && began.elapsed() < CALM {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Lets the service work, breaks something, measures how long the service needs, and repairs the servers.
    pub(crate) async fn play(&mut self, step: &Step, report: &mut Report) -> Result<Back> {
        self.works_for(step.calm).await?;
        let fault = self.break_something(step, report).await?;
        let back = self.probe.back_at_work(fault).await?;
        self.cluster.repair(step, report).await?;
        self.ends.push(oracle::sizes(&self.folder, LANES));
        for process in 0..self.processes.len() {
            if let Some(problem) = self.processes[process].ended()? {
                report.wants(false, problem);
                self.processes[process] = self.process(process)?;
            }
        }
        Ok(back)
    }

    /// Returns the moment from which on the service should work again.
    async fn break_something(&mut self, step: &Step, report: &mut Report) -> Result<Instant> {
        let began = Instant::now();
        match step.kind {
            Kind::ProcessClock => {
                let ahead_s = self.clocks[step.victim].jump(step.is_forward)?;
                report.note(format!("the clock of {} is {ahead_s} s ahead", name(step.victim)));
            }
            Kind::WorkerKilled => {
                let offset = self.processes[step.victim].log().len();
                self.processes[step.victim].kill()?;
                self.processes[step.victim] = self.process(step.victim)?;
                self.processes[step.victim].works(offset).await?;
            }
            _ => return self.cluster.break_something(step, report).await,
        }
        Ok(began)
    }

    /// Ends the load, lets the service finish, and compares the oracle with the boxes.
    pub(crate) async fn audit(mut self, report: &mut Report) -> Result<Verdict> {
        for sender in self.processes.split_off(WORKERS) {
            stopped(sender, report).await?;
        }
        let (began, mut verdict) = (Instant::now(), Verdict::default());
        while began.elapsed() < FINISH {
            if let Ok(Ok(now)) = timeout(READ, self.verdict()).await {
                let is_complete = now.total.lost == 0 && now.total.undelivered == 0;
                verdict = now;
                if is_complete {
                    break;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
        report.note(format!("finished in {:.1} s after the load", began.elapsed().as_secs_f64()));
        for worker in self.processes.split_off(0) {
            stopped(worker, report).await?;
        }
        // After the end of the workers nothing changes any more.
        if let Ok(last) = self.verdict().await {
            verdict = last;
        }
        self.probe.pool.close().await;
        self.cluster.tell(report);
        Ok(verdict)
    }

    async fn verdict(&self) -> Result<Verdict> {
        let oracle = Oracle::read(&self.folder, LANES, &self.ends)?;
        let mut boxes = Boxes::new();
        for (key, seen) in worker::rows(&self.probe.pool).await? {
            boxes.insert((ROWS.to_owned(), key), seen);
        }
        for number in oracle.attempted.keys() {
            let (kind, key) = box_of(*number);
            let at = (kind.to_owned(), key);
            if [ROUNDS, TURNS].contains(&kind) && !boxes.contains_key(&at) {
                let seen = worker::seen(&self.probe.pool, kind, &at.1).await?;
                boxes.insert(at, seen);
            }
        }
        Ok(Verdict::of(&oracle, &boxes))
    }
}

async fn stopped(process: Process, report: &mut Report) -> Result<()> {
    if let Some(problem) = process.stop().await? {
        report.wants(false, problem);
    }
    Ok(())
}
