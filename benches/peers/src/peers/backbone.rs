//! `backbone-outbox`: messages that are staged in the transaction of their effect, and a relay that polls.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use backbone_outbox::runner::{RelayConfig, run};
use backbone_outbox::{OutboxRecord, outbox};
use chrono::Utc;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, Handled, OlderPools, Order, Peer, Session, Spread, older_pool};
use crate::states::{ADD_MANY, Additions};

/// Schema of the tables.
const SCHEMA: &str = "orders";

/// Most messages of a pass.
const BATCH: i64 = 1_000;

/// Pause after a pass that was not full.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) struct Backbone;

#[async_trait(?Send)]
impl Peer for Backbone {
    fn name(&self) -> &'static str {
        "backbone-outbox"
    }

    fn can(&self, order: Order) -> bool {
        order == Order::Any
    }

    fn is_outbox(&self) -> bool {
        true
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 1).await?;
        outbox::migrate(&pool, SCHEMA).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, _order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        Ok(Arc::new(Open(OlderPools::open(url, CONSUMING_CONNECTIONS).await?)))
    }
}

struct Open(OlderPools);

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        sqlx8::query("TRUNCATE orders.outbox_events, orders.inbox_consumed").execute(&self.0.sending).await?;
        Ok(())
    }

    async fn emit(&self, event: Event) -> Result<()> {
        self.emit_batch(vec![event]).await
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let sums = Additions::of(&events);
        let mut tx = self.0.sending.begin().await?;
        let add = sqlx8::query(ADD_MANY).bind(&sums.recipients).bind(&sums.counts).bind(&sums.firsts);
        add.bind(&sums.lasts).bind(&sums.disorders).execute(&mut *tx).await?;
        for event in events {
            let payload = serde_json::to_value(&event)?;
            let record = OutboxRecord::new("counted", "order", event.to, Uuid::nil(), payload, Utc::now());
            outbox::stage(&mut *tx, SCHEMA, &record).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let config = RelayConfig { batch: BATCH, poll_interval: POLL_INTERVAL, ..RelayConfig::new(SCHEMA) };
        let (stop, stopped) = oneshot::channel::<()>();
        let publish = move |_record: OutboxRecord| {
            handled.add(1);
            std::future::ready(Ok(()))
        };
        let pool = self.0.consuming.clone();
        let relay = tokio::spawn(async move { run(pool, config, publish, async { drop(stopped.await) }).await });
        Ok(Box::new(Relay { relay, stop }))
    }

    async fn left(&self) -> Result<i64> {
        Ok(outbox::pending_count(&self.0.sending, SCHEMA).await?)
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

struct Relay {
    relay: JoinHandle<backbone_outbox::Result<()>>,
    stop: oneshot::Sender<()>,
}

#[async_trait]
impl Consumer for Relay {
    async fn stop(self: Box<Self>) -> Result<()> {
        // A relay that has failed listens no more, and reports its error below.
        let _ = self.stop.send(());
        Ok(self.relay.await??)
    }
}
