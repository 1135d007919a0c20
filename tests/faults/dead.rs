//! Dead connections.

use std::time::Duration;

use eventbox::{pool_options, postgres_options};
use sqlx::{PgPool, Postgres};
use tokio::time::sleep;

use crate::proxy::Proxy;
use crate::report::{Report, Result};
use crate::server::{Server, home};
use crate::service::Service;

/// Time that a server stays frozen.
const FROZEN: Duration = Duration::from_secs(12);

pub(crate) async fn pool(url: &str, connections: u32) -> Result<PgPool> {
    let options = postgres_options(url)?;
    Ok(pool_options::<Postgres>().max_connections(connections).connect_with(options).await?)
}

pub(crate) async fn run() -> Result<Vec<Report>> {
    let home = home()?;
    let mut reports = Vec::new();
    for (case, one_in) in [("dead connections: all", 1), ("dead connections: one in two", 2)] {
        let server = Server::start(home.path(), &format!("one_in_{one_in}"), &[])?;
        let proxy = Proxy::start(server.port).await?;
        let mut report = Report::new(case);
        let service = Service::start(pool(&proxy.url(), 10).await?).await?;
        for _ in 0..2 {
            service.works_for(300).await;
            proxy.silence(one_in);
            let seconds = service.back_at_work().await;
            report.back_at_work(seconds);
        }
        service.works_for(100).await;
        service.audit(&mut report).await;
        reports.push(report);
    }
    reports.push(frozen(home.path()).await?);
    Ok(reports)
}

/// Freezes the server and lets it continue, which looks like a network failure to the service.
async fn frozen(home: &std::path::Path) -> Result<Report> {
    let server = Server::start(home, "frozen", &[])?;
    let mut report = Report::new("dead connections: a frozen server");
    let service = Service::start(pool(&server.url(), 10).await?).await?;
    service.works_for(300).await;
    server.freeze(true)?;
    sleep(FROZEN).await;
    server.freeze(false)?;
    let seconds = service.back_at_work().await;
    report.back_at_work(seconds);
    service.works_for(100).await;
    service.audit(&mut report).await;
    Ok(report)
}
