//! Three nodes of Patroni with three members of etcd, and a proxy that asks Patroni which node leads.

mod daemon;
mod etcd;
mod fence;
mod node;
mod rest;
mod router;
pub(crate) mod settings;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::super::report::{Report, Result};
use super::cluster::Cluster;
use super::schedule::{Kind, Step};
use etcd::Etcd;
use fence::{Fence, Writes};
use node::Node;
use rest::ask;
use router::Router;
use settings::Settings;

/// Number of nodes, and of members of etcd.
pub(crate) const NODES: usize = 3;

/// Longest time from the end of a lease until the service works again, seconds: up to 1 s until etcd notices the end,
/// 2 s in which Patroni asks the old leader, 1 s for a promotion, 1 s until the proxy notices, and 2 s of the service.
const AFTER_TTL_S: f64 = 7.0;

/// Time that etcd has no majority.
const NO_MAJORITY: Duration = Duration::from_secs(15);

/// Longest time until all nodes are there, with two synchronous standbys.
const WHOLE: Duration = Duration::from_secs(180);

/// Longest time of a question for the state of the cluster.
const QUESTION: Duration = Duration::from_secs(3);

/// Longest time of a planned switch-over.
const SWITCH: Duration = Duration::from_secs(60);

/// Longest wait for another node to lead.
const MOVED: Duration = Duration::from_secs(120);

/// The cluster. The order of the fields is that of their end.
pub(crate) struct Patroni {
    router: Router,
    nodes: Vec<Node>,
    etcd: Etcd,
    settings: Settings,
    /// The writes to the node that led before the last fault.
    fence: Option<Fence>,
    /// The node that led before the last fault, and the node that the fault has hit.
    led: usize,
    hit: usize,
    /// Number of faults after which another node led.
    moved: usize,
    writes: Writes,
}

