//! States and payloads that are hard to bring back from JSON, and a reducer that keeps them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::support::{CellEngine, TestDb};

pub(super) const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Returns the state that it was made with, whatever the events say.
pub(super) struct Keeps<S>(pub(super) S);

impl<S: Serialize + DeserializeOwned + Default + Clone + Send + Sync> Reducer for Keeps<S> {
    type State = S;

    fn reduce(&self, _to: &Recipient, events: &[Event], _state: S) -> Result<Outcome<S>, BoxError> {
        Ok(Outcome::to(self.0.clone()).consuming(events))
    }
}

pub(super) fn airport(code: &str) -> Recipient {
    Recipient::new("airport", code).unwrap()
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Delays {
    pub(super) legs: Vec<BTreeMap<String, Option<f64>>>,
    #[serde(default)]
    pub(super) speed: f32,
}

pub(super) fn delays(minutes: f64) -> Delays {
    Delays { legs: vec![BTreeMap::new(), BTreeMap::from([("UA 1545".to_owned(), Some(minutes))])], speed: 0.1 }
}

/// A list in a list in a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Nested(pub(super) Vec<Nested>);

pub(super) fn nested(levels: usize) -> Nested {
    (1..levels).fold(Nested::default(), |inner, _| Nested(vec![inner]))
}

/// Both variants are JSON numbers. Serde reads the first variant that fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Either {
    Float(f64),
    Whole(i64),
}

impl Default for Either {
    fn default() -> Self {
        Either::Float(0.5)
    }
}

pub(super) async fn emit_x<B: CellEngine>(db: &TestDb<B>, to: &Recipient) {
    emit(db, to, Event::new("x")).await;
}

pub(super) async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, event: Event) {
    B::emit_on(&db.pool, to, event).await.unwrap();
}
