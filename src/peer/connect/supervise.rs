//! Runs the connector of a peer: one life of its connection after the other.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::peer::connect::links::Demand;
use crate::peer::connect::session::Session;
use crate::peer::core::Core;
use crate::peer::error::ConnectorError;
use crate::peer::stream::id::StreamId;
use crate::text::Chain;

/// Runs lives until the peer stops, gives up, or is finished.
pub(in crate::peer) async fn run(core: Arc<Core>, stream: StreamId, stopping: CancellationToken) {
    let mut failures = 0_u32;
    loop {
        let session = Session::new(&core, stream.clone(), stopping.clone());
        let life = session.life();
        let ended = core.declared.connector.run(session).await;
        let Err(error) = ended else {
            tracing::info!(peer = core.id(), %stream, "peer is finished");
            core.update_status(|status| status.is_finished = !stopping.is_cancelled());
            return;
        };
        if stopping.is_cancelled() {
            return;
        }
        failures = if life.was_healthy() { 1 } else { failures.saturating_add(1) };
        note_failure(&core, &stream, &error, life.was_connected());
        let attempts = core.status().attempts;
        let pause = core.declared.reconnect.pause(&attempts, failures, life.was_connected());
        let Some(pause) = pause.filter(|_| !error.is_permanent()) else {
            tracing::error!(peer = core.id(), %stream, error = %Chain(&error), "peer gives up: mend it, and start it again");
            core.update_status(|status| status.gave_up = true);
            return;
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn note_failure(core: &Core, stream: &StreamId, error: &ConnectorError, was_connected: bool) {
    let text = Chain(error).to_string();
    tracing::warn!(peer = core.id(), %stream, error = text, was_connected, "a connection failed");
    core.update_status(|status| {
        if !was_connected {
            status.attempts.failed();
        }
        status.error = Some(text);
    });
    if !was_connected {
        core.metrics.attempted(false);
    }
}

/// Runs a client once for each stream of the peers that link to it.
pub(in crate::peer) async fn run_linked(core: Arc<Core>, mut demands: mpsc::UnboundedReceiver<Demand>) {
    let mut lives = JoinSet::new();
    let mut open: HashMap<StreamId, CancellationToken> = HashMap::new();
    loop {
        tokio::select! {
            demand = demands.recv() => match demand {
                Some(Demand::Open(id)) => {
                    let stopping = core.stopping.child_token();
                    open.insert(id.clone(), stopping.clone());
                    let core = Arc::clone(&core);
                    lives.spawn(async move {
                        run(core, id.clone(), stopping).await;
                        id
                    });
                }
                Some(Demand::Close(id)) => {
                    if let Some(stopping) = open.remove(&id) {
                        close(&core, &id, &stopping);
                    }
                }
                None => break,
            },
            Some(ended) = lives.join_next() => {
                if let Ok(id) = ended {
                    open.remove(&id);
                }
            }
            () = core.stopping.cancelled() => break,
        }
    }
    while lives.join_next().await.is_some() {}
}

/// Lets a linked stream send what waits, and end.
fn close(core: &Core, id: &StreamId, stopping: &CancellationToken) {
    stopping.cancel();
    if let Some(stream) = core.stream(id.as_str()) {
        stream.delivery.close();
    }
}
