//! Looks after what no connection looks after: streams whose process has died, and events for streams that are closed
//! or were never open. It also exports the gauges of idle peers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::heartbeat::Beat;
use crate::peer::boxes::door::{Fate, MAX_SWEPT};
use crate::peer::core::Core;
use crate::peer::declare::mapping::Undelivered;
use crate::peer::error::PeerError;
use crate::peer::stream::facts::{EndReason, StreamFacts, StreamSignal};
use crate::peer::stream::id::StreamId;
use crate::recipient::Recipient;
use crate::store::StreamRow;

/// Sweeps all peers every `pause`, until `stopping`.
pub(in crate::peer) async fn run(cores: Vec<Arc<Core>>, pause: Duration, stopping: CancellationToken, beat: Beat) {
    let mut swept: Vec<_> = cores.into_iter().map(|core| (core, None)).collect();
    while !stopping.is_cancelled() {
        {
            let _busy = beat.busy();
            for (core, after) in &mut swept {
                core.export();
                if let Err(error) = sweep(core, after).await {
                    tracing::warn!(peer = core.id(), %error, "lost streams and unsent events wait for the next look");
                }
            }
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks at lost streams, and at one page of eventboxes: those behind `after`.
async fn sweep(core: &Core, after: &mut Option<Recipient>) -> Result<()> {
    for row in core.door.lost(core.id()).await? {
        // This process lives, however late its heartbeat is.
        if row.worker == core.door.worker() && core.stream(&row.stream).is_some() {
            continue;
        }
        if let Err(error) = end_lost(core, &row).await {
            tracing::warn!(peer = core.id(), stream = row.stream, %error, "a lost stream was not ended");
        }
    }
    undelivered(core, after).await
}

/// Ends a stream whose process has died.
async fn end_lost(core: &Core, row: &StreamRow) -> Result<(), PeerError> {
    let id = StreamId::new(&row.stream)?;
    let peer = core.id().to_owned();
    let signal = StreamSignal::Ended { peer, stream: id.clone(), reason: EndReason::Lost };
    let template = core.declared.mapping.signals.as_ref();
    let name = format!("ended:{}", StreamId::unique());
    let event = core.signal_event(template, &id, &StreamFacts::new(), &name, signal.to_json());
    let closed = core.door.close(core.id(), &id, row.worker, event.as_ref()).await;
    if closed.map_err(|source| PeerError::store(format!("end lost stream {id} of peer {}", core.id()), source))? {
        tracing::warn!(peer = core.id(), stream = %id, worker = %row.worker, "a process died with a stream");
        core.metrics.ended(&EndReason::Lost);
        let _ = core.signals.send(signal);
    }
    Ok(())
}

/// Does with the events of closed streams what the mapping says.
async fn undelivered(core: &Core, after: &mut Option<Recipient>) -> Result<()> {
    if core.undelivered() == Undelivered::Keep {
        return Ok(());
    }
    let page = core.door.waiting(&core.kind(), after.as_ref()).await?;
    let is_last = page.len() < MAX_SWEPT as usize;
    *after = page.last().filter(|_| !is_last).map(|(last, _)| last.clone());
    for (to, _) in &page {
        if core.stream(to.key()).is_none()
            && core.door.stream(core.id(), to.key()).await?.is_none()
            && let Err(error) = of_closed(core, to).await
        {
            // It may be paused. It holds up no other.
            tracing::warn!(peer = core.id(), stream = to.key(), %error, "events of a closed stream wait");
        }
    }
    Ok(())
}

async fn of_closed(core: &Core, to: &Recipient) -> Result<()> {
    let undelivered = core.undelivered();
    let Some(fate) = Fate::of(&undelivered, core.id(), to.key(), core.any_stream()) else { return Ok(()) };
    loop {
        match core.door.dispose(to, &fate).await {
            Ok(0) => return Ok(()),
            Ok(count) => {
                core.metrics.unroutable(count);
                tracing::warn!(peer = core.id(), stream = to.key(), count, ?undelivered, "events of a closed stream");
                // Events for no stream at all: what sends them should notice.
                if core.any_stream().is_none() {
                    core.flow.trip();
                }
            }
            Err(error) if error.is_contention() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
