//! A throw-away cluster of Postgres, for the benchmark here and for the tests of the project.
//!
//! The server is the child of a small shell, the keeper, which waits for the end of its input. We hold the other end of that pipe, so the
//! keeper stops the server and removes the files when we let go of it, and just as well when we are killed.

mod account;
mod find;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

pub(crate) use account::Account;
pub(crate) use find::{Programs, newest};

/// How long a server may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a port is tried: another program may take a free one before the server does.
const PORT_ATTEMPTS: usize = 5;

/// `$1` is the directory; the rest starts the server. A throw-away server needs no orderly end, so it gets SIGQUIT.
const KEEPER: &str = r#"trap '' HUP INT TERM
directory=$1; shift
"$@" </dev/null >"$directory/log" 2>&1 &
cat >/dev/null
kill -QUIT $! 2>/dev/null
wait $!
rm -rf "$directory""#;

/// Durable like a server of production.
const SETTINGS: [&str; 6] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "timezone=UTC",
];

/// A running cluster; dropping it ends the server and removes its files.
pub(crate) struct Cluster {
    /// The port on 127.0.0.1.
    pub(crate) port: u16,
    /// The password of the superuser `postgres`: the port is open to everybody on this machine.
    pub(crate) password: String,
    /// The process that all others of the server are children of.
    pub(crate) postmaster: u32,
    keeper: Child,
}

impl Cluster {
    /// Creates a cluster in a directory of its own and waits until it accepts connections, or until `interrupted` says to give up.
    ///
    /// `settings` come on top of those that make it durable: `name=value`.
    pub(crate) fn start(
        programs: &Programs,
        account: &Account,
        settings: &[&str],
        interrupted: impl Fn() -> bool,
    ) -> Result<Self> {
        let password = random_hex()?;
        for _ in 0..PORT_ATTEMPTS {
            let directory = directory_for(account)?;
            init(programs, account, directory.path(), &password)?;
            let port = free_port()?;
            // From here on the keeper removes it.
            let directory = directory.keep();
            let keeper = keep(programs, account, &directory, port, settings)?;
            let mut cluster = Cluster { port, password: password.clone(), postmaster: 0, keeper };
            if let Some(postmaster) = cluster.wait_until_ready(&directory, &interrupted)? {
                cluster.postmaster = postmaster;
                return Ok(cluster);
            }
        }
        bail!("no free port was found on 127.0.0.1 in {PORT_ATTEMPTS} attempts")
    }

    /// The postmaster when the server accepts connections, `None` when its port was taken.
    fn wait_until_ready(&self, directory: &Path, interrupted: &impl Fn() -> bool) -> Result<Option<u32>> {
        let started = Instant::now();
        loop {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            if log.contains("could not bind") {
                return Ok(None);
            }
            if log.contains("FATAL:") {
                bail!("Postgres did not start; its log ends with\n{}", last_lines(&log, 10));
            }
            if let Some(postmaster) =
                ready(&fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default())
            {
                return Ok(Some(postmaster));
            }
            if interrupted() {
                bail!("interrupted");
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("Postgres did not start within {START_TIMEOUT:?}; its log ends with\n{}", last_lines(&log, 10));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "the throw-away Postgres may still run: {error}");
        }
    }
}

/// A new directory that belongs to the account and that it can reach.
fn directory_for(account: &Account) -> Result<TempDir> {
    for parent in [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")] {
        let Ok(directory) = tempfile::Builder::new().prefix("eventbox-postgres-").tempdir_in(&parent) else { continue };
        account.own(directory.path())?;
        if account.can_use(directory.path()) {
            return Ok(directory);
        }
    }
    bail!("found no temporary directory that the server's user can use: set TMPDIR to one")
}

fn init(programs: &Programs, account: &Account, directory: &Path, password: &str) -> Result<()> {
    let password_file = directory.join("password");
    fs::write(&password_file, password).context("write the server's password")?;
    account.own(&password_file)?;
    // In a linguistic order, so that tests notice a key that relies on the order of bytes without saying so; where the server was built
    // without it, in the order of bytes.
    let linguistic = ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C"];
    let mut said = String::new();
    for locale in [&linguistic[..], &["--no-locale"]] {
        let mut initdb = account.command(programs.directory.join("initdb"));
        initdb.args(["--username=postgres", "--auth=password", "--encoding=UTF8", "--no-sync", "--pgdata"]);
        initdb.arg(directory.join("data")).arg("--pwfile").arg(&password_file).args(locale);
        let done = initdb.output().context("run initdb")?;
        if done.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&done.stderr).into_owned();
    }
    bail!("initdb failed:\n{said}")
}

fn keep(programs: &Programs, account: &Account, directory: &Path, port: u16, settings: &[&str]) -> Result<Child> {
    let mut keeper = account.command("/bin/sh");
    keeper.args(["-c", KEEPER, "keeper"]).arg(directory);
    keeper
        .arg(programs.directory.join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-p")
        .arg(port.to_string());
    for setting in SETTINGS.iter().chain(settings) {
        keeper.args(["-c", setting]);
    }
    // A group of its own: Ctrl-C in the terminal is for us, and we stop the server when we are done with it.
    keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    keeper.spawn().context("start the server")
}

/// The postmaster, once the eighth line of `postmaster.pid`, the server's own word for its state, says that it is ready.
fn ready(postmaster_pid: &str) -> Option<u32> {
    let state = postmaster_pid.lines().nth(7)?;
    (state.trim() == "ready").then_some(postmaster_pid)?.lines().next()?.trim().parse().ok()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(count)).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_it_says_so() {
        let starting = "12\n/tmp/x/data\n1700000000\n5433\n\n127.0.0.1\n  1 2\nstarting\n";
        assert_eq!(ready(starting), None);
        assert_eq!(ready(""), None);
        assert_eq!(ready(&starting.replace("starting", "ready   ")), Some(12));
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }

    #[test]
    fn passwords_are_never_the_same() {
        let password = random_hex().unwrap();
        assert_eq!(password.len(), 32);
        assert_ne!(password, random_hex().unwrap());
    }
}