impl Patroni {
    /// Starts the cluster.
    pub(crate) async fn start(home: &Path) -> Result<Self> {
        let settings = Settings::find()?;
        let etcd = Etcd::start(home, settings.is_of_version_2()).await?;
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(Node::start(home, name, &settings, etcd.ports()).await?);
        }
        let router = Router::start(nodes.iter().map(Node::ports).collect()).await?;
        let (moved, writes) = (0, Writes::default());
        let mut cluster = Patroni { router, nodes, etcd, settings, fence: None, led: 0, hit: 0, moved, writes };
        cluster.led = cluster.whole().await?;
        Ok(cluster)
    }

    /// Waits until Patroni reports a leader and two synchronous standbys, all on one timeline, and the proxy leads to
    /// the leader. Returns the leader.
    async fn whole(&self) -> Result<usize> {
        let began = Instant::now();
        loop {
            let seen = self.seen().await;
            if let Ok(Some(leader)) = seen
                && *self.router.leader().borrow() == Some(leader)
            {
                return Ok(leader);
            }
            if began.elapsed() > WHOLE {
                return Err(format!("the nodes of Patroni do not come back: {seen:?}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the leader of a complete cluster.
    async fn seen(&self) -> Result<Option<usize>> {
        let (_, text) = ask(self.nodes[self.hit].ports().rest, "GET /cluster", "", QUESTION).await?;
        let cluster: Value = serde_json::from_str(&text)?;
        let members = cluster["members"].as_array().ok_or("Patroni lists no members")?;
        let (mut leader, mut synchronous) = (None, 0);
        for member in members {
            let is_running = member["state"] == "running" || member["state"] == "streaming";
            if !is_running || member["timeline"] != members[0]["timeline"] {
                return Ok(None);
            }
            synchronous += usize::from(member["role"] == "sync_standby");
            if member["role"] == "leader" {
                leader = self.nodes.iter().position(|node| member["name"] == node.name.as_str());
            }
        }
        let Some(leader) = leader.filter(|_| synchronous == NODES - 1 && members.len() == NODES) else {
            return Ok(None);
        };
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
        let count: usize = self.nodes[leader].server.ask(sql)?.parse()?;
        Ok((count == NODES - 1).then_some(leader))
    }

    /// Asks Patroni for a switch-over, as `patronictl switchover` does.
    async fn switch_over(&self) -> Result<()> {
        let node = &self.nodes[self.led];
        let body = serde_json::json!({"leader": node.name}).to_string();
        let (status, text) = ask(node.ports().rest, "POST /switchover", &body, SWITCH).await?;
        if status == 200 { Ok(()) } else { Err(format!("Patroni did not switch over: {status} {text}").into()) }
    }

    /// Kills two members of etcd, and starts them again after a time.
    async fn lose_majority(&mut self, member: usize) -> Result<()> {
        self.etcd.kill(member)?;
        self.etcd.kill(member + 1)?;
        sleep(NO_MAJORITY).await;
        self.etcd.revive()
    }

    /// Waits until the proxy leads to another node than before the fault. Until then the old leader may still take
    /// events, so nothing is measured before.
    async fn other_leads(&self) -> Result<()> {
        let (mut leader, led) = (self.router.leader(), self.led);
        let moved = timeout(MOVED, leader.wait_for(|leader| leader.is_some_and(|leader| leader != led)));
        _ = moved.await.map_err(|_| "Patroni lets no other node lead")??;
        Ok(())
    }

    /// Lets a frozen node continue: Postgres first, or Patroni first.
    async fn thaw(&self, step: &Step) -> Result<()> {
        let node = &self.nodes[self.hit];
        let pause = Duration::from_millis(step.notice_ms);
        if step.is_forward {
            node.server.freeze(false)?;
            sleep(pause).await;
            node.freeze_patroni(false)
        } else {
            node.freeze_patroni(false)?;
            sleep(pause).await;
            node.server.freeze(false)
        }
    }
}

impl Cluster for Patroni {
    fn url(&self) -> String {
        self.router.url()
    }

    /// The lease of the lost leader has to end first.
    fn bound_s(&self) -> f64 {
        self.settings.ttl_s as f64 + AFTER_TTL_S
    }

    async fn break_something(&mut self, step: &Step, _: &mut Report) -> Result<Instant> {
        self.hit = self.led;
        if step.kind.is_fail_over() {
            let url = self.nodes[self.led].server.url();
            self.fence = Some(Fence::watch(&url, self.led, self.router.leader()).await?);
        }
        let began = Instant::now();
        match step.kind {
            Kind::LeaderKilled => self.nodes[self.hit].server.kill()?,
            Kind::ManagerKilled => self.nodes[self.hit].kill_patroni()?,
            Kind::NodeKilled => {
                self.nodes[self.hit].kill_patroni()?;
                self.nodes[self.hit].server.kill()?;
            }
            Kind::NodeFrozen => {
                self.nodes[self.hit].server.freeze(true)?;
                self.nodes[self.hit].freeze_patroni(true)?;
            }
            Kind::PlannedSwitchOver => self.switch_over().await?,
            Kind::StoreCut => self.nodes[self.hit].cut_etcd(),
            Kind::NodeCut => self.nodes[self.hit].cut(),
            Kind::StandbyKilled => {
                self.hit = (self.led + 1 + step.victim % (NODES - 1)) % NODES;
                self.nodes[self.hit].server.kill()?;
            }
            Kind::MemberKilled => self.etcd.kill(step.victim)?,
            Kind::MajorityLost => {
                self.lose_majority(step.victim).await?;
                return Ok(Instant::now());
            }
            other => return Err(format!("a cluster of Patroni has no fault {other:?}").into()),
        }
        if step.kind.is_fail_over() {
            self.other_leads().await?;
        }
        Ok(began)
    }

    async fn repair(&mut self, step: &Step, report: &mut Report) -> Result<()> {
        if step.kind == Kind::NodeFrozen {
            self.thaw(step).await?;
        }
        self.nodes[self.hit].start_patroni()?;
        self.nodes[self.hit].mend();
        self.etcd.revive()?;
        self.etcd.healthy().await?;
        let leader = self.whole().await?;
        if let Some(fence) = self.fence.take() {
            let Writes { tried, acknowledged } = fence.end().await;
            report.wants(acknowledged == 0, format!("{}: an old leader acknowledged a write", step.kind.name()));
            self.writes.tried += tried;
            self.writes.acknowledged += acknowledged;
        }
        let leads_again = step.kind.is_fail_over() && leader == self.led;
        report.wants(!leads_again, format!("{}: the old leader leads again", step.kind.name()));
        self.moved += usize::from(leader != self.led);
        self.led = leader;
        Ok(())
    }

    fn about(&self) -> Option<String> {
        Some(self.settings.about())
    }

    fn tell(&self, report: &mut Report) {
        let Writes { tried, acknowledged } = self.writes;
        report.note(format!("another node led after {} faults", self.moved));
        report.note(format!("writes straight to old leaders: {tried} tried, {acknowledged} acknowledged"));
    }
}
