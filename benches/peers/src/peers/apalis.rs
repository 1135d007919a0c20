//! `apalis-postgres`: one task for each event, fetched in batches, handled in parallel, acknowledged later.

use std::sync::Arc;

use anyhow::Result;
use apalis::prelude::*;
use apalis_postgres::queries::push_tasks;
use apalis_postgres::{Config, PostgresStorage};
use async_trait::async_trait;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, HANDLERS, Handled, Order, Peer, Pools, Session, Spread, pool};
use crate::states::{add, truncate};

const QUEUE: &str = "count";

/// Number of tasks of one fetch.
const FETCHED: usize = 100;

pub(crate) struct Apalis;

#[async_trait(?Send)]
impl Peer for Apalis {
    fn name(&self) -> &'static str {
        "apalis-postgres"
    }

    /// The crate has no order of the tasks of a key.
    fn can(&self, order: Order) -> bool {
        order == Order::Any
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = pool(url, 1).await?;
        PostgresStorage::setup(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, _order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = Pools::open(url, CONSUMING_CONNECTIONS).await?;
        Ok(Arc::new(Open { pools }))
    }
}

struct Open {
    pools: Pools,
}

/// The data of a handler.
#[derive(Clone)]
struct Shared {
    pool: PgPool,
    handled: Arc<Handled>,
}

async fn count(event: Event, shared: Data<Shared>) -> Result<(), BoxDynError> {
    let counted = async {
        let mut connection = shared.pool.acquire().await?;
        add!(sqlx, connection, event).await
    };
    match counted.await {
        Ok(_) => {
            shared.handled.committed(std::slice::from_ref(&event));
            Ok(())
        }
        Err(error) => {
            shared.handled.fault(&error);
            Err(error.into())
        }
    }
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        truncate(&self.pools.sending, "apalis.jobs, apalis.workers").await
    }

    async fn emit(&self, event: Event) -> Result<()> {
        self.emit_batch(vec![event]).await
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let mut tasks = Vec::with_capacity(events.len());
        for event in &events {
            tasks.push(TaskBuilder::new(serde_json::to_vec(event)?).build());
        }
        let mut connection = self.pools.sending.acquire().await?;
        push_tasks(&mut *connection, QUEUE, tasks).await?;
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let (pool, stopping) = (self.pools.consuming.clone(), CancellationToken::new());
        let (asked, runtime) = (stopping.clone(), Handle::current());
        // The future of a worker with parallel tasks is not `Send`, so the worker gets its own thread.
        let running = tokio::task::spawn_blocking(move || {
            let config = Config::default().queue(QUEUE).batch_size(FETCHED).lock_tasks(false);
            let backend = PostgresStorage::<Event>::new(&pool).with_config(config).with_pubsub();
            let worker = WorkerBuilder::new(format!("count-{}", uuid::Uuid::new_v4()))
                .backend(backend)
                .data(Shared { pool, handled })
                .parallelize(tokio::spawn)
                .concurrency(HANDLERS)
                .build(count);
            let signal = async move {
                asked.cancelled().await;
                Ok::<(), WorkerError>(())
            };
            runtime.block_on(worker.run_until(signal)).map_err(anyhow::Error::from)
        });
        Ok(Box::new(Running { running, stopping }))
    }

    async fn left(&self) -> Result<i64> {
        let left = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'");
        Ok(left.fetch_one(&self.pools.sending).await?)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Running {
    running: JoinHandle<Result<()>>,
    stopping: CancellationToken,
}

#[async_trait]
impl Consumer for Running {
    async fn stop(mut self: Box<Self>) -> Result<()> {
        self.stopping.cancel();
        (&mut self.running).await?
    }
}

impl Drop for Running {
    /// The fetch loop of an interrupted measurement ends here.
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
