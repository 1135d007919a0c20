//! The check that a processor comes to rest.

use tokio::time::timeout;

use super::conformance::LOAD_DEADLINE;
use crate::error::BoxError;
use crate::eventbox::{EVersion, Event, EventId, Mutation, Processor, emit_all_in};
use crate::recipient::Recipient;
use crate::store::Backend;

/// Largest number of turns in a row without a removed event that [`check_processor`](crate::testing::check_processor)
/// lets a processor have.
pub const MAX_IDLE_TURNS: usize = 100;

/// Returns whether the processor comes to have no transitions, after some turns with only these events in its box.
///
/// The turns run on the connection of a transaction that is rolled back. A turn that fails commits nothing, so it
/// counts as rest.
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

/// Runs a turn and returns the events that it removes, or `None` when there is nothing to do.
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
        emit_all_in::<B>(&mut *tx, &transition.emitted).await?;
        target = transition.target.or(target);
    }
    if let Some(state) = target {
        processor.save_state(tx, to, &state, eversion).await?;
    }
    Ok(removed)
}
