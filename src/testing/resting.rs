//! Whether a processor comes to rest.

use tokio::time::timeout;

use super::conformance::LOAD_DEADLINE;
use crate::error::BoxError;
use crate::eventbox::{EVersion, Event, EventId, Mutation, Processor};
use crate::recipient::Recipient;
use crate::store::Backend;

/// How many turns in a row [`check_processor`](crate::testing::check_processor) lets a processor decide on that remove no event.
pub const MAX_IDLE_TURNS: usize = 100;

/// Whether the processor decides nothing any more after some turns with these events in its box, and no others.
///
/// The turns are made on the connection of a transaction that is rolled back. One that fails commits nothing, so it is a rest.
pub(super) async fn comes_to_rest<B, P>(
    processor: &P,
    tx: &mut B::Connection,
    to: &Recipient,
    mut events: Vec<Event>,
) -> bool
where
    B: Backend,
    P: Processor<B>,
{
    let mut idle = 0;
    while idle < MAX_IDLE_TURNS {
        if events.is_empty() && !processor.runs_without_events() {
            return true;
        }
        let removed = match turn(processor, tx, to, &events).await {
            Ok(Some(removed)) => removed,
            Ok(None) | Err(_) => return true,
        };
        let before = events.len();
        events.retain(|event| !removed.contains(&event.id()));
        idle = if events.len() < before { 0 } else { idle + 1 };
    }
    false
}

/// The events that a turn removes; `None` when there is nothing to do.
async fn turn<B, P>(
    processor: &P,
    tx: &mut B::Connection,
    to: &Recipient,
    events: &[Event],
) -> Result<Option<Vec<EventId>>, BoxError>
where
    B: Backend,
    P: Processor<B>,
{
    let (state, eversion) = timeout(LOAD_DEADLINE, processor.load_state(tx, to)).await??;
    let mut mutation = processor.prepare_mutation(to, events, &state).await?;
    mutation.transitions.retain(|transition| !transition.is_no_op());
    if mutation.transitions.is_empty() && mutation.garbage.is_empty() {
        return Ok(None);
    }
    apply(processor, tx, to, eversion.next(), mutation).await.map(Some)
}

async fn apply<B, P>(
    processor: &P,
    tx: &mut B::Connection,
    to: &Recipient,
    eversion: EVersion,
    mutation: Mutation<B, P::State>,
) -> Result<Vec<EventId>, BoxError>
where
    B: Backend,
    P: Processor<B>,
{
    let mut removed = mutation.garbage;
    let mut target = None;
    for transition in mutation.transitions {
        removed.extend(transition.consumed);
        if let Some(effect) = transition.side_effect {
            effect.run(&mut *tx).await?;
        }
        target = transition.target.or(target);
    }
    if let Some(state) = target {
        processor.save_state(tx, to, &state, eversion).await?;
    }
    Ok(removed)
}
