//! `eventbox serve`: the page of the operator, the shard API, and the numbers of the database for Prometheus.

mod shards;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use eventbox::admin::{self, Gauges};
use eventbox::dashboard::{self, DEFAULT_ADDRESS, DashboardError, DashboardHandle, DashboardOptions};
use eventbox::prometheus;
use eventbox::shard_api::ShardServerHandle;

use super::connect::{Database, on};
use super::print::note;
use super::session::Session;
use super::{Answer, Run};
use crate::signals::asked_to_stop;

/// Time for the requests in flight at a stop.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Interval at which the gauges of the database are read.
const OBSERVE_EVERY: Duration = Duration::from_secs(10);

/// Serves the page of the operator, until SIGINT or SIGTERM
///
/// Without a token and without a trusted header the page listens on loopback addresses only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox serve                                         http://127.0.0.1:8137, for this machine only
  eventbox serve --read-only
  EVENTBOX_TOKEN=$(openssl rand -hex 16) eventbox serve --listen 0.0.0.0:8137
  eventbox serve --listen 0.0.0.0:8137 --trusted-header x-forwarded-user   behind a proxy that sets the header
  eventbox serve --metrics 127.0.0.1:9137                gauges of the database for Prometheus
  eventbox serve --shard-api 127.0.0.1:8138              shards over gRPC (proto/consumer.proto)")]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free port
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDRESS)]
    listen: String,
    /// Token that a person must give to log in, at least 16 bytes
    #[arg(long, value_name = "TOKEN", env = "EVENTBOX_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Header in which a reverse proxy sends the name of the person; it goes into the log of operations
    #[arg(long, value_name = "NAME")]
    trusted_header: Option<String>,
    /// Host that the page answers for besides loopback names; repeatable
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Path below which a reverse proxy serves the page
    #[arg(long, value_name = "PATH")]
    base_path: Option<String>,
    /// Title of the page, such as the name of the service
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Show everything and change nothing
    #[arg(long)]
    read_only: bool,
    /// Serve the gauges of the database to Prometheus on this address
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Serve the shard API (gRPC) on this address; clients send the token as `authorization: Bearer TOKEN`
    #[arg(long, value_name = "ADDR")]
    shard_api: Option<SocketAddr>,
}

impl ServeArgs {
    fn options(&self) -> DashboardOptions {
        let mut options = DashboardOptions::default().with_read_only(self.read_only);
        if let Some(token) = &self.token {
            options = options.with_token(token);
        }
        if let Some(header) = &self.trusted_header {
            options = options.with_trusted_header(header);
        }
        if let Some(path) = &self.base_path {
            options = options.with_base_path(path);
        }
        if let Some(title) = &self.title {
            options = options.with_title(title);
        }
        if let Ok(user) = std::env::var("USER") {
            options = options.with_operator(user);
        }
        self.host.iter().fold(options, |options, host| options.with_host(host))
    }
}

impl Run for ServeArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        if let Some(address) = self.shard_api {
            shards::check(address, self.token.as_deref())?;
        }
        // Before the server starts, so that no signal is missed.
        let asked_to_stop = asked_to_stop()?;
        let served = on!(&session.database, pool => {
            dashboard::serve(pool.clone(), self.options(), self.listen.as_str()).await
        });
        let served = served.map_err(|error| match error {
            // The words of the library name its functions.
            DashboardError::Open { address } => anyhow!(
                "other machines can reach {address}, and everybody would be let in: give --token or --trusted-header, \
                 or listen on a loopback address such as {DEFAULT_ADDRESS}"
            ),
            error => error.into(),
        })?;
        note(&format!("serving http://{}", served.local_addr()));
        if let Some(address) = self.metrics {
            prometheus::install(address).context("serve the metrics")?;
            note(&format!("metrics on http://{address}/metrics"));
        }
        let shards = match self.shard_api {
            Some(address) => {
                Some(shards::serve(&session.database, address, self.token.as_deref(), self.read_only).await?)
            }
            None => None,
        };
        let observing = observe(&session.database, self.metrics.is_some());
        tokio::select! {
            () = observing => {}
            () = asked_to_stop => {}
        }
        stop(&served, shards.as_ref()).await;
        Ok(Answer::Yes)
    }
}

async fn stop(served: &DashboardHandle, shards: Option<&ShardServerHandle>) {
    let stop_shards = async {
        match shards {
            Some(shards) => shards.stop(STOP_WAIT).await.complete,
            None => true,
        }
    };
    let (page, are_shards_complete) = tokio::join!(served.stop(STOP_WAIT), stop_shards);
    if !(page.complete && are_shards_complete) {
        note("some requests were cut off");
    }
}

/// Sets the gauges of the database at every interval, for ever.
async fn observe(database: &Database, is_wanted: bool) {
    if !is_wanted {
        return std::future::pending().await;
    }
    let mut gauges = Gauges::default();
    loop {
        match on!(database, pool => admin::overview(pool).await) {
            Ok(overview) => gauges.set(&overview),
            Err(error) => note(&format!("eventbox: the gauges are not current: {error}")),
        }
        tokio::time::sleep(OBSERVE_EVERY).await;
    }
}
