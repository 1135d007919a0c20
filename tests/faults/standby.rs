//! A synchronous standby: after a fail-over every acknowledged event exists, and every delivered message has its turn.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::dead::pool;
use crate::proxy::Proxy;
use crate::report::{Report, Result};
use crate::server::{Server, home};
use crate::service::Service;

/// Time that commits wait for the stopped standby before they are interrupted.
const WAITING: Duration = Duration::from_secs(2);

/// Time after an interruption in which the program counts the messages that leave.
const WATCHED: Duration = Duration::from_secs(6);

/// Interruption of the commits that wait for the standby.
#[derive(Clone, Copy)]
enum Interruption {
    None,
    /// An operator terminates their backends, one by one.
    Terminated,
    /// An operator restarts the primary, as after a change of a setting.
    Restarted,
}

pub(crate) async fn run() -> Result<Vec<Report>> {
    let home = home()?;
    let mut reports = Vec::new();
    for (name, case, interruption) in [
        ("plain", "standby: a fail-over under load", Interruption::None),
        ("terminated", "standby: commits of terminated backends", Interruption::Terminated),
        ("restarted", "standby: commits that a restart interrupts", Interruption::Restarted),
    ] {
        reports.push(fail_over(home.path(), name, case, interruption).await?);
    }
    Ok(reports)
}

async fn fail_over(home: &std::path::Path, name: &str, case: &str, interruption: Interruption) -> Result<Report> {
    let primary = Server::start(home, &format!("{name}_primary"), &["synchronous_commit = on"])?;
    let standby = primary.standby(home, &format!("{name}_standby"))?;
    primary.configure(&["synchronous_standby_names = '*'"])?;
    primary.reload()?;
    while primary.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")? != "1" {
        sleep(Duration::from_millis(50)).await;
    }
    let proxy = Proxy::start(primary.port).await?;
    let mut report = Report::new(case);
    let service = Service::start(pool(&proxy.url(), 10).await?).await?;
    service.works_for(500).await;
    match interruption {
        Interruption::None => {}
        Interruption::Terminated => {
            standby.down("immediate")?;
            sleep(WAITING).await;
            let delivered = service.delivered();
            let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let watched = Instant::now();
            let mut terminated = 0;
            while watched.elapsed() < WATCHED {
                terminated += primary.ask(waiting)?.parse::<usize>()?;
                sleep(Duration::from_millis(500)).await;
            }
            report.note(format!("{terminated} waiting commits were terminated"));
            report.wants(terminated > 0, "no commit waited for the standby");
            nothing_left(&mut report, delivered, &service);
        }
        Interruption::Restarted => {
            standby.down("immediate")?;
            sleep(WAITING).await;
            let delivered = service.delivered();
            primary.down("fast")?;
            primary.up()?;
            sleep(WATCHED).await;
            nothing_left(&mut report, delivered, &service);
        }
    }
    let began = Instant::now();
    primary.down("immediate")?;
    if !matches!(interruption, Interruption::None) {
        standby.up()?;
    }
    standby.promote()?;
    report.note(format!("promoted {:.1} s after the primary's end", began.elapsed().as_secs_f64()));
    proxy.lead_to(standby.port);
    let seconds = service.back_at_work().await;
    report.back_at_work(seconds);
    service.works_for(300).await;
    service.audit(&mut report).await;
    Ok(report)
}

/// Checks that no message left while the standby was stopped. Its turn would exist on the primary only.
fn nothing_left(report: &mut Report, before: usize, service: &Service<sqlx::Postgres>) {
    let left = service.delivered() - before;
    report.note(format!("{left} messages left while the standby was away"));
    report.wants(left == 0, format!("{left} messages left that only the primary had"));
}
