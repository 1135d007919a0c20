//! Reducers that count the values of events, and their states.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use crate::support::{CellEngine, TestDb, TestEngine};

pub(super) const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

pub(super) fn airport(code: &str) -> Recipient {
    Recipient::new("airport", code).unwrap()
}

/// Reduces with a closure.
pub(super) struct Reduce<F>(F);

pub(super) type Counts = BTreeMap<String, i64>;

impl<F> Reducer for Reduce<F>
where
    F: Fn(&Recipient, &[Event], Counts) -> Result<Outcome<Counts>, BoxError> + Send + Sync,
{
    type State = Counts;

    fn reduce(&self, to: &Recipient, events: &[Event], state: Counts) -> Result<Outcome<Counts>, BoxError> {
        (self.0)(to, events, state)
    }
}

pub(super) fn reduce<F>(with: F) -> Reduce<F>
where
    F: Fn(&Recipient, &[Event], Counts) -> Result<Outcome<Counts>, BoxError> + Send + Sync,
{
    Reduce(with)
}

/// Counts each value.
pub(super) fn counting(_to: &Recipient, events: &[Event], mut counts: Counts) -> Result<Outcome<Counts>, BoxError> {
    for event in events {
        *counts.entry(String::from_utf8(event.value().to_vec())?).or_default() += 1;
    }
    Ok(Outcome::to(counts).consuming(events))
}

pub(super) async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, values: &[&'static str]) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    for value in values {
        B::emit(&mut tx, to, Event::new(*value)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

pub(super) async fn counts_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> (i64, Option<Counts>) {
    let at = eventbox::state::<Counts>(&db.pool, of).await.unwrap().expect("it had a turn");
    (at.turn, at.state)
}

pub(super) fn counts<const N: usize>(of: [(&str, i64); N]) -> Counts {
    of.into_iter().map(|(value, count)| (value.to_owned(), count)).collect()
}
