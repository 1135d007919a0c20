//! A primary and a synchronous standby, the network before them, and the part of a cluster manager.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::proxy::Proxy;
use super::super::report::Result;
use super::super::server::Server;
use super::super::small_disk::SmallDisk;
use super::clock::{Clock, Threads};

/// Settings of both servers, in addition to those of every cluster.
const SETTINGS: [&str; 12] = [
    "synchronous_commit = on",
    // For pg_rewind.
    "wal_log_hints = on",
    "wal_keep_size = '128MB'",
    "max_wal_size = '64MB'",
    "shared_buffers = '32MB'",
    "max_connections = 200",
    "wal_sender_timeout = '5s'",
    "wal_receiver_timeout = '5s'",
    "wal_retrieve_retry_interval = '500ms'",
    "tcp_keepalives_idle = 5",
    "tcp_keepalives_interval = 2",
    "tcp_keepalives_count = 3",
];

/// Size of the disk of a server that a fault fills.
const DISK: &str = "512m";

/// Time that a full disk stays full.
const FULL: Duration = Duration::from_secs(8);

/// Time that a frozen server stays frozen.
const FROZEN: Duration = Duration::from_secs(12);

/// Longest time until a standby is synchronous.
const WHOLE: Duration = Duration::from_secs(90);

/// A server, its clock, and the network between it and its standby. The order of the fields is that of their end.
struct Node {
    server: Server,
    clock: Clock,
    replication: Proxy,
    disk: Option<SmallDisk>,
}

/// Both servers.
pub(crate) struct Pair {
    nodes: [Node; 2],
    primary: usize,
    /// The network between the service and the primary.
    pub(crate) network: Proxy,
    /// Number of fail-overs after which the old primary kept its files.
    pub(crate) rewound: usize,
    /// Reasons for which an old primary got a copy.
    pub(crate) copied: Vec<String>,
}

impl Pair {
    /// Creates both servers. `disks` gives each a small disk of its own.
    pub(crate) async fn start(home: &Path, disks: bool) -> Result<Self> {
        let (first, second) = (home.join("first"), home.join("second"));
        let disk = |at: &Path| disks.then(|| SmallDisk::mount(at, DISK)).transpose();
        let (disk_of_first, disk_of_second) = (disk(&first)?, disk(&second)?);
        let clock = Clock::create(home, "first", Threads::One)?;
        let mut server = Server::create(folder(&first)?, "data", &SETTINGS, clock.environment())?;
        server.log_to(home.join("first.log"));
        server.up()?;
        let replication = Proxy::start(server.port).await?;
        let first = Node { server, clock, replication, disk: disk_of_first };
        let clock = Clock::create(home, "second", Threads::One)?;
        let mut server = first.server.copy(folder(&second)?, "data", clock.environment())?;
        server.log_to(home.join("second.log"));
        let replication = Proxy::start(server.port).await?;
        let second = Node { server, clock, replication, disk: disk_of_second };
        let network = Proxy::start(first.server.port).await?;
        let pair = Pair { nodes: [first, second], primary: 0, network, rewound: 0, copied: Vec::new() };
        pair.join().await?;
        Ok(pair)
    }

    fn primary(&self) -> &Node {
        &self.nodes[self.primary]
    }

    fn standby(&self) -> &Node {
        &self.nodes[1 - self.primary]
    }

    /// Starts the standby, and makes commits wait for it from now on.
    async fn join(&self) -> Result<()> {
        let (primary, standby) = (self.primary(), self.standby());
        let from = format!("host=127.0.0.1 port={} user=postgres application_name=standby", primary.replication.port);
        standby.server.configure(&[&format!("primary_conninfo = '{from}'")])?;
        standby.server.up()?;
        primary.server.configure(&["synchronous_standby_names = '*'"])?;
        primary.server.reload()?;
        self.whole().await
    }

    /// Waits until the standby has everything, and commits wait for it.
    pub(crate) async fn whole(&self) -> Result<()> {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'";
        let began = Instant::now();
        while !self.primary().server.ask(sql).is_ok_and(|count| count == "1") {
            if began.elapsed() > WHOLE {
                return Err("the standby does not become synchronous".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Returns whether the primary answers.
    pub(crate) fn is_up(&self) -> bool {
        self.primary().server.is_up()
    }

    /// Kills all processes of the primary.
    pub(crate) fn kill_primary(&self) -> Result<()> {
        self.primary().server.kill()
    }

    /// Stops the primary, or lets it continue.
    pub(crate) fn freeze_primary(&self, is_frozen: bool) -> Result<()> {
        self.primary().server.freeze(is_frozen)
    }

    /// Stops the primary once the standby has everything.
    pub(crate) fn end_primary(&self) -> Result<()> {
        self.primary().server.down("fast")
    }

    /// Cuts the primary off: from the service and from the standby, in both directions.
    pub(crate) fn cut_primary(&self) {
        self.network.cut();
        self.primary().replication.cut();
    }

    /// Promotes the standby and leads the service to it. The old primary takes no part any more: it has ended, or it is
    /// cut off from everybody.
    pub(crate) fn promote(&mut self) -> Result<()> {
        self.standby().server.promote()?;
        self.primary = 1 - self.primary;
        self.network.lead_to(self.primary().server.port);
        Ok(())
    }

    /// Makes the old primary the standby of the new one.
    pub(crate) async fn rebuild(&mut self) -> Result<()> {
        let old = self.standby();
        // One that was cut off still runs.
        if old.server.is_up() {
            old.server.kill()?;
        }
        old.replication.lead_to(old.server.port);
        let copied = old.server.follow(&self.primary().server)?;
        self.rewound += usize::from(copied.is_none());
        self.copied.extend(copied);
        self.join().await
    }

    /// Restarts the primary.
    pub(crate) fn restart(&self, mode: &str) -> Result<()> {
        self.primary().server.down(mode)?;
        self.primary().server.up()
    }

    /// Kills the primary and starts it again.
    pub(crate) fn kill_and_start(&self) -> Result<()> {
        self.primary().server.kill()?;
        self.primary().server.up()
    }

    /// Freezes the primary for a time.
    pub(crate) async fn freeze(&self) -> Result<()> {
        self.freeze_primary(true)?;
        sleep(FROZEN).await;
        self.freeze_primary(false)
    }

    /// Fills the disk of the primary for a time. A server that gave up is started again.
    pub(crate) async fn fill_disk(&self) -> Result<()> {
        let disk = self.primary().disk.as_ref().ok_or("the server has no disk of its own")?;
        // Fills the space that the server frees, too.
        for _ in 0..FULL.as_secs() {
            disk.fill()?;
            sleep(Duration::from_secs(1)).await;
        }
        disk.empty()
    }

    /// Starts the primary again if it has given up.
    pub(crate) fn revive(&self) -> Result<bool> {
        let server = &self.primary().server;
        let has_given_up = !server.is_up();
        if has_given_up {
            let _ = server.down("immediate");
            server.up()?;
        }
        Ok(has_given_up)
    }

    /// Moves the clock of the primary. Returns how many seconds it is ahead.
    pub(crate) fn jump(&mut self, is_forward: bool) -> Result<i64> {
        self.nodes[self.primary].clock.jump(is_forward)
    }

    pub(crate) fn url(&self) -> String {
        self.network.url()
    }
}

/// Creates a folder for a server.
fn folder(at: &Path) -> Result<&Path> {
    std::fs::create_dir_all(at)?;
    super::super::server::Account::of_servers()?.own(at)?;
    Ok(at)
}
