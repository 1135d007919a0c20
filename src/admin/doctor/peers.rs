//! Peers: streams whose process is silent, and events that no process sends.

use sqlx::Pool;

use super::life::DEAD_AFTER;
use super::{Finding, Severity};
use crate::admin::view::peers::{counted, kind_of};
use crate::clock::micros;
use crate::store::{Backend, Fault, StreamCounts, hold};

const CHECK: &str = "peers";

/// Looks at peers with events or open streams. A database without peers has no finding.
pub(super) async fn peers<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let mut conn = hold(pool).await?;
    let members = B::list_members(&mut conn).await?;
    let living: Vec<&str> = members
        .iter()
        .filter(|member| member.lives(micros(DEAD_AFTER)))
        .flat_map(|member| member.report.kinds.iter().map(String::as_str))
        .collect();
    let peers = counted::<B>(&mut conn, living.iter().copied(), DEAD_AFTER).await?;
    let mut findings: Vec<Finding> = peers.iter().filter_map(silent).collect();
    let kinds: Vec<String> = peers.iter().map(|(peer, _)| kind_of(peer)).collect();
    let unrun: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| !living.contains(kind)).collect();
    let waiting = B::count_backlog(&mut conn, &unrun, 1).await?;
    findings.extend(waiting.iter().filter(|row| row.events > 0).map(|row| unsent(&row.kind)));
    if findings.is_empty() && !peers.is_empty() {
        let count = peers.len();
        findings.push(Finding::ok(CHECK, format!("{count} peers: each one with events or streams has a process")));
    }
    Ok(findings)
}

fn silent((peer, counts): &(String, StreamCounts)) -> Option<Finding> {
    let finding = || {
        Finding::new(
            Severity::Warning,
            CHECK,
            format!(
                "{} streams of peer {peer} are open in processes that have been silent for {DEAD_AFTER:?}",
                counts.silent
            ),
            format!("start a process that runs {peer}: it ends them, and their events go where the mapping says"),
        )
    };
    (counts.silent > 0).then(finding)
}

fn unsent(kind: &str) -> Finding {
    Finding::new(
        Severity::Warning,
        CHECK,
        format!("events of kind {kind} wait to be sent, and no living process runs that peer"),
        "start a process that declares the peer, such as `eventbox peer run`; `eventbox peer list` lists what runs",
    )
}
