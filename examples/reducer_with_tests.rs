//! A reducer and its tests: the decision alone, a rehearsed turn, and all turns until the eventbox is empty.
//!
//! `cargo run --example reducer_with_tests` and `cargo test --example reducer_with_tests`

#![allow(clippy::print_stdout)]

use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer};
use serde::{Deserialize, Serialize};

/// A shelf in a store.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Shelf {
    stock: i64,
    asked_for_more: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Change {
    Filled(i64),
    Sold(i64),
}

/// Keeps the stock, orders more from the warehouse in time, and publishes a message when a shelf is empty.
struct Shelves;

const LOW: i64 = 3;

impl Reducer for Shelves {
    type State = Shelf;

    fn reduce(&self, to: &Recipient, events: &[Event], mut shelf: Shelf) -> Result<Outcome<Shelf>, BoxError> {
        for event in events {
            match event.json()? {
                Change::Filled(pieces) => shelf = Shelf { stock: shelf.stock + pieces, asked_for_more: false },
                Change::Sold(pieces) => shelf.stock -= pieces,
            }
        }
        let mut outcome = Outcome::stay();
        if shelf.stock < LOW && !shelf.asked_for_more && !events.is_empty() {
            shelf.asked_for_more = true;
            outcome = outcome.emitting([(Recipient::new("warehouse", "main")?, Event::from_json(&to.as_str())?)]);
            if shelf.stock <= 0 {
                outcome =
                    outcome.publishing([CloudEvent::builder("store", "shelf.empty").subject(to.key()).build()?]);
            }
        }
        outcome.next = eventbox::Next::To(shelf);
        Ok(outcome.consuming(events))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(eventbox::sqlite_options(":memory:")).await?;
    eventbox::migrate(&pool).await?;
    let pencils = Recipient::new("shelf", "pencils")?;
    for change in [Change::Filled(5), Change::Sold(4)] {
        eventbox::emit(&pool, &pencils, Event::from_json(&change)?).await?;
        let _ = eventbox::reduce_batch(&pool, &pencils, &Shelves, 100.try_into()?).await?;
        let shelf = eventbox::state::<Shelf>(&pool, &pencils).await?.and_then(|at| at.state).ok_or("a state")?;
        println!("{change:?}: {shelf:?}");
    }
    println!("done");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventbox::{Next, ReducerAsProcessor, testing};

    fn pencils() -> Recipient {
        Recipient::new("shelf", "pencils").unwrap()
    }

    /// The decision is a function of plain data and needs no database.
    #[test]
    fn a_low_shelf_asks_once() {
        let sold = [Event::from_json(&Change::Sold(4)).unwrap()];
        let outcome = Shelves.reduce(&pencils(), &sold, Shelf { stock: 6, asked_for_more: false }).unwrap();
        assert_eq!(outcome.next, Next::To(Shelf { stock: 2, asked_for_more: true }));
        assert_eq!((outcome.emitted.len(), outcome.published.len()), (1, 0));
        let again = Shelves.reduce(&pencils(), &sold[..0], Shelf { stock: 2, asked_for_more: true }).unwrap();
        assert!(again.emitted.is_empty());
    }

    /// Rehearses a turn on a real database and rolls it back, then runs turns until no event is left.
    #[tokio::test]
    async fn an_empty_shelf_is_told() {
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect_with(eventbox::sqlite_options(":memory:")).await.unwrap();
        eventbox::migrate(&pool).await.unwrap();
        let sold = Event::from_json(&Change::Sold(1)).unwrap();
        eventbox::emit(&pool, &pencils(), sold).await.unwrap();
        let many = 100.try_into().unwrap();
        let turn = testing::rehearse_reducer(&pool, &pencils(), &Shelves, many).await.unwrap().expect("a turn");
        assert_eq!(turn.emitted[0].0.as_str(), "warehouse/main");
        assert_eq!(turn.published[0].subject(), Some("pencils"));

        let drained = testing::drain(&pool, &pencils(), &ReducerAsProcessor::new(&Shelves), many, many).await.unwrap();
        assert_eq!((drained.turns, drained.consumed), (1, 1));
    }
}
