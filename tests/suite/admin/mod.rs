//! The administration of an eventbox.

mod audit;
mod calls;
mod destinations;
mod doctor;
mod forget;
mod journal;
mod operator;
mod quarantine;
mod races;
pub(crate) mod shards;
pub(crate) mod streams;
mod views;
mod why;

use std::num::NonZeroU32;

use eventbox::{Event, EventId, Recipient, admin};

use crate::support::{CellEngine, TestDb, TestEngine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell() -> Recipient {
    Recipient::new("cell", "1").unwrap()
}

/// Emits events with these values, which are also their names. Returns their ids.
async fn emit<B: CellEngine>(db: &TestDb<B>, values: &[&str]) -> Vec<EventId> {
    let mut conn = db.pool.acquire().await.unwrap();
    for value in values {
        B::emit(&mut conn, &cell(), Event::new((*value).to_owned()).named(*value)).await.unwrap();
    }
    drop(conn);
    listed(db).await.into_iter().filter(|(value, _)| values.contains(&value.as_str())).map(|(_, id)| id).collect()
}

async fn listed<B: TestEngine>(db: &TestDb<B>) -> Vec<(String, EventId)> {
    let events = admin::events(&db.pool, &cell(), None, 1_000).await.unwrap();
    events.iter().map(|event| (String::from_utf8(event.value().to_vec()).unwrap(), event.id())).collect()
}

async fn values<B: TestEngine>(db: &TestDb<B>) -> Vec<String> {
    listed(db).await.into_iter().map(|(value, _)| value).collect()
}

async fn turn<B: TestEngine>(db: &TestDb<B>) -> i64 {
    admin::standing(&db.pool, &cell()).await.unwrap().turn
}
