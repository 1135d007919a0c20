//! A server of Postgres that a test may restart and that may wait for a standby.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

/// A cluster of its own. Dropped, it stops, and its files are removed.
pub(crate) struct Cluster {
    home: TempDir,
    programs: PathBuf,
    port: u16,
}

/// As whom servers run when the tests run as root, which Postgres refuses.
const ACCOUNTS: [&str; 3] = ["postgres", "_postgres", "nobody"];

impl Cluster {
    /// Makes a new cluster and starts it.
    pub(crate) fn start() -> Self {
        let programs = programs().expect("this test needs the programs of a Postgres server (Debian: postgresql)");
        let home = tempfile::Builder::new().prefix("eventbox-test-cluster-").tempdir_in("/tmp").unwrap();
        if let Some((uid, gid)) = account() {
            chown(home.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let cluster = Cluster { home, programs, port };
        let data = cluster.data().display().to_string();
        cluster.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]);
        cluster.configure("listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off");
        cluster.control(&["start", "-o", &format!("-p {port}"), "-l", &cluster.log()]);
        cluster
    }

    /// A pool of its database.
    pub(crate) fn pool(&self, max_connections: u32) -> PgPool {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port);
        PgPoolOptions::new().max_connections(max_connections).connect_lazy(&url).unwrap()
    }

    /// Commits wait for a standby that never comes, or wait no more.
    pub(crate) fn wants_a_standby(&self, wants: bool) {
        let names = if wants { "nobody" } else { "" };
        self.configure(&format!("synchronous_standby_names = '{names}'"));
        self.control(&["reload"]);
    }

    /// Changes a setting, and restarts the server with it.
    pub(crate) fn set(&self, setting: &str) {
        self.configure(setting);
        self.restart();
    }

    /// Restarts it as an operator does after a change of a setting.
    pub(crate) fn restart(&self) {
        self.control(&["restart", "-m", "fast", "-o", &format!("-p {}", self.port), "-l", &self.log()]);
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> String {
        self.home.path().join("log").display().to_string()
    }

    fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{text}{settings}\n")).unwrap();
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.data().display().to_string();
        self.run("pg_ctl", &[&["-w", "-t", "60", "-D", &data], arguments].concat());
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.programs.join(program));
        if let Some((uid, gid)) = account() {
            command.uid(uid).gid(gid);
        }
        // Its output is not read: the server would keep the pipe open.
        command.args(arguments).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.stderr(Stdio::null()).status().unwrap();
        let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
        assert!(status.success(), "{program} {}: {status}\n{}", arguments.join(" "), log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.control(&["stop", "-m", "immediate"]);
            return;
        }
        // The message of the failed assertion is enough, but the server must not stay.
        let pid = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = Command::new("kill").args(["-QUIT", pid.trim()]).status();
        }
    }
}

/// The account of servers, when this process is root's.
fn account() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    ACCOUNTS.iter().find_map(|name| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}

/// The programs of the newest server.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let newest = newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let said = || {
        let said = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(said.stdout).ok()?.trim()))
    };
    newest.or_else(said).filter(|programs: &PathBuf| Path::exists(&programs.join("initdb")))
}
