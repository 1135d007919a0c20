//! The smallest entity: a greeter that counts greetings and greets back.
//!
//! `cargo run --example hello_entity`

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;

use eventbox::{BoxError, Emitted, Event, Outcome, Recipient, Reducer};
use sqlx::sqlite::SqlitePoolOptions;

/// A greeter. It answers `hello` with `hello back`, and only counts the latter.
struct Greeter;

impl Reducer for Greeter {
    type State = BTreeMap<String, u32>;

    fn reduce(
        &self,
        to: &Recipient,
        events: &[Event],
        mut seen: Self::State,
    ) -> Result<Outcome<Self::State>, BoxError> {
        let mut answers = Vec::new();
        for event in events {
            let (what, from) = event.json::<(String, String)>()?;
            *seen.entry(format!("{what} from {from}")).or_default() += 1;
            if what == "hello" {
                answers.push((from.parse()?, Event::from_json(&("hello back", to.as_str()))?));
            }
        }
        // One transaction contains the state, the removal of the events and the answers.
        Ok(Outcome::to(seen).consuming(events).emitting(answers))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A service uses a file: SqlitePool::connect_with(eventbox::sqlite_options("greeters.sqlite3"))
    let options = eventbox::sqlite_options(":memory:");
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    eventbox::migrate(&pool).await?;

    let (ada, grace) = (Recipient::new("greeter", "ada")?, Recipient::new("greeter", "grace")?);
    let hello = Event::from_json(&("hello", ada.as_str()))?.named("ada-1");
    assert_eq!(eventbox::emit(&pool, &grace, hello.clone()).await?, Emitted::Added);
    println!("ada greets grace");
    assert_eq!(eventbox::emit(&pool, &grace, hello).await?, Emitted::Duplicate);
    println!("ada greets grace again after a lost answer: the event has a name, so nothing changes");

    // A runtime finds recipients with events shard by shard. Here both recipients are known.
    for greeter in [&grace, &ada] {
        let turn = eventbox::reduce_batch(&pool, greeter, &Greeter, 100.try_into()?).await?;
        println!("turn {:?} of {greeter} consumed {} event(s)", turn.number.unwrap_or_default(), turn.consumed);
        let state = eventbox::state::<BTreeMap<String, u32>>(&pool, greeter).await?.ok_or("it had a turn")?;
        println!("  {greeter} has seen {:?}", state.state.clone().unwrap_or_default());
        assert_eq!((state.turn, state.state.map(|seen| seen.len())), (1, Some(1)));
    }
    println!("done");
    Ok(())
}
