//! Mutants: small changes of the code, each of which a test should notice.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::postgres;
use crate::run::{cargo, interrupted, status_of, words_of};

/// A folder of `src` with its tests.
struct Folder {
    /// Name of the folder, and of the list of its known survivors.
    name: &'static str,
    files: &'static str,
    /// Whether the unit tests run first, which build quickly.
    has_unit_tests: bool,
    /// Halves of the suite that have the tests. Each takes more than a minute to build.
    halves: &'static [&'static str],
    /// Tests of the suite to run. The whole suite would take minutes for each mutant.
    suite: &'static [&'static str],
}

const INNER: &str = "--test=suite";
const OUTER: &str = "--test=around";

/// Folders to test, the quickest first.
const FOLDERS: [Folder; 7] = [
    Folder {
        name: "round",
        files: "src/eventbox/round/**",
        has_unit_tests: false,
        halves: &[INNER],
        suite: &[
            "paths::",
            "runtime::rounds",
            "runtime::overtaken",
            "runtime::failing",
            "runtime::finding",
            "runtime::bounds",
        ],
    },
    Folder {
        name: "dsset",
        files: "src/dsset/**",
        has_unit_tests: true,
        halves: &[INNER, OUTER],
        suite: &["dsset::", "paths::doors", "admin::"],
    },
    Folder {
        name: "runtime",
        files: "src/runtime/**",
        has_unit_tests: true,
        halves: &[INNER],
        suite: &["runtime::", "paths::failing"],
    },
    Folder {
        name: "store",
        files: "src/store/**",
        has_unit_tests: true,
        halves: &[INNER, OUTER],
        suite: &[
            "paths::",
            "dsset::",
            "admin::",
            "eventbox::",
            "emitter::",
            "runtime::rounds",
            "runtime::overtaken",
            "runtime::leases",
        ],
    },
    Folder {
        name: "emitter",
        files: "src/emitter/**",
        has_unit_tests: true,
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "paths::decisions"],
    },
    Folder {
        name: "outbox",
        files: "src/outbox/**",
        has_unit_tests: true,
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "paths::decisions"],
    },
    Folder {
        name: "chip",
        files: "src/chip/**",
        has_unit_tests: true,
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "paths::decisions"],
    },
];

/// Time limit of the tests of one mutant, in seconds. A mutant that makes the tests hang counts as timed out.
const TEST_TIMEOUT: &str = "600";

/// Time limit of the build of one mutant, in seconds.
const BUILD_TIMEOUT: &str = "1800";

/// Advice for the user when the program is missing.
const ADVICE: &str = "cargo-mutants is not installed: cargo install cargo-mutants --locked";

/// The results of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    caught: usize,
    unviable: usize,
    missed: Vec<String>,
    timeout: usize,
}

/// Tests the mutants of the named folders, or of all folders. Other arguments go to `cargo mutants`.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let (chosen, passed) = chosen(args)?;
    let is_there = cargo(["mutants", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !is_there.is_ok_and(|status| status.success()) {
        bail!("{ADVICE}");
    }
    let server = postgres::server()?;
    let mut all_known = true;
    for folder in chosen {
        let figures = folder.figures(&passed, &server.url())?;
        let known = known(folder.name)?;
        let new: Vec<_> = figures.missed.iter().filter(|mutant| !known.contains(*mutant)).collect();
        println!(
            "{}: {} caught, {} survived ({} of them known), {} timed out, {} do not compile",
            folder.name,
            figures.caught,
            figures.missed.len(),
            figures.missed.len() - new.len(),
            figures.timeout,
            figures.unviable
        );
        for mutant in &new {
            println!("    new: {mutant}");
        }
        let is_whole = passed.is_empty();
        for mutant in known.iter().filter(|mutant| is_whole && !figures.missed.contains(mutant)) {
            println!("    listed, and does not survive any more: {mutant}");
        }
        all_known &= new.is_empty();
    }
    Ok(if all_known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the folders that the arguments name, and the arguments from the first option on.
fn chosen(args: &[OsString]) -> Result<(Vec<&'static Folder>, Vec<OsString>)> {
    let is_option = |arg: &OsString| arg.to_string_lossy().starts_with('-');
    let first_option = args.iter().position(is_option).unwrap_or(args.len());
    let (names, passed) = args.split_at(first_option);
    let mut chosen = Vec::new();
    for name in names {
        let folder = FOLDERS.iter().find(|folder| name == folder.name);
        let names = || FOLDERS.map(|folder| folder.name).join(", ");
        chosen.push(folder.with_context(|| format!("no folder {}: there are {}", name.display(), names()))?);
    }
    if chosen.is_empty() {
        chosen.extend(&FOLDERS);
    }
    Ok((chosen, passed.to_vec()))
}

impl Folder {
    /// Runs the unit tests on all mutants, and the suite on the survivors.
    fn figures(&self, passed: &[OsString], database_url: &str) -> Result<Figures> {
        let output = root().join("target/mutants").join(self.name);
        // The results of an earlier run belong to other code.
        if output.exists() {
            std::fs::remove_dir_all(&output).context("remove what the last run wrote")?;
        }
        std::fs::create_dir_all(&output)?;
        let mut figures = Figures::default();
        if self.has_unit_tests {
            figures = self.stage(&["--lib"], false, passed, &output, database_url)?;
        }
        if !self.has_unit_tests || !figures.missed.is_empty() || figures.timeout > 0 {
            let rest = self.stage(self.halves, self.has_unit_tests, passed, &output, database_url)?;
            figures.caught += rest.caught;
            figures.unviable += rest.unviable;
            (figures.missed, figures.timeout) = (rest.missed, rest.timeout);
        }
        Ok(figures)
    }

    fn stage(
        &self,
        targets: &[&str],
        goes_on: bool,
        passed: &[OsString],
        output: &Path,
        database_url: &str,
    ) -> Result<Figures> {
        let mut mutants =
            cargo(["mutants", "--package=eventbox", "--all-features", "--baseline=skip", "--colors=never"]);
        mutants.args(["--file", self.files, "--timeout", TEST_TIMEOUT, "--build-timeout", BUILD_TIMEOUT]);
        mutants.arg("--output").arg(output).args(targets.iter().map(|target| format!("--cargo-arg={target}")));
        if goes_on {
            mutants.arg("--iterate");
        }
        mutants.args(passed);
        if targets == self.halves {
            mutants.args(["--", "--"]).args(self.suite);
        }
        mutants.env("DATABASE_URL", database_url).env("CARGO_TARGET_DIR", root().join("target/mutants/build"));
        // No debug information: the backtraces of mutants are not read, and it takes half of the build time.
        mutants.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_TEST_DEBUG", "0");
        mutants.env(runner_variable()?, runner()?);
        eprintln!("xtask: {}", words_of(&mutants));
        let status = status_of(&mut mutants)?;
        // 2 means that mutants survived, 3 that tests timed out.
        if interrupted() || !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("cargo mutants ended with {status}");
        }
        Figures::read(&output.join("mutants.out"))
    }
}

impl Figures {
    fn read(output: &Path) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = output.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(text.lines().map(without_place).collect())
        };
        Ok(Figures {
            caught: lines("caught.txt")?.len(),
            unviable: lines("unviable.txt")?.len(),
            missed: lines("missed.txt")?,
            timeout: lines("timeout.txt")?.len(),
        })
    }
}

