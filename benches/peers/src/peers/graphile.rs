//! `graphile_worker`: one job for each event, in a queue for its recipient if order is required.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, HANDLERS, Handled, Order, Peer, Pools, Session, Spread, pool};
use crate::states::{add, truncate};

/// Time for which completions are collected.
const COMPLETE_DELAY: Duration = Duration::from_millis(5);

/// Number of jobs of one fetch.
const FETCHED: usize = 100;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

const SCHEMA: &str = "graphile_worker";

pub(crate) struct Graphile;

#[async_trait(?Send)]
impl Peer for Graphile {
    fn name(&self) -> &'static str {
        "graphile_worker"
    }

    fn can(&self, _order: Order) -> bool {
        true
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = pool(url, 2).await?;
        WorkerUtils::new(pool.clone(), SCHEMA).migrate().await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, order: Order, spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = Pools::open(url, CONSUMING_CONNECTIONS).await?;
        let utils = WorkerUtils::new(pools.sending.clone(), SCHEMA);
        Ok(Arc::new(Open { utils, pools, order, spread }))
    }
}

struct Open {
    utils: WorkerUtils,
    pools: Pools,
    order: Order,
    spread: Spread,
}

impl Open {
    fn spec(&self, event: &Event) -> JobSpec {
        match self.order {
            Order::PerKey => JobSpec { queue_name: Some(event.to.clone()), ..JobSpec::default() },
            Order::Any => JobSpec::default(),
        }
    }
}

/// The job of an event.
#[derive(Clone, Serialize, Deserialize)]
struct Count(Event);

/// The data of a handler.
#[derive(Debug, Clone)]
struct Shared(Arc<Handled>);

impl TaskHandler for Count {
    const IDENTIFIER: &'static str = "count";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let Some(Shared(handled)) = context.get_ext::<Shared>() else { return Err("nobody counts".to_owned()) };
        let counted = async {
            let mut connection = context.pg_pool().acquire().await?;
            add!(sqlx, connection, self.0).await
        };
        match counted.await {
            Ok(_) => {
                handled.committed(std::slice::from_ref(&self.0));
                Ok(())
            }
            Err(error) => {
                handled.fault(&error);
                Err(error.to_string())
            }
        }
    }
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        truncate(&self.pools.sending, "graphile_worker._private_jobs, graphile_worker._private_job_queues").await
    }

    async fn emit(&self, event: Event) -> Result<()> {
        let spec = self.spec(&event);
        self.utils.add_job(Count(event), spec).await?;
        Ok(())
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let specs: Vec<JobSpec> = events.iter().map(|event| self.spec(event)).collect();
        let jobs: Vec<(Count, &JobSpec)> = events.into_iter().map(Count).zip(&specs).collect();
        self.utils.add_jobs(&jobs).await?;
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let mut options = WorkerOptions::default();
        // In one queue, the next job waits until the previous one is completed.
        if (self.order, self.spread) != (Order::PerKey, Spread::Hot) {
            options = options.complete_job_batch_delay(COMPLETE_DELAY).fail_job_batch_delay(COMPLETE_DELAY);
        }
        let worker = options
            .schema(SCHEMA)
            .pg_pool(self.pools.consuming.clone())
            .concurrency(HANDLERS)
            .poll_interval(POLL_INTERVAL)
            .local_queue(LocalQueueConfig::default().with_size(FETCHED))
            .listen_os_shutdown_signals(false)
            .add_extension(Shared(handled))
            .define_job::<Count>()
            .init()
            .await?;
        let worker = Arc::new(worker);
        let running = tokio::spawn({
            let worker = Arc::clone(&worker);
            async move { worker.run().await.map_err(anyhow::Error::from) }
        });
        Ok(Box::new(Running { worker, running }))
    }

    async fn left(&self) -> Result<i64> {
        let left = sqlx::query_scalar("SELECT count(*) FROM graphile_worker._private_jobs");
        Ok(left.fetch_one(&self.pools.sending).await?)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Running {
    worker: Arc<Worker>,
    running: JoinHandle<Result<()>>,
}

#[async_trait]
impl Consumer for Running {
    async fn stop(mut self: Box<Self>) -> Result<()> {
        self.worker.request_shutdown();
        (&mut self.running).await?
    }
}

impl Drop for Running {
    /// The worker of an interrupted measurement ends here.
    fn drop(&mut self) {
        self.worker.request_shutdown();
    }
}
