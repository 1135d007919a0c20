//! `outbox-core` with `outbox-postgres`: messages that are added in the transaction of their effect, and a manager that
//! is notified of them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use outbox_core::{
    NoIdempotency, OutboxConfig, OutboxError, OutboxManagerBuilder, OutboxService, Transport,
    prelude::Event as Outgoing,
};
use outbox_postgres::{PostgresOutbox, PostgresWriter};
use sqlx8::migrate::Migrator;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, Handled, OlderPools, Order, Peer, Session, Spread, older_pool};
use crate::states::{ADD_MANY, Additions};

/// Most messages of a claim.
const BATCH: u32 = 1_000;

const LEFT: &str = "SELECT count(*) FROM outbox_events WHERE status IN ('Pending', 'Processing')";

pub(crate) struct OutboxCore;

#[async_trait(?Send)]
impl Peer for OutboxCore {
    fn name(&self) -> &'static str {
        "outbox-core"
    }

    fn can(&self, order: Order) -> bool {
        order == Order::Any
    }

    fn is_outbox(&self) -> bool {
        true
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 1).await?;
        Migrator::new(Path::new(env!("OUTBOX_MIGRATIONS"))).await?.run(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, _order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = OlderPools::open(url, CONSUMING_CONNECTIONS).await?;
        let mut config = OutboxConfig::<Event>::default();
        config.batch_size = BATCH;
        config.poll_interval_secs = 1;
        let config = Arc::new(config);
        let service = OutboxService::new(Arc::new(PostgresWriter), Arc::clone(&config));
        Ok(Arc::new(Open { pools, config, service }))
    }
}

struct Open {
    pools: OlderPools,
    config: Arc<OutboxConfig<Event>>,
    service: OutboxService<PostgresWriter, NoIdempotency, Event>,
}

/// The receiver, which costs nothing.
struct Receiver(Arc<Handled>);

#[async_trait]
impl Transport<Event> for Receiver {
    async fn publish(&self, _message: Outgoing<Event>) -> Result<(), OutboxError> {
        self.0.add(1);
        Ok(())
    }
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        sqlx8::query("TRUNCATE outbox_events, outbox_dead_letters").execute(&self.pools.sending).await?;
        Ok(())
    }

    async fn emit(&self, event: Event) -> Result<()> {
        self.emit_batch(vec![event]).await
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let sums = Additions::of(&events);
        let mut tx = self.pools.sending.begin().await?;
        let add = sqlx8::query(ADD_MANY).bind(&sums.recipients).bind(&sums.counts).bind(&sums.firsts);
        add.bind(&sums.lasts).bind(&sums.disorders).execute(&mut *tx).await?;
        for event in events {
            self.service.add_event("counted", event, None, &mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let (stop, stopped) = watch::channel(false);
        let storage = PostgresOutbox::new(self.pools.consuming.clone(), Arc::clone(&self.config));
        let manager = OutboxManagerBuilder::new()
            .storage(Arc::new(storage))
            .publisher(Arc::new(Receiver(handled)))
            .config(Arc::clone(&self.config))
            .shutdown_rx(stopped)
            .build()?;
        Ok(Box::new(Manager { running: tokio::spawn(manager.run()), stop }))
    }

    async fn left(&self) -> Result<i64> {
        Ok(sqlx8::query_scalar(LEFT).fetch_one(&self.pools.sending).await?)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Manager {
    running: JoinHandle<Result<(), OutboxError>>,
    stop: watch::Sender<bool>,
}

#[async_trait]
impl Consumer for Manager {
    async fn stop(self: Box<Self>) -> Result<()> {
        self.stop.send_replace(true);
        Ok(self.running.await??)
    }
}