/// Returns `file: change` of `file:line:column: change`, because line numbers change.
fn without_place(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}:{what}"),
        _ => mutant.to_owned(),
    }
}

/// Reads the known survivors of a folder. Each has a line of its own, below a line `# …` with the reason.
fn known(folder: &str) -> Result<BTreeSet<String>> {
    let path = root().join("xtask/mutants").join(folder).with_extension("txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the variable that names the program with which cargo runs tests.
fn runner_variable() -> Result<String> {
    let version = Command::new("rustc").arg("-vV").output().context("ask rustc for its target")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc tells no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_")))
}

/// Returns this program as the program that runs tests.
fn runner() -> Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    Ok(format!("{} {FIRST_FAILURE}", program.display()))
}

/// Name of the chore that runs tests for `cargo mutants`.
pub(crate) const FIRST_FAILURE: &str = "first-failure";

/// Runs tests and ends them at the first failure, because one failure decides about a mutant.
pub(crate) fn first_failure(args: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = args.split_first() else { bail!("which tests?") };
    let mut tests = Command::new(program).args(args).stdout(Stdio::piped()).spawn().context("start the tests")?;
    let output = tests.stdout.take().context("the tests have no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if has_failed(&line) {
            tests.kill()?;
            tests.wait()?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(if tests.wait()?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn has_failed(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with("... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_known_on_any_line() {
        let at = |line: u32| format!("src/a.rs:{line}:5: replace f -> Result<T, E> with Ok(a::b())");
        assert_eq!(without_place(&at(7)), "src/a.rs: replace f -> Result<T, E> with Ok(a::b())");
        assert_eq!(without_place(&at(7)), without_place(&at(8)));
        assert_eq!(without_place("no place"), "no place");
    }

    #[test]
    fn every_folder_has_a_list_with_reasons() {
        for folder in &FOLDERS {
            let listed = known(folder.name).unwrap();
            let of_it = folder.files.trim_end_matches("**");
            assert!(listed.iter().all(|mutant| mutant.starts_with(of_it)), "{}: {listed:?}", folder.name);
        }
    }

    #[test]
    fn folders_come_before_options() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let (folders, passed) = chosen(&args(&["dsset", "round", "--shard", "1/8"])).unwrap();
        assert_eq!(folders.iter().map(|folder| folder.name).collect::<Vec<_>>(), ["dsset", "round"]);
        assert_eq!(passed, args(&["--shard", "1/8"]));
        assert_eq!(chosen(&args(&["--shard", "1/8"])).unwrap().0.len(), FOLDERS.len());
        assert!(chosen(&args(&["nowhere"])).is_err());
    }

    #[test]
    fn only_a_failed_test_ends_the_others() {
        assert!(has_failed("test paths::a::postgres ... FAILED"));
        assert!(!has_failed("test paths::a::postgres ... ok") && !has_failed("that ... FAILED"));
    }
}
