//! Processors that tests share. Their state is `()`, so that one implementation works on both engines.

use std::num::NonZeroU32;
use std::sync::Mutex;

use eventbox::{Backend, BoxError, EVersion, Event, Mutation, Processor, Recipient, Transition};
use sqlx::Pool;

/// A processor that decides with a closure and has no state.
pub(crate) struct Decider<F>(pub(crate) F);

impl<B, F> Processor<B> for Decider<F>
where
    B: Backend,
    F: Fn(&[Event]) -> Mutation<B, ()> + Send + Sync,
{
    type State = ();

    async fn load_state(&self, _conn: &mut B::Connection, _to: &Recipient) -> Result<((), EVersion), BoxError> {
        Ok(((), EVersion(0)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        _state: &(),
    ) -> Result<Mutation<B, ()>, BoxError> {
        Ok((self.0)(events))
    }

    async fn fetch_eversion(&self, _tx: &mut B::Connection, _to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(0))
    }

    async fn save_state(
        &self,
        _tx: &mut B::Connection,
        _to: &Recipient,
        _state: &(),
        _eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A recorder of the events that a processor decided on, in order, including those of failed attempts.
#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// Returns a processor that consumes everything.
    fn processor<B: Backend>(&self) -> Decider<impl Fn(&[Event]) -> Mutation<B, ()> + Send + Sync> {
        Decider(|events: &[Event]| {
            self.0.lock().unwrap().extend_from_slice(events);
            Transition::stay().consuming(events).into()
        })
    }

    /// Returns the events recorded so far.
    fn seen(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

/// Consumes the whole box, seven events a turn. Returns the events in the order of their listing.
pub(crate) async fn drain<B: Backend>(pool: &Pool<B>, to: &Recipient) -> Vec<Event> {
    let recorder = Recorder::default();
    let max_events = NonZeroU32::new(7).unwrap();
    while eventbox::process_batch(pool, to, &recorder.processor(), max_events).await.unwrap().more_remain {}
    recorder.seen()
}
