//! Runs tests, each in a process of its own, so that it can have a bound and a mutant.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::compile::Program;
use crate::run::{interrupted, output_of};

/// Interval at which the ends of tests are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// The variable that names the mutant.
const MUTANT: &str = "EVENTBOX_MUTANT";

/// The variable that names the folder in which a test notes the switches that it asked for.
const SEEN: &str = "EVENTBOX_MUTANTS_SEEN";

/// A test of a program.
#[derive(Clone, Debug)]
pub(super) struct Test {
    /// `lib`, `suite` or `around`.
    pub(super) program: String,
    path: PathBuf,
    pub(super) name: String,
}

impl Test {
    /// A test that no program has.
    #[cfg(test)]
    pub(super) fn new(program: &str, name: &str) -> Self {
        Test { program: program.to_owned(), path: PathBuf::new(), name: name.to_owned() }
    }

    /// A test of a program that stands somewhere.
    #[cfg(test)]
    pub(super) fn at(self, path: &Path) -> Self {
        Test { path: path.to_owned(), ..self }
    }

    /// Returns a name that no other test has.
    pub(super) fn id(&self) -> String {
        format!("{} {}", self.program, self.name)
    }
}

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Passed,
    Failed,
    TimedOut,
}

/// Where tests run.
#[derive(Clone)]
pub(super) struct Stage {
    /// The copy of the repository.
    pub(super) tree: PathBuf,
    /// Folder of the temporary files, which tests that are killed leave.
    pub(super) temporary: PathBuf,
    pub(super) url: String,
    /// Number of tests that run at a time.
    pub(super) width: usize,
}

/// A test to run.
pub(super) struct Run<'a> {
    pub(super) test: &'a Test,
    /// Time after which the test is killed.
    pub(super) bound: Duration,
    pub(super) mutant: Option<u32>,
    /// Folder for the switches that the test asks for.
    pub(super) seen: Option<PathBuf>,
}

