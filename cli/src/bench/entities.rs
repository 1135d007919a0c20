//! The entities that count events: reducers, and processors with their own table.

use std::sync::Arc;

use eventbox::{
    BoxError, CloudEvent, EVersion, Event, Mutation, Outcome, PostProcess, Processor, Recipient, Reducer, Transition,
};

use super::engine::Engine;
use super::stamps::Stamps;

/// Counts its events. The library keeps the count.
pub(crate) struct Counter;

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// Counts its events, and records when the turn has committed.
pub(crate) struct Timed(pub(crate) Arc<Stamps>);

impl Reducer for Timed {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let stamps = Arc::clone(&self.0);
        let sent: Vec<u64> = events.iter().filter_map(|event| Stamps::sent_at(event.value())).collect();
        let hook = PostProcess::new(move || async move {
            stamps.committed(&sent);
            Ok(())
        });
        Ok(Outcome::to(count + events.len() as u64).consuming(events).post_process(hook))
    }
}

/// Publishes a message for each event.
pub(crate) struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let messages = events.iter().map(|event| message(event.value())).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + events.len() as u64).consuming(events).publishing(messages))
    }
}

/// Builds the message that is published.
pub(crate) fn message(payload: &[u8]) -> Result<CloudEvent, BoxError> {
    Ok(CloudEvent::builder("eventbox.bench", "order.changed").payload(payload.to_vec()).build()?)
}

/// Counts its events in its own table.
pub(crate) struct Ledger;

impl<B: Engine> Processor<B> for Ledger {
    type State = i64;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        let (count, eversion) = B::load_count(conn, to).await?;
        Ok((count, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        count: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        Ok(Transition::to(count + i64::try_from(events.len())?).consuming(events).into())
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(B::eversion(tx, to).await?))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        count: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(B::save_count(tx, to, *count, eversion.0).await?)
    }
}

/// Does what [`Ledger`] does, with one statement for many recipients where the library calls for many.
pub(crate) struct BatchedLedger;

impl<B: Engine> Processor<B> for BatchedLedger {
    type State = i64;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        Processor::<B>::load_state(&Ledger, conn, to).await
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        count: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        Ledger.prepare_mutation(to, events, count).await
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Processor::<B>::fetch_eversion(&Ledger, tx, to).await
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        count: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Processor::<B>::save_state(&Ledger, tx, to, count, eversion).await
    }

    async fn load_states(
        &self,
        conn: &mut B::Connection,
        of: &[Recipient],
    ) -> Result<Option<Vec<(i64, EVersion)>>, BoxError> {
        let counts = B::load_counts(conn, of).await?;
        Ok(Some(counts.into_iter().map(|(count, eversion)| (count, EVersion(eversion))).collect()))
    }

    async fn fetch_eversions(
        &self,
        tx: &mut B::Connection,
        of: &[Recipient],
    ) -> Result<Option<Vec<EVersion>>, BoxError> {
        Ok(Some(B::eversions(tx, of).await?.into_iter().map(EVersion).collect()))
    }

    async fn save_states(
        &self,
        tx: &mut B::Connection,
        states: &[(&Recipient, &i64, EVersion)],
    ) -> Result<bool, BoxError> {
        let counts: Vec<_> = states.iter().map(|(to, count, eversion)| (to.as_str(), **count, eversion.0)).collect();
        B::save_counts(tx, &counts).await?;
        Ok(true)
    }
}
