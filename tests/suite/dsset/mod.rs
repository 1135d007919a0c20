//! The set, and the pruner, which forgets names.

mod cases;
mod contract;
mod prune;
mod undone;

use std::num::NonZeroU32;

use eventbox::Recipient;
use eventbox::dsset::{Item, Listing, Set};

use crate::support::{TestDb, TestEngine};

pub(crate) const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn airport() -> Recipient {
    Recipient::new("airport", "EWR").unwrap()
}

fn set() -> Set {
    Set::new(airport())
}

fn item(id: &str) -> Item {
    Item::new(id, format!("value of {id}"))
}

fn ids(listing: &Listing) -> Vec<&str> {
    listing.items().iter().map(Item::id).collect()
}

/// Makes all stamps older by the tombstone delay.
async fn let_the_delay_pass<B: TestEngine>(db: &TestDb<B>) {
    db.run("UPDATE eventbox_tombstone SET gone_at_us = gone_at_us - 300000001").await;
}

async fn turn_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> i64 {
    db.number(format_args!("SELECT coalesce(max(turn), 0) FROM eventbox_state WHERE recipient = '{of}'")).await
}
