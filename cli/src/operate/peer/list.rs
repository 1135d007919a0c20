//! `eventbox peer list` and `eventbox peer streams`.

use anyhow::Result;
use eventbox::admin::{self, PeerView, StreamView};

use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{relative, relative_or_none, span};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the peers: open streams, events that wait to be sent, processes
///
/// A peer is listed while it has open streams or events, or a process runs it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox peer list
  eventbox peer list --json | jq -r '.[] | select(.processes == []) | .peer'   peers that no process runs")]
pub(super) struct ListArgs {}

/// Lists the open streams of a peer: process, start, facts, events that wait
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox peer streams chat
  eventbox peer streams chat --limit 1000 --json | jq '.[] | select(.waiting.number > 0)'
  eventbox peer streams chat --after 0190f3c07b2e        the next page
  eventbox why peer.chat/0190f3c07b2e                    why the events of a stream wait")]
pub(super) struct StreamsArgs {
    /// Id of the peer
    peer: String,
    /// Show the streams behind this one
    #[arg(long, value_name = "STREAM")]
    after: Option<String>,
    /// Largest number of streams, at most 1,000
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

impl Run for ListArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let peers = on!(&session.database, pool => admin::peers(pool).await)?;
        session.output().show(&peers, || list(&peers))?;
        Ok(Answer::Yes)
    }
}

impl Run for StreamsArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let after = self.after.as_deref();
        let streams = on!(&session.database, pool => admin::streams(pool, &self.peer, after, self.limit).await)?;
        session.output().show(&streams, || list_streams(&streams))?;
        let is_full = streams.len() >= self.limit.clamp(1, admin::MAX_STREAMS) as usize;
        if let Some(last) = streams.last().filter(|_| is_full) {
            note(&format!("There may be more: eventbox peer streams {} --after {}", self.peer, last.stream));
        }
        Ok(Answer::Yes)
    }
}

fn list(peers: &[PeerView]) -> String {
    let mut grid = Grid::new(&[
        short("peer"),
        number("streams"),
        number("silent").if_any(),
        short("since"),
        number("waiting"),
        long("processes"),
    ]);
    for peer in peers {
        let addresses: Vec<&str> = peer.processes.iter().map(|process| process.address.as_str()).collect();
        let (processes, tone) = match addresses.is_empty() {
            true => ("no process runs it".to_owned(), Tone::Warning),
            false => (addresses.join(", "), Tone::Plain),
        };
        grid.row([
            text(&peer.peer),
            text(peer.streams.to_string()),
            cell(peer.silent.to_string(), Tone::when(peer.silent.number > 0, Tone::Warning)),
            text(relative_or_none(peer.first_started_at)),
            text(peer.waiting.to_string()),
            cell(processes, tone),
        ]);
    }
    grid.or("No peer has open streams or events, and no process runs one.")
}

fn list_streams(streams: &[StreamView]) -> String {
    let mut grid = Grid::new(&[
        short("stream"),
        short("since"),
        number("waiting"),
        short("process"),
        long("facts").if_any(),
        long("remarks").if_any(),
    ]);
    for stream in streams {
        let facts: Vec<String> = stream.facts.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let remark = match (stream.is_alive, stream.silent_for) {
            (true, _) => String::new(),
            (false, Some(silent_for)) => format!("its process has been silent for {}", span(silent_for)),
            (false, None) => "its process is no member any more".to_owned(),
        };
        grid.row([
            text(&stream.stream),
            text(relative(stream.started_at)),
            text(stream.waiting.to_string()),
            text(stream.address.clone().unwrap_or_else(|| stream.worker.to_string())),
            text(facts.join(" ")),
            cell(remark, Tone::Warning),
        ]);
    }
    grid.or("The peer has no open stream.")
}
