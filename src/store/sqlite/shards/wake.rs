//! Wake-ups on SQLite: the version of the file.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::{ConnectOptions, Pool, Row, Sqlite, SqliteConnection};

use crate::shard::ShardSet;
use crate::store::fault::Fault;
use crate::store::shards::wake::{Notification, WakeUpDialect};

/// Interval at which the version is read while it changes, and while it does not. A read costs some microseconds.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));

impl WakeUpDialect for Sqlite {
    // Differs: a commit is a notification by itself, because it changes the version of the file.
    const SENDS_WAKE_UPS: bool = false;

    async fn send_wake_up(_conn: &mut SqliteConnection, _told: Notification) -> Result<(), Fault> {
        Ok(())
    }

    async fn hear_wake_ups(
        pool: &Pool<Self>,
        report: impl Fn(Notification) + Send + Sync,
    ) -> Result<Infallible, Fault> {
        let mut conn = pool.connect_options().connect().await?;
        let (mut seen, mut pause) = (None, LOOK_EVERY.0);
        loop {
            let row = sqlx::query("PRAGMA data_version").fetch_one(&mut conn).await?;
            let now: i64 = row.try_get(0)?;
            if seen.replace(now) != Some(now) {
                report(Notification { committed: ShardSet::ALL, ..Notification::default() });
                pause = LOOK_EVERY.0;
            } else {
                pause = (pause * 2).min(LOOK_EVERY.1);
            }
            tokio::time::sleep(pause).await;
        }
    }
}
