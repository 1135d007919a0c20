//! PgBouncer: session mode works. The library refuses the other modes at the start.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use eventbox::{pool_options, postgres_options};
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, Postgres};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::report::{Report, Result};
use crate::server::{Account, Server, free_port, home};
use crate::service::Service;

/// Environment variable that names the program instead of `pgbouncer`.
const PROGRAM: &str = "PGBOUNCER";

/// Longest time until a pooler listens.
const START: Duration = Duration::from_secs(20);

/// A running pooler. Dropping it ends the process.
struct Pooler {
    process: Child,
    port: u16,
}

impl Pooler {
    async fn start(home: &Path, server: &Server, mode: &str, more: &str) -> Result<Self> {
        let (account, port) = (Account::of_servers()?, free_port()?);
        let (users, settings) = (home.join(format!("users-{port}")), home.join(format!("pooler-{port}.ini")));
        std::fs::write(&users, "\"postgres\" \"\"\n")?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = 20\n\
             max_client_conn = 200\nlogfile = {}\n{more}\n",
            server.port,
            users.display(),
            home.join(format!("pooler-{port}.log")).display(),
        );
        // Any user may connect; the pooler uses the user of the database's line.
        let text = text.replace(&format!("port={}\n", server.port), &format!("port={} user=postgres\n", server.port));
        std::fs::write(&settings, text)?;
        account.own(&users)?;
        account.own(&settings)?;
        let program = std::env::var(PROGRAM).unwrap_or_else(|_| "pgbouncer".to_owned());
        let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"];
        let found = found.iter().map(|folder| Path::new(folder).join(&program)).find(|path| path.exists());
        let path =
            found.ok_or(format!("{program} was not found: install the package pgbouncer, or name it in {PROGRAM}"))?;
        let mut command = account.command(path);
        let process = command.arg("-q").arg(&settings).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (mut pooler, began) = (Pooler { process, port }, Instant::now());
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if began.elapsed() > START || pooler.process.try_wait()?.is_some() {
                return Err("the pooler does not listen".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(pooler)
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn pool(&self, connections: u32) -> Result<PgPool> {
        Ok(pool_of(postgres_options(&self.url())?, connections))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pool_of(options: PgConnectOptions, connections: u32) -> PgPool {
    let options_of_pool = pool_options::<Postgres>().max_connections(connections);
    options_of_pool.acquire_timeout(Duration::from_secs(20)).connect_lazy_with(options)
}

pub(crate) async fn run() -> Result<Vec<Report>> {
    let home = home()?;
    let server = Server::start(home.path(), "pooled", &[])?;
    let session = Pooler::start(home.path(), &server, "session", "").await?;
    let mut reports = vec![works(&session).await?, startup(&session).await?];
    for mode in ["transaction", "statement"] {
        let pooler = Pooler::start(home.path(), &server, mode, "").await?;
        reports.push(refused(mode, &pooler).await?);
    }
    let narrow = Pooler::start(home.path(), &server, "transaction", "max_db_connections = 1").await?;
    reports.push(refused("transaction, one server,", &narrow).await?);
    Ok(reports)
}

/// Runs a service under load in session mode.
async fn works(pooler: &Pooler) -> Result<Report> {
    let mut report = Report::new("pooler: session mode");
    let service = Service::start(pooler.pool(8)?).await?;
    service.works_for(1_000).await;
    service.audit(&mut report).await;
    Ok(report)
}

/// Checks that the error about a startup parameter of sqlx names `postgres_options` as the way out.
async fn startup(pooler: &Pooler) -> Result<Report> {
    let mut report = Report::new("pooler: a parameter that it refuses");
    let checked = eventbox::check(&pool_of(pooler.url().parse()?, 2)).await;
    let said = checked.err().map(|error| error.to_string()).unwrap_or_default();
    report.note(said.clone());
    report.wants(said.contains("postgres_options"), format!("check does not say what to do: {said:?}"));
    Ok(report)
}

/// Checks that a pooler that shares servers between sessions is refused, also while many other clients use it.
async fn refused(mode: &str, pooler: &Pooler) -> Result<Report> {
    let mut report = Report::new(format!("pooler: {mode} mode"));
    for connections in [1, 4] {
        for others in [0, 6] {
            let noise = pooler.pool(others.max(1))?;
            let busy: Vec<_> = (0..others)
                .map(|_| {
                    let noise = noise.clone();
                    tokio::spawn(async move {
                        loop {
                            let _ = sqlx::raw_sql("SELECT pg_sleep(0.002)").execute(&noise).await;
                        }
                    })
                })
                .collect();
            for _ in 0..5 {
                let pool = pooler.pool(connections)?;
                let migrated = eventbox::migrate(&pool).await;
                let said = migrated.err().map(|error| error.to_string()).unwrap_or_default();
                report
                    .wants(said.contains("pool_mode = session"), format!("{connections}, {others}: it said {said:?}"));
                pool.close().await;
            }
            busy.iter().for_each(tokio::task::JoinHandle::abort);
        }
    }
    Ok(report)
}
