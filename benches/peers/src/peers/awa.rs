//! `awa`: one job for each event, on its queue storage.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use awa::model::{InsertParams, QueueStorage, QueueStorageConfig, insert::params_with, migrations};
use awa::{Client, InsertOpts, JobArgs, JobError, JobResult, QueueConfig};
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::peer::{
    CONSUMING_CONNECTIONS, Consumer, HANDLERS, Handled, OlderPools, Order, Peer, Session, Spread, older_pool,
};
use crate::states::add;

const QUEUE: &str = "count";

/// Time limit of jobs in flight at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Awa;

#[async_trait(?Send)]
impl Peer for Awa {
    fn name(&self) -> &'static str {
        "awa"
    }

    /// A queue is claimed in order, but its jobs run beside each other.
    fn can(&self, order: Order) -> bool {
        order == Order::Any
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 2).await?;
        migrations::run(&pool).await?;
        // A new database begins on the storage of earlier versions.
        QueueStorage::new(QueueStorageConfig::default())?.install(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, _order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = OlderPools::open(url, CONSUMING_CONNECTIONS).await?;
        Ok(Arc::new(Open { store: QueueStorage::new(QueueStorageConfig::default())?, pools }))
    }
}

struct Open {
    store: QueueStorage,
    pools: OlderPools,
}

/// The job of an event.
#[derive(Serialize, Deserialize, JobArgs)]
struct Count {
    event: Event,
}

/// The data of a handler.
#[derive(Clone)]
struct Shared(Arc<Handled>);

fn options() -> InsertOpts {
    InsertOpts { queue: QUEUE.to_owned(), ..InsertOpts::default() }
}

async fn count(pool: sqlx8::PgPool, shared: Option<Shared>, event: Event) -> Result<JobResult, JobError> {
    let Some(Shared(handled)) = shared else { return Err(JobError::terminal("nobody counts")) };
    let counted = async {
        let mut connection = pool.acquire().await?;
        add!(sqlx8, connection, event).await
    };
    match counted.await {
        Ok(_) => {
            handled.committed(std::slice::from_ref(&event));
            Ok(JobResult::Completed)
        }
        Err(error) => {
            handled.fault(&error);
            Err(JobError::retryable(error))
        }
    }
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        Ok(self.store.reset(&self.pools.sending).await?)
    }

    async fn emit(&self, event: Event) -> Result<()> {
        awa::insert_with(&self.pools.sending, &Count { event }, options()).await?;
        Ok(())
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let jobs = events.into_iter().map(|event| params_with(&Count { event }, options()));
        let jobs: Vec<InsertParams> = jobs.collect::<Result<_, _>>()?;
        self.store.enqueue_params_copy(&self.pools.sending, &jobs).await?;
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let config = QueueConfig {
            max_workers: u32::try_from(HANDLERS)?,
            // Claims of jobs without a deadline are written in batches.
            deadline_duration: Duration::ZERO,
            ..QueueConfig::default()
        };
        let client = Client::builder(self.pools.consuming.clone())
            .queue(QUEUE, config)
            .state(Shared(handled))
            .register::<Count, _, _>(|job, context| count(context.pool().clone(), context.extract(), job.event))
            .build()?;
        client.start().await?;
        Ok(Box::new(Running(client)))
    }

    async fn left(&self) -> Result<i64> {
        let counts = self.store.queue_counts(&self.pools.sending, QUEUE).await?;
        Ok(counts.available + counts.running)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Running(Client);

#[async_trait]
impl Consumer for Running {
    async fn stop(self: Box<Self>) -> Result<()> {
        self.0.shutdown(FINISH_WITHIN).await;
        Ok(())
    }
}
