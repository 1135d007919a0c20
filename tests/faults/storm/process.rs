//! A process of the service.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eventbox::{pool_options, postgres_options};
use sqlx::Postgres;
use tokio::time::sleep;

use super::super::report::Result;
use super::{sender, worker};

/// The line that a worker prints when it works.
pub(crate) const WORKS: &str = "works";

/// Environment variables of a process: what it does, its database, and the folder of its notes.
const ROLE: &str = "EVENTBOX_FAULTS_ROLE";
const URL: &str = "EVENTBOX_FAULTS_URL";
const FOLDER: &str = "EVENTBOX_FAULTS_FOLDER";

/// Time limit for a worker to work.
const START: Duration = Duration::from_secs(60);

/// Time limit for a process to end by itself. A worker stops its runtime and its delivery, 20 s each.
const STOP: Duration = Duration::from_secs(60);

/// Connections of a worker, and of a sender.
const OF_WORKER: u32 = 8;
const OF_SENDER: u32 = 2;

/// Returns the role of this process, if another process has started it for one.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Plays the role of a process: `send LANE` or `work NAME SEED`.
pub(crate) async fn play(role: &str) -> Result<()> {
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr);
    log.with_max_level(tracing::Level::WARN).init();
    let (url, folder) = (std::env::var(URL)?, PathBuf::from(std::env::var(FOLDER)?));
    let words: Vec<&str> = role.split(' ').collect();
    let pool = |most| pool_options::<Postgres>().max_connections(most);
    let options = postgres_options(&url)?;
    match words.as_slice() {
        ["send", lane] => sender::send(&pool(OF_SENDER).connect_lazy_with(options), lane.parse()?, &folder).await,
        ["work", name, seed] => {
            worker::work(pool(OF_WORKER).connect_lazy_with(options), name, seed.parse()?, &folder).await
        }
        other => Err(format!("there is no role {other:?}").into()),
    }
}

/// Waits for the end of the standard input. It ends also when the process at its other end dies.
pub(crate) async fn told_to_stop() {
    let (told, end) = tokio::sync::oneshot::channel();
    // A thread of its own, because the end of the runtime would wait for one of its threads.
    std::thread::spawn(move || {
        // An input that cannot be read has ended, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = told.send(());
    });
    let _ = end.await;
}

/// A running process. Dropping the value kills the process.
pub(crate) struct Process {
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process. `command` runs this program again.
    pub(crate) fn start(mut command: Command, name: &str, role: &str, url: &str, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.env(ROLE, role).env(URL, url).env(FOLDER, folder);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        Ok(Process { name: name.to_owned(), child: command.spawn()?, log })
    }

    /// Waits until a worker works that has written its log from `offset` on.
    pub(crate) async fn works(&mut self, offset: usize) -> Result<()> {
        let began = Instant::now();
        while !self.log().get(offset..).is_some_and(|log| log.lines().any(|line| line.ends_with(WORKS))) {
            if let Some(problem) = self.ended()? {
                return Err(problem.into());
            }
            if began.elapsed() > START {
                return Err(format!("{} does not work: {}", self.name, self.last_words()).into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns the problem of a process that has ended by itself.
    pub(crate) fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| format!("{} has ended ({status}): {}", self.name, self.last_words())))
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets the process end by itself. Returns the problem if it does not.
    pub(crate) async fn stop(mut self) -> Result<Option<String>> {
        drop(self.child.stdin.take());
        let told = Instant::now();
        while told.elapsed() < STOP {
            match self.child.try_wait()? {
                None => sleep(Duration::from_millis(20)).await,
                Some(status) if status.success() => return Ok(None),
                Some(status) => return Ok(Some(format!("{} stopped with {status}: {}", self.name, self.last_words()))),
            }
        }
        Ok(Some(format!("{} did not stop within {} s", self.name, STOP.as_secs())))
    }

    /// Returns the log of the process, and of earlier ones of the same name.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
