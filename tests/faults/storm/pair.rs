//! A primary and a synchronous standby, the network before them, and the part of a cluster manager.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::proxy::Proxy;
use super::super::report::{Report, Result};
use super::super::server::{Server, folder_of_servers};
use super::super::small_disk::SmallDisk;
use super::clock::{Clock, Threads};
use super::cluster::Cluster;
use super::schedule::{Kind, Step};

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
    network: Proxy,
    /// Number of fail-overs after which the old primary kept its files.
    rewound: usize,
    /// Reasons for which an old primary got a copy.
    copied: Vec<String>,
}

impl Pair {
    /// Creates both servers. `disks` gives each a small disk of its own.
    pub(crate) async fn start(home: &Path, disks: bool) -> Result<Self> {
        let (first, second) = (home.join("first"), home.join("second"));
        let disk = |at: &Path| disks.then(|| SmallDisk::mount(at, DISK)).transpose();
        let (disk_of_first, disk_of_second) = (disk(&first)?, disk(&second)?);
        let clock = Clock::create(home, "first", Threads::One)?;
        let mut server = Server::create(folder_of_servers(&first)?, "data", &SETTINGS, clock.environment())?;
        server.log_to(home.join("first.log"));
        server.up()?;
        let replication = Proxy::start(server.port).await?;
        let first = Node { server, clock, replication, disk: disk_of_first };
        let clock = Clock::create(home, "second", Threads::One)?;
        let mut server = first.server.copy(folder_of_servers(&second)?, "data", clock.environment())?;
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
    async fn whole(&self) -> Result<()> {
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

    /// Kills all processes of the primary.
    fn kill_primary(&self) -> Result<()> {
        self.primary().server.kill()
    }

    /// Stops the primary, or lets it continue.
    fn freeze_primary(&self, is_frozen: bool) -> Result<()> {
        self.primary().server.freeze(is_frozen)
    }

    /// Stops the primary once the standby has everything.
    fn end_primary(&self) -> Result<()> {
        self.primary().server.down("fast")
    }

    /// Cuts the primary off: from the service and from the standby, in both directions.
    fn cut_primary(&self) {
        self.network.cut();
        self.primary().replication.cut();
    }

    /// Promotes the standby and leads the service to it. The old primary takes no part any more: it has ended, or it is
    /// cut off from everybody.
    fn promote(&mut self) -> Result<()> {
        self.standby().server.promote()?;
        self.primary = 1 - self.primary;
        self.network.lead_to(self.primary().server.port);
        Ok(())
    }

    /// Makes the old primary the standby of the new one.
    async fn rebuild(&mut self) -> Result<()> {
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
    fn restart(&self, mode: &str) -> Result<()> {
        self.primary().server.down(mode)?;
        self.primary().server.up()
    }

    /// Kills the primary and starts it again.
    fn kill_and_start(&self) -> Result<()> {
        self.primary().server.kill()?;
        self.primary().server.up()
    }

    /// Freezes the primary for a time.
    async fn freeze(&self) -> Result<()> {
        self.freeze_primary(true)?;
        sleep(FROZEN).await;
        self.freeze_primary(false)
    }

    /// Fills the disk of the primary for a time. A server that gave up is started again.
    async fn fill_disk(&self) -> Result<()> {
        let disk = self.primary().disk.as_ref().ok_or("the server has no disk of its own")?;
        // Fills the space that the server frees, too.
        for _ in 0..FULL.as_secs() {
            disk.fill()?;
            sleep(Duration::from_secs(1)).await;
        }
        disk.empty()
    }

    /// Starts the primary again if it has given up.
    fn revive(&self) -> Result<bool> {
        let server = &self.primary().server;
        let has_given_up = !server.is_up();
        if has_given_up {
            let _ = server.down("immediate");
            server.up()?;
        }
        Ok(has_given_up)
    }

    /// Moves the clock of the primary. Returns how many seconds it is ahead.
    fn jump(&mut self, is_forward: bool) -> Result<i64> {
        self.nodes[self.primary].clock.jump(is_forward)
    }
}

impl Cluster for Pair {
    fn url(&self) -> String {
        self.network.url()
    }

    fn bound_s(&self) -> f64 {
        15.0
    }

    async fn break_something(&mut self, step: &Step, report: &mut Report) -> Result<Instant> {
        let notice = Duration::from_millis(step.notice_ms);
        let began = Instant::now();
        match step.kind {
            Kind::PrimaryKilled => {
                self.kill_primary()?;
                self.promote()?;
            }
            Kind::PrimaryFrozen => {
                self.freeze_primary(true)?;
                sleep(notice).await;
                self.kill_primary()?;
                self.promote()?;
            }
            Kind::SwitchOver => {
                self.end_primary()?;
                self.promote()?;
            }
            Kind::NetworkCut => {
                self.cut_primary();
                sleep(notice).await;
                self.promote()?;
            }
            Kind::RestartFast => self.restart("fast")?,
            Kind::RestartImmediate => self.restart("immediate")?,
            Kind::RestartKilled => self.kill_and_start()?,
            Kind::AllSilent => self.network.silence(1),
            Kind::HalfSilent => self.network.silence(2),
            Kind::ServerFrozen => {
                self.freeze().await?;
                return Ok(Instant::now());
            }
            Kind::DiskFull => {
                self.fill_disk().await?;
                let end = Instant::now();
                if self.revive()? {
                    report.note("the server had given up, and was started again");
                }
                return Ok(end);
            }
            Kind::DatabaseClock => {
                let ahead_s = self.jump(step.is_forward)?;
                report.note(format!("the clock of the primary is {ahead_s} s ahead"));
            }
            other => return Err(format!("a primary with a standby has no fault {other:?}").into()),
        }
        Ok(began)
    }

    async fn repair(&mut self, step: &Step, _: &mut Report) -> Result<()> {
        if step.kind.is_fail_over() {
            self.rebuild().await?;
        }
        self.whole().await
    }

    fn about(&self) -> Option<String> {
        None
    }

    fn tell(&self, report: &mut Report) {
        let Pair { rewound, copied, .. } = self;
        report.note(format!("old primaries: {rewound} rewound, {} copied anew", copied.len()));
        copied.iter().take(1).for_each(|reason| report.note(reason.clone()));
    }
}
