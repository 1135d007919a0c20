//! A throw-away Postgres cluster, for the benchmark and for the tests of the project.
//!
//! The server is the child of a small shell, the keeper, which waits for the end of its input. This process holds the
//! other end of that pipe. When the pipe closes, also because this process was killed, the keeper stops the server
//! and removes the files.

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

/// Time limit for a server to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of ports to try. Another program may take a free port before the server does.
const PORT_ATTEMPTS: usize = 5;

/// The keeper's script. `$1` is the directory; the other arguments start the server. SIGQUIT, because a throw-away
/// server needs no orderly end.
const KEEPER: &str = r#"trap '' HUP INT TERM
directory=$1; shift
"$@" </dev/null >"$directory/log" 2>&1 &
cat >/dev/null
kill -QUIT $! 2>/dev/null
wait $!
rm -rf "$directory""#;

/// Settings as durable as a production server.
const SETTINGS: [&str; 6] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "timezone=UTC",
];

/// A running cluster. Dropping the value ends the server and removes its files.
pub(crate) struct Cluster {
    /// Port on 127.0.0.1.
    pub(crate) port: u16,
    /// Password of the superuser `postgres`. Every user of this machine can reach the port.
    pub(crate) password: String,
    /// Process id of the server's first process.
    pub(crate) postmaster: u32,
    keeper: Child,
}

impl Cluster {
    /// Creates a cluster in its own directory. Waits until it accepts connections or `interrupted` is set.
    ///
    /// `settings` are added to the durable settings, as `name=value`. The directory is made in `parent` if possible, or
    /// among other temporary files.
    pub(crate) fn start(
        programs: &Programs,
        account: &Account,
        parent: Option<&Path>,
        settings: &[&str],
        interrupted: impl Fn() -> bool,
    ) -> Result<Self> {
        let password = random_hex()?;
        for _ in 0..PORT_ATTEMPTS {
            let directory = directory_for(account, parent)?;
            init(programs, account, directory.path(), &password)?;
            let port = free_port()?;
            // From here on the keeper removes the directory.
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

    /// Returns the postmaster's id when the server accepts connections, or `None` if its port was taken.
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
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "the throw-away Postgres may still run: {error}");
        }
    }
}

/// Creates a directory that belongs to the account and that the account can reach.
fn directory_for(account: &Account, parent: Option<&Path>) -> Result<TempDir> {
    let others = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    for parent in parent.map(Path::to_path_buf).into_iter().chain(others) {
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
    // A linguistic order shows tests that rely on the order of bytes without COLLATE "C". Servers that were built
    // without it use the order of bytes.
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
    // A process group of its own, because Ctrl-C in the terminal is for this process. This process stops the server
    // later.
    keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    keeper.spawn().context("start the server")
}

/// Returns the postmaster's id once the eighth line of `postmaster.pid`, the server's state, is `ready`.
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
