//! A Postgres server for the tests: the server that `DATABASE_URL` names, or a throw-away cluster.

#[allow(dead_code, reason = "the benchmark of the binary shares this module and uses more of it")]
#[path = "../../../cli/src/cluster/mod.rs"]
mod cluster;
mod database;
mod install;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use cluster::{Account, Cluster, Programs, newest};

pub(crate) use database::{Database, drop_test_databases};

/// Settings of the cluster, which allow many concurrent tests.
const SETTINGS: [&str; 1] = ["max_connections=300"];

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

/// Free bytes that make room in memory for the databases of all tests that run at the same time, and for their log.
const ENOUGH_MEMORY: u64 = 6 << 30;

/// A running server.
pub(crate) enum Server {
    /// The server of the user.
    Given(String),
    /// A throw-away cluster. Dropping it stops the server and removes its files.
    Own(Cluster),
}

/// Finds or starts a server, and prints which one.
pub(crate) fn server() -> Result<Server> {
    crate::run::outlive_interrupts()?;
    if let Ok(url) = std::env::var("DATABASE_URL") {
        eprintln!("xtask: using the Postgres that DATABASE_URL names");
        return Ok(Server::Given(url));
    }
    let account = Account::for_a_server()?;
    let programs = match newest(&account) {
        Some(programs) => programs,
        None => installed(&account)?,
    };
    let started = Instant::now();
    let cluster = Cluster::start(&programs, &account, memory(), &SETTINGS, crate::run::interrupted)?;
    eprintln!(
        "xtask: throw-away Postgres {} from {} is up on 127.0.0.1:{} ({:.1} s)",
        programs.version,
        programs.directory.display(),
        cluster.port,
        started.elapsed().as_secs_f32()
    );
    Ok(Server::Own(cluster))
}

/// Returns a directory of files in memory that has room enough. The tests make and drop a thousand databases, whose
/// files a disk would have to sync.
pub(crate) fn memory() -> Option<&'static Path> {
    let memory = Path::new(MEMORY);
    let room = nix::sys::statvfs::statvfs(memory).ok()?;
    #[allow(clippy::useless_conversion, reason = "the types differ between systems")]
    let free = u64::from(room.blocks_available()).saturating_mul(room.fragment_size().into());
    (free >= ENOUGH_MEMORY).then_some(memory)
}

/// Checks that the programs of a server exist, and tries to install them otherwise.
pub(crate) fn has_programs() -> Result<()> {
    let account = Account::for_a_server()?;
    match newest(&account) {
        Some(_) => Ok(()),
        None => installed(&account).map(drop),
    }
}

fn installed(account: &Account) -> Result<Programs> {
    install::install()?;
    // The installation may have created the usual account of such servers.
    newest(account).context(install::ADVICE)
}

impl Server {
    /// Returns the URL of the server, for `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        match self {
            Server::Given(url) => url.clone(),
            Server::Own(cluster) => {
                format!("postgres://postgres:{}@127.0.0.1:{}/postgres", cluster.password, cluster.port)
            }
        }
    }

    /// Returns the environment variables by which `psql` and similar programs find the server.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Server::Given(_) => Vec::new(),
            Server::Own(cluster) => vec![
                ("PGHOST", "127.0.0.1".to_owned()),
                ("PGPORT", cluster.port.to_string()),
                ("PGUSER", "postgres".to_owned()),
                ("PGPASSWORD", cluster.password.clone()),
                ("PGDATABASE", "postgres".to_owned()),
            ],
        }
    }
}
