//! Lets the streams of a peer send what waits when the peer stops.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::error::Result;
use crate::eventbox::EventId;
use crate::peer::core::{Core, OpenStream};
use crate::recipient::Recipient;

/// Pause between the first two looks at the eventboxes.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Closes each stream of a peer once its events of before now are sent, and all streams at `until`.
///
/// Returns the number of streams that did not send everything.
pub(in crate::peer) async fn drain(core: &Core, until: Instant) -> usize {
    let left = match timeout_at(until, all_sent(core)).await {
        Ok(()) => 0,
        Err(_) => core.streams().iter().filter(|(_, stream)| !stream.delivery.is_closed()).count(),
    };
    core.drained.cancel();
    left
}

async fn all_sent(core: &Core) {
    let (now, mut pause) = (EventId::mint(), FIRST_PAUSE);
    loop {
        let mut open = core.streams();
        open.retain(|(_, stream)| !stream.delivery.is_closed());
        if open.is_empty() {
            return;
        }
        // Before the boxes are listed: the list has every event that is acknowledged by then, and not consumed.
        open.retain(|(_, stream)| stream.delivery.is_idle());
        let sent = |stream: &OpenStream| stream.delivery.last_acknowledged().map_or(now, |last| last.max(now));
        let idle: Vec<_> = open.into_iter().map(|(id, stream)| (id, sent(&stream), stream)).collect();
        match oldest_of_each(core).await {
            Ok(oldest) => {
                for (id, last, stream) in idle {
                    if oldest.get(id.as_str()).is_none_or(|oldest| *oldest > last) {
                        stream.delivery.close();
                    }
                }
            }
            Err(error) => tracing::warn!(peer = core.id(), %error, "the stop cannot see which streams have events"),
        }
        sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Returns the oldest event of each stream that has one, open or not.
async fn oldest_of_each(core: &Core) -> Result<HashMap<String, EventId>> {
    let (kind, mut all, mut after) = (core.kind(), HashMap::new(), None::<Recipient>);
    loop {
        let page = core.door.waiting(&kind, after.as_ref()).await?;
        let Some((last, _)) = page.last() else { return Ok(all) };
        after = Some(last.clone());
        all.extend(page.into_iter().map(|(to, oldest)| (to.key().to_owned(), oldest)));
    }
}
