//! A process of one of the versions.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::build::{Side, Version};
use crate::run::{interrupted, words_of};

/// Time limit for a worker to work.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Time limit for a process to end by itself. A worker stops its runtime and its delivery, 20 s each.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks at a process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The line of a worker that works.
const WORKS: &str = "works";

/// Exit code of a worker for which the database is too new.
const REFUSED: i32 = 3;

/// What the processes of a run share.
pub(super) struct Place {
    pub(super) url: String,
    /// Folder of the oracle and of the logs.
    pub(super) folder: PathBuf,
}

impl Place {
    fn command(&self, version: &Version, words: &[&str]) -> Command {
        let mut command = Command::new(&version.program);
        command.args(words).env("DATABASE_URL", &self.url).env("ORACLE", &self.folder).current_dir(&self.folder);
        command
    }

    /// Runs a program to its end, and returns what it prints.
    pub(super) fn run(&self, version: &Version, words: &[&str]) -> Result<String> {
        let mut command = self.command(version, words);
        let done = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", words_of(&command)))?;
        let complaint = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{} ({}): {}", words_of(&command), done.status, complaint.trim());
        String::from_utf8(done.stdout).context("read what the program prints")
    }
}

/// A running process. Dropping the value kills the process.
pub(super) struct Process {
    pub(super) side: Side,
    pub(super) name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(place: &Place, version: &Version, side: Side, name: String, words: &[&str]) -> Result<Self> {
        let log = place.folder.join(format!("{name}.log"));
        let file = File::create(&log).context("create a log")?;
        let mut command = place.command(version, words);
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {}", words_of(&command)))?;
        Ok(Process { side, name, child, log })
    }

    /// Waits until a worker works. Returns false when the database is too new for it.
    pub(super) fn works(&mut self) -> Result<bool> {
        let started = Instant::now();
        loop {
            if self.log().lines().any(|line| line == WORKS) {
                return Ok(true);
            }
            if let Some(status) = self.ended()? {
                ensure!(status.code() == Some(REFUSED), "{} has ended ({status}): {}", self.name, self.last_words());
                return Ok(false);
            }
            if interrupted() {
                bail!("interrupted");
            }
            ensure!(started.elapsed() < START_LIMIT, "{} does not work: {}", self.name, self.last_words());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns how the process has ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// Lets the process end by itself. Returns the problem if it does not.
    pub(super) fn stop(mut self) -> Result<Option<String>> {
        drop(self.child.stdin.take());
        let told = Instant::now();
        while told.elapsed() < STOP_LIMIT && !interrupted() {
            match self.ended()? {
                None => std::thread::sleep(LOOK_EVERY),
                Some(status) if status.success() => return Ok(None),
                Some(status) => return Ok(Some(format!("{} stopped with {status}: {}", self.name, self.last_words()))),
            }
        }
        Ok(Some(format!("{} did not stop within {} s", self.name, STOP_LIMIT.as_secs())))
    }

    /// Returns the last lines of the log.
    pub(super) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL. The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the notes in a file, one a line. A dot ends each, so that a note that a kill cut off is left out.
pub(super) fn notes_of(path: &Path) -> Result<Vec<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    Ok(text.lines().filter_map(|line| line.strip_suffix('.')).map(str::to_owned).collect())
}
