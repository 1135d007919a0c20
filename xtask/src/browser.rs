//! The tests of the dashboard in Chromium, and their prerequisites.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::postgres;
use crate::run::{cargo, exit_code, status_of, words_of};

/// A program that the tests need.
struct Program {
    /// Variable that names the program, also for the tests.
    variable: &'static str,
    /// Names under which systems install it.
    names: &'static [&'static str],
}

const CHROMIUM: Program = Program {
    variable: "EVENTBOX_CHROMIUM",
    names: &["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"],
};

const CHROMEDRIVER: Program = Program { variable: "EVENTBOX_CHROMEDRIVER", names: &["chromedriver"] };

/// Folders beside the usual ones in which systems install chromedriver.
const FOLDERS: &str = "/usr/lib/chromium:/usr/lib/chromium-browser:/usr/lib64/chromium-browser:/opt/homebrew/bin";

/// Advice for the user when a program is missing.
const ADVICE: &str =
    "Chromium or its chromedriver was not found. Install both, of the same version, and run this again:
    Debian            sudo apt-get install chromium chromium-driver
    Fedora            sudo dnf install chromium chromedriver
    Alpine            sudo apk add chromium chromium-chromedriver
    macOS             brew install --cask chromium chromedriver
or name them: EVENTBOX_CHROMIUM=/path/to/chromium EVENTBOX_CHROMEDRIVER=/path/to/chromedriver cargo xtask browser";

/// Number of tests at the same time. Each one has a Chromium, which keeps a processor busy.
const AT_THE_SAME_TIME: &str = "2";

/// Word of the command line for the picture of the README.
const PICTURE: &str = "--picture";

/// Runs the tests, or those that the arguments name. With `--picture` it makes the picture of the README instead.
pub(crate) fn run(mut args: Vec<OsString>) -> Result<ExitCode> {
    let makes_picture = args.iter().any(|arg| arg == PICTURE);
    args.retain(|arg| arg != PICTURE);
    if makes_picture {
        args.extend(["--ignored", "--exact", "picture::of_the_overview"].map(OsString::from));
    }
    let server = postgres::server()?;
    let status = tests(&server.url(), &args)?;
    exit_code(status)
}

/// Runs the tests on a server of Postgres, and says how long they took.
pub(crate) fn tests(database_url: &str, args: &[OsString]) -> Result<ExitStatus> {
    let (chromium, chromedriver) = programs()?;
    // Built before the time is taken.
    let mut build = cargo(["test", "--workspace", "--all-features", "--test", "browser", "--no-run"]);
    let built = status_of(&mut build)?;
    if !built.success() {
        return Ok(built);
    }
    let started = Instant::now();
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "browser", "--"]);
    tests.args(["--test-threads", AT_THE_SAME_TIME]).args(args);
    tests.env(CHROMIUM.variable, chromium).env(CHROMEDRIVER.variable, chromedriver).env("DATABASE_URL", database_url);
    let status = status_of(&mut tests)?;
    eprintln!("xtask: the browser took {} s; pictures of all pages: target/browser", started.elapsed().as_secs());
    Ok(status)
}

/// Finds Chromium and chromedriver, and tries to install them otherwise.
fn programs() -> Result<(PathBuf, PathBuf)> {
    if let (Some(chromium), Some(chromedriver)) = (CHROMIUM.find(), CHROMEDRIVER.find()) {
        return Ok((chromium, chromedriver));
    }
    install()?;
    CHROMIUM.find().zip(CHROMEDRIVER.find()).context(ADVICE)
}

impl Program {
    fn find(&self) -> Option<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable) {
            return Some(named.into());
        }
        let found = |name: &&str| which::which(name).or_else(|_| which::which_in(name, Some(FOLDERS), "/")).ok();
        self.names.iter().find_map(found)
    }
}

/// Installs the packages of Debian. The error advises the user.
fn install() -> Result<()> {
    if !geteuid().is_root() || which::which("apt-get").is_err() {
        bail!("{ADVICE}");
    }
    for arguments in
        [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends", "chromium", "chromium-driver"]]
    {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        eprintln!("xtask: no Chromium here yet: {}", words_of(&command));
        if !status_of(&mut command)?.success() {
            bail!("{} failed\n{ADVICE}", words_of(&command));
        }
    }
    Ok(())
}
