//! Reducers that the tests share.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use super::ways::it;
use crate::support::{TestDb, TestEngine};

/// The events of the calls of a reducer, in order.
pub(super) type Seen = Vec<String>;

pub(super) type Decided = Result<Outcome<Seen>, BoxError>;

/// A reducer that decides with a closure.
pub(super) struct Reduce<F>(F);

pub(super) fn reduce<F: Fn(&[Event], Seen) -> Decided + Send + Sync>(with: F) -> Reduce<F> {
    Reduce(with)
}

impl<F: Fn(&[Event], Seen) -> Decided + Send + Sync> Reducer for Reduce<F> {
    type State = Seen;

    fn reduce(&self, _to: &Recipient, events: &[Event], seen: Seen) -> Decided {
        (self.0)(events, seen)
    }
}

pub(super) fn text(event: &Event) -> String {
    String::from_utf8_lossy(event.value()).into_owned()
}

/// Consumes everything and remembers it, in order.
pub(super) fn remember(events: &[Event], mut seen: Seen) -> Decided {
    seen.extend(events.iter().map(text));
    Ok(Outcome::to(seen).consuming(events))
}

/// Returns the events that the recipient has seen.
pub(super) async fn seen<B: TestEngine>(db: &TestDb<B>) -> Seen {
    eventbox::state::<Seen>(&db.pool, &it()).await.unwrap().and_then(|at| at.state).unwrap_or_default()
}

type Between = dyn Fn(usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Runs a hook between the listing and the commit: in each decision, with its number, from 1.
pub(super) struct Meddled<R> {
    reducer: R,
    between: Box<Between>,
    decisions: AtomicUsize,
}

pub(super) fn meddled<R, F, Fut>(reducer: R, between: F) -> Meddled<R>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Meddled { reducer, between: Box::new(move |n| Box::pin(between(n))), decisions: AtomicUsize::new(0) }
}

impl<R: Reducer<State = Seen>> Reducer for Meddled<R> {
    type State = Seen;

    fn reduce(&self, to: &Recipient, events: &[Event], state: Seen) -> Decided {
        let decision = self.decisions.fetch_add(1, Ordering::SeqCst) + 1;
        let between = (self.between)(decision);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(between));
        self.reducer.reduce(to, events, state)
    }
}

/// A list that a reducer and its test share.
#[derive(Default)]
pub(super) struct Notes(Mutex<Vec<String>>);

impl Notes {
    pub(super) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