/// A test that runs. Dropping it kills it with its child processes.
struct Running {
    child: Child,
    started: Instant,
    index: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            if let Ok(pid) = i32::try_from(self.child.id()) {
                // The group may have ended by itself.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Lists the tests of a program, without the ignored ones.
pub(super) fn list(program: &Program) -> Result<Vec<Test>> {
    let names = |args: &[&str]| -> Result<Vec<String>> {
        let text = output_of(Command::new(&program.path).args(["--list", "--format=terse"]).args(args))?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let ignored = names(&["--ignored"])?;
    let named = names(&[])?.into_iter().filter(|name| !ignored.contains(name));
    let test = |name| Test { program: program.name.clone(), path: program.path.clone(), name };
    Ok(named.map(test).collect())
}

impl Stage {
    fn command(&self, run: &Run<'_>) -> Command {
        let mut command = Command::new(&run.test.path);
        command.args(["--exact", &run.test.name, "--test-threads=1"]).current_dir(&self.tree);
        command.env("CARGO_MANIFEST_DIR", &self.tree).env("DATABASE_URL", &self.url).env("TMPDIR", &self.temporary);
        command.env_remove(MUTANT).env_remove(SEEN).stdin(Stdio::null()).process_group(0);
        if let Some(mutant) = run.mutant {
            command.env(MUTANT, mutant.to_string());
        }
        if let Some(seen) = &run.seen {
            command.env(SEEN, seen);
        }
        command
    }

    /// Runs tests in their order, several at a time, until `decide` breaks. The others are killed then.
    pub(super) fn run(
        &self,
        runs: &[Run<'_>],
        mut decide: impl FnMut(usize, Ending, Duration) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut waiting = runs.iter().enumerate();
        let mut running = Vec::<Running>::new();
        loop {
            while running.len() < self.width
                && let Some((index, run)) = waiting.next()
            {
                let mut command = self.command(run);
                let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a test")?;
                running.push(Running { child, started: Instant::now(), index });
            }
            if running.is_empty() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
            ensure!(!interrupted(), "interrupted");
            let mut at = 0;
            while let Some(test) = running.get_mut(at) {
                let Some(run) = runs.get(test.index) else { bail!("a test is not in the list") };
                let Some(ending) = ending(test, run.bound)? else {
                    at += 1;
                    continue;
                };
                let test = running.swap_remove(at);
                let took = test.started.elapsed();
                let index = test.index;
                drop(test);
                if decide(index, ending, took)?.is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Runs a test alone.
    pub(super) fn run_alone(&self, run: Run<'_>) -> Result<Ending> {
        let mut result = Ending::Passed;
        self.run(&[run], |_, ending, _| {
            result = ending;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(result)
    }

    /// Removes what killed tests have left.
    pub(super) fn clean(&self) -> Result<()> {
        if self.temporary.exists() {
            fs::remove_dir_all(&self.temporary).context("remove the files of killed tests")?;
        }
        fs::create_dir_all(&self.temporary).context("create a folder for temporary files")
    }
}

/// Returns how a test ended, if it ended or exceeded its bound.
fn ending(test: &mut Running, bound: Duration) -> Result<Option<Ending>> {
    Ok(match test.child.try_wait()? {
        Some(status) if status.success() => Some(Ending::Passed),
        Some(_) => Some(Ending::Failed),
        None if test.started.elapsed() > bound => Some(Ending::TimedOut),
        None => None,
    })
}

/// Reads the switches that a test and its child processes asked for.
pub(super) fn seen(folder: &Path) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let bytes = fs::read(entry?.path())?;
        numbers.extend(bytes.chunks_exact(4).filter_map(|four| Some(u32::from_le_bytes(four.try_into().ok()?))));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

#[cfg(test)]
pub(super) mod checks {
    use super::*;

    /// Has another process write a program: a file that this process writes could not be started beside a fork.
    pub(in crate::mutants) fn program(folder: &Path, script: &str) -> Program {
        let path = folder.join("program");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod +x \"$0\""]).arg(&path);
        output_of(shell.arg(format!("#!/bin/sh\n{script}"))).unwrap();
        Program { name: "suite".to_owned(), path }
    }

    pub(in crate::mutants) fn stage(folder: &Path) -> Stage {
        Stage { tree: folder.to_owned(), temporary: folder.join("temporary"), url: String::new(), width: 2 }
    }

    #[test]
    fn tests_are_listed_without_the_ignored_ones() {
        let folder = tempfile::tempdir().unwrap();
        let script = "case \"$*\" in *ignored*) echo 'b: test';; *) echo 'a: test'; echo 'b: test';; esac";
        let tests = list(&program(folder.path(), script)).unwrap();
        assert_eq!(tests.iter().map(Test::id).collect::<Vec<_>>(), ["suite a"]);
    }

    #[test]
    fn a_test_passes_fails_or_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let script = "case \"$2\" in fails) test -z \"$EVENTBOX_MUTANT\";; hangs) sleep 60;; esac";
        let program = program(folder.path(), script);
        let stage = stage(folder.path());
        let ending = |name: &str, mutant| {
            let test = Test { program: "suite".into(), path: program.path.clone(), name: name.into() };
            let bound = Duration::from_millis(if name == "hangs" { 100 } else { 30_000 });
            stage.run_alone(Run { test: &test, bound, mutant, seen: None }).unwrap()
        };
        assert_eq!(ending("passes", Some(1)), Ending::Passed);
        assert_eq!(ending("fails", Some(1)), Ending::Failed);
        assert_eq!(ending("fails", None), Ending::Passed);
        assert_eq!(ending("hangs", None), Ending::TimedOut);
    }

    #[test]
    fn switches_are_read_from_the_files_of_all_processes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1"), [3, 0, 0, 0, 1, 1, 0, 0]).unwrap();
        fs::write(folder.path().join("2"), [3, 0, 0, 0, 9]).unwrap();
        assert_eq!(seen(folder.path()).unwrap(), [3, 257]);
    }
}
