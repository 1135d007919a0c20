//! Wake-ups on Postgres: NOTIFY.

use std::convert::Infallible;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgConnection, Pool, Postgres};

use crate::shard::ShardSet;
use crate::store::fault::Fault;
use crate::store::wake::WakeUp;

/// The channel; its payload is a set of shards.
const CHANNEL: &str = "eventbox";

impl WakeUp for Postgres {
    const SENDS_WAKE_UPS: bool = true;

    async fn send_wake_up(conn: &mut PgConnection, shards: ShardSet) -> Result<(), Fault> {
        let query = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(shards.to_string());
        query.execute(conn).await?;
        Ok(())
    }

    async fn hear_wake_ups(pool: &Pool<Self>, report: impl Fn(ShardSet) + Send + Sync) -> Result<Infallible, Fault> {
        // A listener keeps its connection, and the pool's are counted on by turns. Nothing takes it from this pool when it is idle.
        let apart = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let apart = apart.connect_lazy_with(pool.connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&apart).await?;
        listener.listen(CHANNEL).await?;
        report(ShardSet::ALL);
        loop {
            match listener.try_recv().await? {
                // Somebody else's use of the channel says nothing about shards.
                Some(notification) => report(notification.payload().parse().unwrap_or(ShardSet::ALL)),
                // It has connected again, and what came meanwhile was not heard.
                None => report(ShardSet::ALL),
            }
        }
    }
}
