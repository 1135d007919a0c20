//! The proxy before the nodes: it asks the REST API of each node whether the node leads, as HAProxy does in production.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::super::super::proxy::Proxy;
use super::super::super::report::Result;
use super::rest::ask;

/// Time between two checks of a node, and the longest time until its answer: `inter` and `timeout check` of HAProxy.
const EVERY: Duration = Duration::from_secs(1);

/// Number of failed checks after which a node is down: `fall`. One good check makes it lead (`rise 1`).
const FALL: u32 = 2;

/// The ports of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) rest: u16,
    pub(crate) server: u16,
}

/// The proxy. Connections to a node that is down are closed (`on-marked-down shutdown-sessions`).
pub(crate) struct Router {
    url: String,
    leader: watch::Receiver<Option<usize>>,
}

impl Router {
    /// Starts the checks.
    pub(crate) async fn start(nodes: Vec<Ports>) -> Result<Self> {
        let proxy = Proxy::start(0).await?;
        proxy.refuse();
        let (sender, leader) = watch::channel(None);
        let router = Router { url: proxy.url(), leader };
        tokio::spawn(check(proxy, nodes, sender));
        Ok(router)
    }

    /// Returns the address that leads to the leader.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns the node to which the proxy leads.
    pub(crate) fn leader(&self) -> watch::Receiver<Option<usize>> {
        self.leader.clone()
    }
}

/// Checks the nodes until nobody is interested in the leader.
async fn check(proxy: Proxy, nodes: Vec<Ports>, leader: watch::Sender<Option<usize>>) {
    let mut failed = vec![FALL; nodes.len()];
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !leader.is_closed() {
        ticks.tick().await;
        let answers = join_all(nodes.iter().map(|node| ask(node.rest, "OPTIONS /primary", "", EVERY))).await;
        for (failed, answer) in failed.iter_mut().zip(answers) {
            let leads = answer.is_ok_and(|(status, _)| status == 200);
            *failed = if leads { 0 } else { FALL.min(*failed + 1) };
        }
        let before = *leader.borrow();
        let kept = before.filter(|node| failed[*node] < FALL);
        let now = kept.or_else(|| failed.iter().position(|failed| *failed == 0));
        if now != before {
            match now {
                Some(node) => proxy.lead_to(nodes[node].server),
                None => proxy.refuse(),
            }
            proxy.close();
            leader.send_replace(now);
        }
    }
}
