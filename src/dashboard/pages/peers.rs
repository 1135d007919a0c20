//! Peers, and the open streams of one.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::{PeerView, StreamView};
use crate::dashboard::html::parts::{badge, dash, paging, plain, table, when, when_any};
use crate::dashboard::html::{Sheet, Tab, answer, text};
use crate::dashboard::web::{Call, Ctx, Failure, PAGE_ROWS};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Peers, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let peers = call.database().peers().await?;
    let streams = match call.query.get("peer") {
        Some(peer) => Some((peer, call.database().streams(peer, call.query.get("after")).await?)),
        None => None,
    };
    let body = html! {
        (list(call, &peers))
        @if let Some((peer, streams)) = streams { (streams_of(call, peer, &streams)) }
    };
    Ok(Sheet::new("Peers", body))
}

fn list(call: &Call, peers: &[PeerView]) -> Markup {
    let row = |peer: &PeerView| {
        let kind = format!("peer.{}", peer.peer);
        let waiting = call.link("/recipients", &[("kind", &kind), ("only", "waiting")]);
        vec![
            html! { a href=(call.link("/peers", &[("peer", &peer.peer)])) { (peer.peer) } },
            plain(peer.streams),
            when_any(peer.first_started_at),
            html! { a href=(waiting) { (peer.waiting.to_string()) } },
            html! {
                @for process in &peer.processes { p { (process.address) } }
                @if peer.processes.is_empty() { (dash()) }
            },
            html! {
                @if peer.processes.is_empty() { (badge("bad", "no process")) }
                @if peer.silent.number > 0 { (badge("bad", &format!("{} silent", peer.silent))) }
                @if !peer.processes.is_empty() && peer.silent.number == 0 { (dash()) }
            },
        ]
    };
    table(
        "peers",
        "Peers with their open streams",
        &["Peer", "Open streams", "First since", "Waiting", "Processes", "Condition"],
        &peers.iter().map(row).collect::<Vec<_>>(),
        "No peer has open streams or events, and no process runs one.",
    )
}

fn streams_of(call: &Call, peer: &str, streams: &[StreamView]) -> Markup {
    let row = |stream: &StreamView| {
        let of = format!("peer.{}/{}", stream.peer, stream.stream);
        vec![
            html! { a href=(call.link("/recipient", &[("r", &of)])) { (stream.stream) } },
            when(stream.started_at),
            plain(stream.waiting),
            process(stream),
            html! {
                @if stream.facts.is_empty() { (dash()) }
                @for (key, value) in &stream.facts { p { (key) ": " (value) } }
            },
        ]
    };
    let last = streams.last().filter(|_| streams.len() >= PAGE_ROWS as usize);
    let next = last.map(|last| call.link("/peers", &[("peer", peer), ("after", &last.stream)]));
    let first = call.query.get("after").map(|_| call.link("/peers", &[("peer", peer)]));
    html! {
        section aria-labelledby="streams-headline" {
            h2 #streams-headline { "Open streams of " (peer) }
            (table(
                "streams",
                "Open streams of the peer",
                &["Stream", "Open since", "Waiting", "Process", "Facts"],
                &streams.iter().map(row).collect::<Vec<_>>(),
                "The peer has no open stream.",
            ))
            (paging(first.as_deref(), next.as_deref()))
        }
    }
}

/// Returns the process that has the connection of a stream.
pub(super) fn process(stream: &StreamView) -> Markup {
    html! {
        @match &stream.address {
            Some(address) => (address),
            None => code { (stream.worker.to_string()) },
        }
        @if !stream.is_alive {
            " " (badge("bad", "silent"))
            @if let Some(silent_for) = stream.silent_for { " for " (text::duration(silent_for)) }
        }
    }
}
