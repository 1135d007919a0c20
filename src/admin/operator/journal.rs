//! What repairs note in the journal of a recipient.

use uuid::Uuid;

use crate::admin::PURGE_SLICE;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, PurgedFrom, Tx, Verdict};

/// Deletes events for good. Notes them, if the recipient keeps a journal. Returns the number of deleted events.
///
/// The transaction has moved the turn.
pub(super) async fn purge<B: Backend>(
    tx: &mut Tx<B>,
    of: &Recipient,
    tables: &[PurgedFrom],
    ids: &[Uuid],
) -> Result<u64, Fault> {
    let (shard, recipient) = (i16::from(of.shard()), of.as_str());
    let turn = B::journal_turn(tx, shard, recipient).await?;
    let mut purged = 0;
    for from in tables {
        purged += match (turn, from) {
            (Some(turn), from) => B::purge_noted(tx, *from, shard, recipient, ids, turn).await?,
            (None, PurgedFrom::Box) => B::delete_events(tx, shard, recipient, ids).await?,
            (None, PurgedFrom::Timers) => B::delete_timers(tx, shard, recipient, ids).await?,
            (None, PurgedFrom::Quarantine) => B::delete_quarantined(tx, shard, recipient, ids).await?,
        };
    }
    Ok(purged)
}

/// Moves events into quarantine. Notes them, if the recipient keeps a journal. Returns the number of moved events.
///
/// The transaction has moved the turn.
pub(super) async fn quarantine<B: Backend>(
    tx: &mut Tx<B>,
    of: &Recipient,
    ids: &[Uuid],
    verdict: Verdict<'_>,
) -> Result<u64, Fault> {
    let (shard, recipient) = (i16::from(of.shard()), of.as_str());
    match B::journal_turn(tx, shard, recipient).await? {
        Some(turn) => B::quarantine_noted(tx, shard, recipient, ids, verdict, turn).await,
        None => B::quarantine_events(tx, shard, recipient, ids, verdict).await,
    }
}

/// Deletes the oldest timers, and then the oldest events if `with_box`, up to `newest` and [`PURGE_SLICE`]. Notes them,
/// if the recipient keeps a journal. Returns the number of deleted events.
///
/// The transaction has moved the turn.
pub(super) async fn purge_slice<B: Backend>(
    tx: &mut Tx<B>,
    of: &Recipient,
    newest: Uuid,
    with_box: bool,
) -> Result<u64, Fault> {
    let (shard, recipient, limit) = (i16::from(of.shard()), of.as_str(), i64::from(PURGE_SLICE));
    let Some(turn) = B::journal_turn(tx, shard, recipient).await? else {
        let mut purged = B::purge_timers(tx, shard, recipient, newest, limit).await?;
        if with_box {
            let left = limit.saturating_sub_unsigned(purged);
            purged += B::purge_events(tx, shard, recipient, newest, left).await?;
        }
        return Ok(purged);
    };
    let timers = B::timer_heads(tx, shard, recipient, limit, limit).await?;
    let ids: Vec<Uuid> = timers.into_iter().map(|timer| timer.event.id).filter(|id| *id <= newest).collect();
    let mut purged = B::purge_noted(tx, PurgedFrom::Timers, shard, recipient, &ids, turn).await?;
    if with_box {
        let left = limit.saturating_sub_unsigned(purged);
        let events = B::event_heads(tx, shard, recipient, Uuid::nil(), left).await?;
        let ids: Vec<Uuid> = events.into_iter().map(|event| event.id).filter(|id| *id <= newest).collect();
        purged += B::purge_noted(tx, PurgedFrom::Box, shard, recipient, &ids, turn).await?;
    }
    Ok(purged)
}
