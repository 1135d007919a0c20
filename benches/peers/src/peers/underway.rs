//! `underway`: one task for each event. The handler's effect commits with the success of the task.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use sqlx8::postgres::PgListener;
use sqlx8::{PgPool, Postgres, Transaction};
use tokio::task::{JoinHandle, JoinSet};
use underway::{Queue, Task, Worker};

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, Handled, OlderPools, Order, Peer, Session, Spread, older_pool};
use crate::states::add;

const QUEUE: &str = "count";

/// Number of workers. Each keeps two connections to listen.
const WORKERS: u32 = 8;

/// Number of concurrent tasks of a worker.
const CONCURRENCY: usize = 2;

/// Channel that reports the commit of a handler, because the crate commits after the handler has returned.
const COMMITTED: &str = "bench_committed";

const LEFT: &str = "SELECT count(*) FROM underway.task WHERE state IN ('pending', 'in_progress')";

pub(crate) struct Underway;

#[async_trait(?Send)]
impl Peer for Underway {
    fn name(&self) -> &'static str {
        "underway"
    }

    /// A concurrency key allows one task of a key in the queue and refuses others.
    fn can(&self, order: Order) -> bool {
        order == Order::Any
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 1).await?;
        underway::run_migrations(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, _order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = OlderPools::open(url, CONSUMING_CONNECTIONS + 2 * WORKERS).await?;
        let queue = Arc::new(Queue::builder().name(QUEUE).pool(pools.consuming.clone()).build().await?);
        Ok(Arc::new(Open { queue, pools }))
    }
}

struct Open {
    queue: Arc<Queue<Count>>,
    pools: OlderPools,
}

/// The task of an event.
struct Count(Arc<Handled>);

impl Task for Count {
    type Input = Event;
    type Output = ();

    async fn execute(&self, mut tx: Transaction<'_, Postgres>, event: Event) -> underway::task::Result<()> {
        add!(sqlx8, tx, event).await?;
        if self.0.timed {
            let notify = sqlx8::query("SELECT pg_notify($1, $2)").bind(COMMITTED).bind(event.sent_us().to_string());
            notify.execute(&mut *tx).await?;
        }
        tx.commit().await?;
        if !self.0.timed {
            self.0.add(1);
        }
        Ok(())
    }
}

/// A task description for senders.
fn described() -> Count {
    Count(Handled::new(false, 0))
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        sqlx8::query("TRUNCATE underway.task CASCADE").execute(&self.pools.sending).await?;
        Ok(())
    }

    async fn emit(&self, event: Event) -> Result<()> {
        self.queue.enqueue(&self.pools.sending, &described(), &event).await?;
        Ok(())
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        self.queue.enqueue_multi(&self.pools.sending, &described(), &events).await?;
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let listening = match handled.timed {
            true => Some(listen(&self.pools.consuming, Arc::clone(&handled)).await?),
            false => None,
        };
        let mut worker = Worker::new(Arc::clone(&self.queue), Count(handled));
        worker.set_concurrency_limit(CONCURRENCY);
        let mut running = JoinSet::new();
        for _ in 0..WORKERS {
            let worker = worker.clone();
            running.spawn(async move { worker.run().await.map_err(anyhow::Error::from) });
        }
        Ok(Box::new(Running { worker, running, listening }))
    }

    async fn left(&self) -> Result<i64> {
        Ok(sqlx8::query_scalar(LEFT).fetch_one(&self.pools.sending).await?)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

async fn listen(pool: &PgPool, handled: Arc<Handled>) -> Result<JoinHandle<()>> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(COMMITTED).await?;
    Ok(tokio::spawn(async move {
        while let Ok(committed) = listener.recv().await {
            handled.stamp(committed.payload().parse().into_iter());
        }
    }))
}

struct Running {
    worker: Worker<Count>,
    running: JoinSet<Result<()>>,
    listening: Option<JoinHandle<()>>,
}

#[async_trait]
impl Consumer for Running {
    async fn stop(mut self: Box<Self>) -> Result<()> {
        self.worker.shutdown();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        if let Some(listening) = self.listening {
            listening.abort();
        }
        Ok(())
    }
}
