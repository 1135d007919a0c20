//! `eventbox peer run`: peers of a file, in a process of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eventbox::peer::{Peer, PeerDescription, PeerState, PeerStatus, Peers, PeersFile};
use eventbox::{Backend, StopReport, prometheus};
use sqlx::Pool;

use crate::operate::Answer;
use crate::operate::args::Common;
use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, long, short, text};
use crate::operate::print::words::{NONE, counted, plain};
use crate::operate::session::Settings;
use crate::signals::asked_to_stop;

/// Interval at which the states of the peers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Number of connections to the database: emits of arrivals, turns of streams, and the loops beside them.
const CONNECTIONS: u32 = 8;

/// Runs the peers of a file, until SIGINT or SIGTERM
///
/// The command ends by itself when every peer has finished or given up, such as a peer that reads a file to its end.
/// Its messages are on standard error, because a peer may write to standard output.
///
/// At a stop nothing new is read, what was read is emitted, and streams send what waits. A second signal ends the
/// command at once: events that were not sent stay in their eventboxes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox peer run
  eventbox peer run --check --file edge/peers.toml       show what would run; exit code 2 when the file is wrong
  HUB_TOKEN=… eventbox peer run                          for token = \"${HUB_TOKEN}\" in the file
  eventbox peer run --metrics 127.0.0.1:9137 --stop-within 2m

Exit codes: 0 stopped, or finished, and everything was sent; 1 a peer gave up, or the stop left something; 2 error;
130 interrupted at the stop.")]
pub(super) struct RunArgs {
    /// File of the peers
    #[arg(long, value_name = "FILE", default_value = "peers.toml")]
    file: PathBuf,
    /// Check the file and show what would run. Needs no database
    #[arg(long)]
    check: bool,
    /// Longest time of a stop: 30s, 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    stop_within: Duration,
    /// Serve the metrics of the peers to Prometheus on this address
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

pub(super) async fn run(common: &Common, args: RunArgs) -> Result<Answer> {
    let settings = Settings::read(common)?;
    let peers = read(&args.file)?;
    if args.check {
        let peers: Vec<PeerDescription> = peers.iter().map(Peer::description).collect();
        settings.output.show(&peers, || list(&peers))?;
        return Ok(Answer::Yes);
    }
    let database = settings.needed_address()?.open_as_a_service(CONNECTIONS).await?;
    database.check_migrated().await?;
    if let Some(address) = args.metrics {
        // Before the peers, so that their counters are there from the start.
        prometheus::install(address).context("serve the metrics")?;
        note(&format!("metrics on http://{address}/metrics"));
    }
    on!(&database, pool => serve(pool.clone(), peers, args.stop_within).await)
}

fn read(file: &PathBuf) -> Result<Vec<Peer>> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read the file of peers {}", file.display()))?;
    let peers = PeersFile::parse(&text).with_context(|| file.display().to_string())?;
    ensure!(!peers.is_empty(), "{} has no peer: add a table [[peer]]", file.display());
    Ok(peers)
}

fn list(peers: &[PeerDescription]) -> String {
    let mut grid = Grid::new(&[
        short("peer"),
        short("type"),
        long("endpoint"),
        short("codec").if_any(),
        long("interceptors").if_any(),
        long("to").if_any(),
        long("linked to").if_any(),
    ]);
    for peer in peers {
        grid.row([
            text(&peer.id),
            text(peer.type_name),
            text(&peer.endpoint),
            text(peer.codec.as_deref().unwrap_or(NONE)),
            text(peer.interceptors.join(", ")),
            text(peer.to.as_deref().unwrap_or(NONE)),
            text(peer.linked_to.join(", ")),
        ]);
    }
    grid.or("The file has no peer.")
}

async fn serve<B: Backend>(pool: Pool<B>, peers: Vec<Peer>, stop_within: Duration) -> Result<Answer> {
    // Before the peers start, so that no signal is missed.
    let asked_to_stop_now = asked_to_stop()?;
    let peers = Peers::builder(pool).peers(peers).start().await?;
    tokio::select! {
        () = watch(&peers) => {}
        () = asked_to_stop_now => note("stopping; a second signal ends at once"),
    }
    let has_given_up = peers.status().iter().any(|peer| peer.state == PeerState::GaveUp);
    let asked_again = asked_to_stop()?;
    let report = tokio::select! {
        report = peers.stop(stop_within) => report,
        () = asked_again => return Ok(Answer::Interrupted),
    };
    tell(&report);
    Ok(if report.complete && !has_given_up { Answer::Yes } else { Answer::No })
}

/// Tells each change of a peer, and returns when no peer will do anything more.
async fn watch<B: Backend>(peers: &Peers<B>) {
    let mut told: Vec<PeerStatus> = Vec::new();
    loop {
        let status = peers.status();
        for (index, peer) in status.iter().enumerate() {
            let is_new = |old: &&PeerStatus| old.state == peer.state && old.error == peer.error;
            if told.get(index).filter(is_new).is_none()
                && let Some(line) = line(peer)
            {
                note(&line);
            }
        }
        let mut others = status.iter().filter(|peer| peer.state != PeerState::Idle).peekable();
        if others.peek().is_some() && others.all(|peer| peer.state.has_ended()) {
            return;
        }
        told = status;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns what to tell of a peer. The error may have foreign text.
fn line(peer: &PeerStatus) -> Option<String> {
    let error = peer.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let state = match peer.state {
        PeerState::Connected => "connected".to_owned(),
        PeerState::Finished => "finished".to_owned(),
        PeerState::GaveUp => format!("gave up{error}"),
        PeerState::Connecting if error.is_empty() => return None,
        PeerState::Connecting => format!("not connected, and tries again{error}"),
        _ => return None,
    };
    Some(plain(&format!("peer {} ({} at {}): {state}", peer.id, peer.type_name, peer.endpoint)))
}

fn tell(report: &StopReport) {
    if report.left > 0 {
        let streams = counted(report.left as u64, "stream", "streams");
        note(&format!("{streams} had not sent everything: the events wait in their eventboxes"));
    }
    if report.interrupted > 0 {
        note(&format!("{} cut off", counted(report.interrupted as u64, "connection was", "connections were")));
    }
    if report.complete {
        note("stopped");
    }
}
