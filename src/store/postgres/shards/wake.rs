//! Wake-ups on Postgres: NOTIFY.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgConnection, Pool, Postgres};
use tokio::time::timeout;

use crate::shard::ShardSet;
use crate::store::connect::connection::{ANSWER_WAIT, in_time};
use crate::store::fault::Fault;
use crate::store::shards::wake::{Notification, WakeUpDialect};

/// The channel; its payload is the wake-up, as JSON: both sets of shards as texts, and the recipients.
const CHANNEL: &str = "eventbox";

/// The most bytes of a payload. Postgres accepts less than 8,000.
const MAX_PAYLOAD_BYTES: usize = 7_900;

/// Time without a notification after which a listener checks its connection.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// Returns the wake-up for unknown recipients: all shards.
fn everything() -> Notification {
    Notification { committed: ShardSet::ALL, ..Notification::default() }
}

/// Returns the payload; `None` when it is too long.
fn payload_of(notification: &Notification) -> Option<String> {
    let payload = (notification.committed.to_string(), notification.shards.to_string(), &notification.recipients);
    let payload = serde_json::to_string(&payload).ok()?;
    (payload.len() <= MAX_PAYLOAD_BYTES).then_some(payload)
}

fn notification_of(payload: &str) -> Option<Notification> {
    let (committed, shards, recipients): (String, String, Vec<String>) = serde_json::from_str(payload).ok()?;
    Some(Notification { recipients, committed: committed.parse().ok()?, shards: shards.parse().ok()? })
}

impl WakeUpDialect for Postgres {
    const SENDS_WAKE_UPS: bool = true;

    async fn send_wake_up(conn: &mut PgConnection, notification: Notification) -> Result<(), Fault> {
        let payload = payload_of(&notification).or_else(|| payload_of(&notification.by_shards())).unwrap_or_default();
        // A notification commits. Without a flush of this commit nothing is lost.
        let query = sqlx::query("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)");
        query.bind(CHANNEL).bind(payload).execute(conn).await?;
        Ok(())
    }

    async fn hear_wake_ups(
        pool: &Pool<Self>,
        report: impl Fn(Notification) + Send + Sync,
    ) -> Result<Infallible, Fault> {
        // A pool of its own, because a listener keeps its connection, and turns count on the connections of the
        // caller's pool. An idle listener keeps its connection too.
        let apart = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let apart = apart.acquire_timeout(ANSWER_WAIT);
        let apart = apart.connect_lazy_with(pool.connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&apart).await?;
        in_time::<Self, _>(async { Ok(listener.listen(CHANNEL).await?) }).await?;
        report(everything());
        loop {
            // The connection keeps a partly received notification, so a cancelled wait loses nothing.
            let Ok(heard) = timeout(ASK_AFTER, listener.try_recv()).await else {
                in_time::<Self, _>(async { Ok(sqlx::raw_sql("SELECT 1").execute(&mut listener).await?) }).await?;
                continue;
            };
            match heard? {
                // A notification of another program on this channel wakes up all shards.
                Some(notification) => report(notification_of(notification.payload()).unwrap_or_else(everything)),
                // The listener has connected again, and has missed the notifications in between.
                None => report(everything()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipient::Recipient;

    fn notification(recipients: usize) -> Notification {
        let recipients = (0..recipients).map(|n| format!("order/\"{n}\"\n")).collect();
        Notification { recipients, committed: [17].into_iter().collect(), shards: [3, 200].into_iter().collect() }
    }

    #[test]
    fn a_notification_is_read_back() {
        for recipients in [0, 1, 100] {
            assert_eq!(
                notification_of(&payload_of(&notification(recipients)).unwrap()),
                Some(notification(recipients))
            );
        }
        assert_eq!(notification_of("of another program"), None);
        // All shards are scanned, and once: the events of notifications without a listener are committed.
        assert_eq!((everything().committed, everything().shards), (ShardSet::ALL, ShardSet::default()));
    }

    #[test]
    fn a_notification_of_too_many_recipients_names_shards() {
        let many = notification(10_000);
        assert_eq!(payload_of(&many), None);
        let heard = notification_of(&payload_of(&many.by_shards()).unwrap()).unwrap();
        assert!(heard.recipients.is_empty() && heard.committed.contains(17));
        assert_eq!(heard.shards, many.shards);
        for to in &many.recipients {
            assert!(heard.committed.contains(to.parse::<Recipient>().unwrap().shard()));
        }
    }
}
