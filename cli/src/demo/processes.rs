//! Worker processes: starts, watches, restarts and ends them.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::bars::Bars;
use super::child::{News, Orders};
use super::work::{STOP_DEADLINE, Tally};

/// The only argument of a worker process.
pub(crate) const WORKER: &str = "demo-worker";

/// Maximum number of restarts of one process in a run.
const MAX_RESTARTS: u32 = 100;

/// Maximum number of deaths in a row before the first report.
const MAX_FAILED_STARTS: u32 = 5;

/// Pause after such a death. Each death in a row adds as much again.
const FAILED_START_PAUSE: Duration = Duration::from_millis(200);

/// Time limit for a process to end. After it the demo kills the process.
const END_LIMIT: Duration = Duration::from_secs(2 * STOP_DEADLINE.as_secs() + 2);

/// The worker processes of a run.
pub(crate) struct Processes {
    orders: Vec<Orders>,
    known: Mutex<Vec<Known>>,
    bars: Bars,
    ending: CancellationToken,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Sum of the reports of the processes that died.
    before: Tally,
    /// Last report of the current process, if it has reported.
    news: Option<News>,
    restarts: u32,
}

impl Known {
    fn tally(&self) -> Tally {
        self.before + self.news.map(|news| news.tally).unwrap_or_default()
    }
}

/// A running process. Dropping the value kills the process.
struct Running {
    child: Child,
    /// Standard input. Closing it ends the process.
    stdin: ChildStdin,
    news: Lines<BufReader<ChildStdout>>,
}

impl Processes {
    pub(crate) fn new(orders: Vec<Orders>, bars: Bars) -> Self {
        let known = Mutex::new(vec![Known::default(); orders.len()]);
        Processes { orders, known, bars, ending: CancellationToken::new() }
    }

    /// Keeps the processes running until [`end`](Self::end) and returns when they have ended. Dropping the future
    /// kills them.
    pub(crate) async fn run(&self) -> Result<()> {
        try_join_all((0..self.orders.len()).map(|index| self.keep_running(index))).await.map(drop)
    }

    /// Tells all processes to end.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Returns the work of all processes, including dead ones, as far as they reported it.
    pub(crate) fn tally(&self) -> Tally {
        self.known().iter().map(Known::tally).fold(Tally::default(), std::ops::Add::add)
    }

    /// Returns how often each process was restarted.
    pub(crate) fn restarts(&self) -> Vec<u32> {
        self.known().iter().map(|known| known.restarts).collect()
    }

    /// Returns whether each process has its fair share of the shards.
    pub(crate) fn share_fairly(&self) -> bool {
        let known = self.known();
        let fair = 256_usize.div_ceil(known.len().max(1));
        known.iter().all(|known| known.news.is_some_and(|news| (1..=fair).contains(&news.shards)))
    }

    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, index: usize, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known().get_mut(index) {
            change(known);
        }
    }

    async fn keep_running(&self, index: usize) -> Result<()> {
        let process = index + 1;
        let (mut restarts, mut failed_starts) = (0, 0);
        while !self.ending.is_cancelled() {
            let mut running = self.start(index).await.with_context(|| format!("start worker process {process}"))?;
            let Some(status) = self.watch(index, &mut running).await? else {
                return self.let_end(index, running).await;
            };
            self.note(index, |known| {
                failed_starts = if known.news.is_none() { failed_starts + 1 } else { 0 };
                known.before = known.tally();
                known.news = None;
            });
            if failed_starts >= MAX_FAILED_STARTS {
                bail!("worker process {process} died {failed_starts} times before its first report: {status}");
            }
            if restarts >= MAX_RESTARTS {
                bail!("worker process {process} was restarted {restarts} times and died again: {status}");
            }
            restarts += 1;
            self.note(index, |known| known.restarts = restarts);
            self.bars.say(&format!("process {process} died ({status}); restarting it"));
            tokio::time::sleep(FAILED_START_PAUSE * failed_starts).await;
        }
        Ok(())
    }

    async fn start(&self, index: usize) -> Result<Running> {
        let orders = self.orders.get(index).context("there is no such process")?;
        let mut line = serde_json::to_string(orders)?;
        line.push('\n');
        let program = std::env::current_exe().context("find the program")?;
        let mut command = Command::new(program);
        command.arg(WORKER).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(pid) = child.id() {
            self.bars.say(&format!("process {} runs as {pid}", index + 1));
        }
        let mut stdin = child.stdin.take().context("it has no standard input")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        // A write to a dead process may fail. The end of its output then reports its death.
        let _ = stdin.write_all(line.as_bytes()).await;
        let _ = stdin.flush().await;
        Ok(Running { child, stdin, news: BufReader::new(stdout).lines() })
    }

    /// Records the reports of a process until it dies. Returns `None` if it should end.
    async fn watch(&self, index: usize, running: &mut Running) -> Result<Option<ExitStatus>> {
        loop {
            let line = tokio::select! {
                () = self.ending.cancelled() => return Ok(None),
                line = running.news.next_line() => line,
            };
            match line {
                Ok(Some(line)) => self.heard(index, &line),
                _ => {
                    // The process is already dead, or its output is broken.
                    let _ = running.child.start_kill();
                    return running.child.wait().await.map(Some).context("wait for a worker process");
                }
            }
        }
    }

    /// Ends a process, reads its last report, and kills it after a time limit.
    async fn let_end(&self, index: usize, running: Running) -> Result<()> {
        let Running { mut child, stdin, mut news } = running;
        drop(stdin);
        let ended = async {
            while let Ok(Some(line)) = news.next_line().await {
                self.heard(index, &line);
            }
            child.wait().await
        };
        match tokio::time::timeout(END_LIMIT, ended).await {
            Ok(status) => status.map(drop).context("wait for a worker process"),
            Err(_) => child.kill().await.context("kill a worker process that did not end"),
        }
    }

    fn heard(&self, index: usize, line: &str) {
        if let Ok(news) = serde_json::from_str(line) {
            self.note(index, |known| known.news = Some(news));
        }
    }
}
