//! Full disks: a small file system in memory, which the program fills to the last byte and empties again.

use std::time::Duration;

use eventbox::{pool_options, sqlite_options};
use sqlx::Sqlite;
use tokio::time::sleep;

use crate::dead::pool;
use crate::report::{Report, Result};
use crate::server::{Server, home};
use crate::service::{Engine, Service};
use crate::small_disk::SmallDisk;

/// Time that the disk stays full.
const FULL: Duration = Duration::from_secs(8);

pub(crate) async fn run() -> Result<Vec<Report>> {
    let home = home()?;
    let (of_sqlite, of_postgres) = (home.path().join("sqlite"), home.path().join("postgres"));
    let disk = SmallDisk::mount(&of_sqlite, "48m")?;
    let options = sqlite_options(of_sqlite.join("boxes.db"));
    let pool_of = pool_options::<Sqlite>().max_connections(8).connect_with(options).await?;
    let on_sqlite = full(Report::new("full disk: SQLite"), &disk, Service::start(pool_of).await?, None).await?;
    drop(disk);
    let disk = SmallDisk::mount(&of_postgres, "160m")?;
    let server =
        Server::start(&of_postgres, "data", &["max_wal_size = '16MB'", "min_wal_size = '2MB'", "wal_keep_size = 0"])?;
    let service = Service::start(pool(&server.url(), 10).await?).await?;
    let on_postgres = full(Report::new("full disk: Postgres"), &disk, service, Some(&server)).await?;
    drop(server);
    Ok(vec![on_sqlite, on_postgres])
}

/// Fills the disk twice under load, and checks that the service works again once space is free.
async fn full<B: Engine>(
    mut report: Report,
    disk: &SmallDisk,
    service: Service<B>,
    server: Option<&Server>,
) -> Result<Report> {
    for _ in 0..2 {
        service.works_for(400).await;
        disk.fill()?;
        let before = service.acknowledged();
        // Fills the space that the database frees, too.
        for _ in 0..FULL.as_secs() {
            sleep(Duration::from_secs(1)).await;
            disk.fill()?;
        }
        report.note(format!("{} events were acknowledged on the full disk", service.acknowledged() - before));
        disk.empty()?;
        if let Some(server) = server.filter(|server| !server.is_up()) {
            report.note("the server had given up, and was started again");
            let _ = server.down("immediate");
            server.up()?;
        }
        let seconds = service.back_at_work().await;
        report.back_at_work(seconds);
    }
    service.works_for(100).await;
    service.audit(&mut report).await;
    Ok(report)
}
