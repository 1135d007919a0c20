//! Postgres clusters that a program can stop, freeze and promote.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::report::Result;

/// The account of the servers, because Postgres refuses to run as root.
#[derive(Clone, Copy)]
pub(crate) struct Account(Option<(u32, u32)>);

impl Account {
    pub(crate) fn of_servers() -> Result<Self> {
        let me = String::from_utf8(Command::new("id").arg("-u").output()?.stdout)?;
        if me.trim() != "0" {
            return Ok(Account(None));
        }
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let of = |name: &str| {
            let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
        };
        let found = ["postgres", "_postgres", "nobody"].into_iter().find_map(of);
        Ok(Account(Some(found.ok_or("Postgres does not run as root, and there is no user postgres or nobody")?)))
    }

    pub(crate) fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid);
        }
        command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        command
    }

    pub(crate) fn own(self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.0 {
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// Ports of servers. They are below those that the system gives to outgoing connections, which could take the port of a
/// server while it is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Most ports that are tried.
const TRIED: usize = 100;

/// Returns a port that no program listens on.
pub(crate) fn free_port() -> Result<u16> {
    let mut drawn = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(TRIED);
    drawn.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).ok_or_else(|| "no port is free".into())
}

/// A cluster. Dropping it ends the server. The directory of the program removes its files.
pub(crate) struct Server {
    account: Account,
    programs: PathBuf,
    pub(crate) data: PathBuf,
    log: PathBuf,
    /// Environment of the server.
    environment: Vec<(String, String)>,
    pub(crate) port: u16,
}

/// Settings of every cluster: the transaction of a dead client ends after 5 s, and every commit reaches the disk.
const SETTINGS: [&str; 6] = [
    "listen_addresses = '127.0.0.1'",
    "unix_socket_directories = ''",
    "idle_in_transaction_session_timeout = '5s'",
    "max_connections = 80",
    "wal_keep_size = '64MB'",
    "fsync = on",
];

impl Server {
    /// Creates a cluster in a directory and starts it.
    pub(crate) fn start(home: &Path, name: &str, settings: &[&str]) -> Result<Self> {
        let server = Self::create(home, name, settings, Vec::new())?;
        server.up()?;
        Ok(server)
    }

    /// Creates a cluster in a directory. The server gets an environment when it starts.
    pub(crate) fn create(
        home: &Path,
        name: &str,
        settings: &[&str],
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        let (account, port) = (Account::of_servers()?, free_port()?);
        let (data, log) = (home.join(name), home.join(name).with_extension("log"));
        let server = Server { account, programs: programs()?, data, log, environment, port };
        let data = server.data.display().to_string();
        // Small log segments, so that several fit on a small disk.
        server.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--wal-segsize=1"],
        )?;
        server.configure(&SETTINGS)?;
        server.configure(settings)?;
        Ok(server)
    }

    /// Returns a server that a cluster manager creates, starts and stops.
    pub(crate) fn of_manager(home: &Path, name: &str) -> Result<Self> {
        let (data, log) = (home.join(name), home.join(name).with_extension("log"));
        let (account, programs) = (Account::of_servers()?, programs()?);
        Ok(Server { account, programs, data, log, environment: Vec::new(), port: free_port()? })
    }

    /// Creates a standby of this server and starts it.
    pub(crate) fn standby(&self, home: &Path, name: &str) -> Result<Self> {
        let standby = self.copy(home, name, Vec::new())?;
        standby.up()?;
        Ok(standby)
    }

    /// Creates a standby of this server.
    pub(crate) fn copy(&self, home: &Path, name: &str, environment: Vec<(String, String)>) -> Result<Self> {
        let Server { account, programs, .. } = self;
        let (account, programs, port) = (*account, programs.clone(), free_port()?);
        let (data, log) = (home.join(name), home.join(name).with_extension("log"));
        let standby = Server { account, programs, data, log, environment, port };
        standby.copy_from(self)?;
        Ok(standby)
    }

    /// Fills the empty directory of this server with a copy of another one, as its standby.
    fn copy_from(&self, source: &Server) -> Result<()> {
        let from = format!("host=127.0.0.1 port={} user=postgres application_name=standby", source.port);
        let data = self.data.display().to_string();
        self.run("pg_basebackup", &["-D", &data, "-d", &from, "-R", "-X", "stream", "-c", "fast"])?;
        self.configure(&["synchronous_standby_names = ''"])
    }

    /// Makes this server, which is down, a standby of another one. `pg_rewind` brings its files to the other's
    /// timeline. Where that fails, the server gets a new copy, and the method returns the reason.
    pub(crate) fn follow(&self, source: &Server) -> Result<Option<String>> {
        // Before its first checkpoint a promoted server names its old timeline.
        source.ask("CHECKPOINT")?;
        let from = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", source.port);
        let data = self.data.display().to_string();
        let rewound = self.run("pg_rewind", &["-D", &data, "--source-server", &from, "-R"]);
        match &rewound {
            Ok(_) => self.configure(&["synchronous_standby_names = ''"])?,
            Err(_) => {
                std::fs::remove_dir_all(&self.data)?;
                self.copy_from(source)?;
            }
        }
        Ok(rewound.err().map(|error| error.to_string()))
    }

    /// Moves the log away from the files of the server, whose disk may be full.
    pub(crate) fn log_to(&mut self, log: PathBuf) {
        self.log = log;
    }

    /// Appends settings to the configuration. They take effect at a start or a reload.
    pub(crate) fn configure(&self, settings: &[&str]) -> Result<()> {
        let path = self.data.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&path)?;
        settings.iter().for_each(|setting| text.push_str(&format!("{setting}\n")));
        std::fs::write(path, text)?;
        Ok(())
    }

    pub(crate) fn up(&self) -> Result<()> {
        let (port, log) = (format!("-p {}", self.port), self.log.display().to_string());
        self.control(&["start", "-w", "-t", "60", "-o", &port, "-l", &log])
    }

    /// Stops the server: `smart`, `fast`, or `immediate`, which is like a crash.
    pub(crate) fn down(&self, mode: &str) -> Result<()> {
        self.control(&["stop", "-w", "-t", "60", "-m", mode])
    }

    pub(crate) fn promote(&self) -> Result<()> {
        self.control(&["promote", "-w", "-t", "60"])
    }

    pub(crate) fn reload(&self) -> Result<()> {
        self.control(&["reload"])
    }

    pub(crate) fn is_up(&self) -> bool {
        let port = self.port.to_string();
        self.run("pg_isready", &["-h", "127.0.0.1", "-p", &port, "-q"]).is_ok()
    }

    /// Returns the result of a query, with one line for each row.
    pub(crate) fn ask(&self, sql: &str) -> Result<String> {
        let port = self.port.to_string();
        self.run("psql", &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres", "-XAtc", sql])
    }

    /// Freezes every process of the server, or lets all of them continue.
    pub(crate) fn freeze(&self, is_frozen: bool) -> Result<()> {
        self.signal(if is_frozen { "-STOP" } else { "-CONT" })?;
        Ok(())
    }

    /// Kills every process of the server with SIGKILL, and waits until they are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        for process in self.signal("-KILL")? {
            let status = format!("/proc/{process}/stat");
            while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z ")) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        // The next start would take a zombie for a running server.
        Ok(std::fs::remove_file(self.data.join("postmaster.pid"))?)
    }

    /// Sends a signal to every process of the server, and returns their ids.
    fn signal(&self, signal: &str) -> Result<Vec<String>> {
        let main = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let main = main.lines().next().unwrap_or_default().trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        let all: Vec<String> =
            std::iter::once(main.as_str()).chain(children.split_whitespace()).map(str::to_owned).collect();
        // A process that has just ended gets no signal.
        let _ = Command::new("kill").arg(signal).args(&all).stderr(Stdio::null()).status()?;
        Ok(all)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn control(&self, arguments: &[&str]) -> Result<()> {
        let data = self.data.display().to_string();
        let mut command = self.account.command(self.programs.join("pg_ctl"));
        // No pipe, because the server would keep it open.
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let status =
            command.args(["-D", &data]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !status.success() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            return Err(format!("pg_ctl {} failed; the log ends with {last:?}", arguments.join(" ")).into());
        }
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let done = self.account.command(self.programs.join(program)).args(arguments).output()?;
        if !done.status.success() {
            return Err(format!("{program} failed: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.freeze(false);
        let _ = self.down("immediate");
    }
}

/// Returns the folder of the programs of the newest server.
pub(crate) fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let found = newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let found = found.or_else(|| {
        let said = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8(said.stdout).ok()?.trim()))
    });
    let found = found.filter(|programs| programs.join("initdb").exists());
    found.ok_or_else(|| "no programs of a Postgres server were found: install the package postgresql".into())
}

/// Creates a folder that belongs to the account of the servers.
pub(crate) fn folder_of_servers(at: &Path) -> Result<&Path> {
    std::fs::create_dir_all(at)?;
    Account::of_servers()?.own(at)?;
    Ok(at)
}

/// Creates a directory for the account of the servers. Dropping it removes everything in it.
pub(crate) fn home() -> Result<tempfile::TempDir> {
    let home = tempfile::Builder::new().prefix("eventbox-faults-").tempdir_in("/tmp")?;
    Account::of_servers()?.own(home.path())?;
    Ok(home)
}
