//! Three members of etcd, which hold the lease of the leader.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::super::report::Result;
use super::super::super::server::{folder_of_servers, free_port};
use super::NODES;
use super::daemon::Daemon;
use super::rest::ask;

/// Longest time until all members agree.
const HEALTHY: Duration = Duration::from_secs(60);

/// Longest time of a question for the health of a member.
const QUESTION: Duration = Duration::from_secs(3);

/// A member.
struct Member {
    /// Port of its clients.
    port: u16,
    arguments: Vec<String>,
    log: PathBuf,
    /// The process; `None` while the member is down.
    daemon: Option<Daemon>,
}

/// All members.
pub(crate) struct Etcd(Vec<Member>);

impl Etcd {
    /// Creates the members and starts them. They may understand the protocol of version 2, too.
    pub(crate) async fn start(home: &Path, version_2: bool) -> Result<Self> {
        let ports = (0..NODES).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<Vec<_>>>()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<_> = ports.iter().zip(0..).map(|((_, peer), at)| format!("{at}={}", url(*peer))).collect();
        let mut members = Vec::new();
        for ((port, peer), at) in ports.iter().zip(0..) {
            let data = home.join(format!("etcd-{at}"));
            let options = [
                ("--name", format!("{at}")),
                ("--data-dir", folder_of_servers(&data)?.display().to_string()),
                ("--listen-client-urls", url(*port)),
                ("--advertise-client-urls", url(*port)),
                ("--listen-peer-urls", url(*peer)),
                ("--initial-advertise-peer-urls", url(*peer)),
                ("--initial-cluster", all.join(",")),
                ("--log-level", "warn".to_owned()),
            ];
            let version_2 = version_2.then_some("--enable-v2".to_owned());
            let arguments =
                options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).chain(version_2).collect();
            members.push(Member { port: *port, arguments, log: data.with_extension("log"), daemon: None });
        }
        let mut etcd = Etcd(members);
        etcd.revive()?;
        etcd.healthy().await?;
        Ok(etcd)
    }

    /// Returns the ports of the members.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|member| member.port)
    }

    /// Kills a member.
    pub(crate) fn kill(&mut self, member: usize) -> Result<()> {
        match self.0[member % NODES].daemon.take() {
            Some(mut daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    /// Starts the members that are down.
    pub(crate) fn revive(&mut self) -> Result<()> {
        for member in self.0.iter_mut().filter(|member| member.daemon.is_none()) {
            member.daemon = Some(Daemon::start("etcd", &member.arguments, &member.log)?);
        }
        Ok(())
    }

    /// Waits until every member takes part.
    pub(crate) async fn healthy(&self) -> Result<()> {
        let began = Instant::now();
        for member in &self.0 {
            while !ask(member.port, "GET /health", "", QUESTION).await.is_ok_and(|(status, _)| status == 200) {
                if began.elapsed() > HEALTHY {
                    let log = std::fs::read_to_string(&member.log).unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(3).collect();
                    return Err(format!("a member of etcd does not take part; its log ends with {last:?}").into());
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}
