//! Every action is clicked through to its confirmation and done, and its effect is read from the database.

mod dead;
mod outbox;
mod recipient;
mod shards;
