//! `sqlxmq`: one job for each event, in an ordered channel for its recipient if order is required. The transaction
//! that counts also completes the job.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use sqlx8::migrate::Migrator;
use sqlxmq::{CurrentJob, JobBuilder, JobRegistry, JobRunnerHandle, job, should_retry};
use uuid::Uuid;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, Handled, OlderPools, Order, Peer, Session, Spread, older_pool};
use crate::states::add;

/// Number of running jobs below which more are fetched, and maximum number of running jobs. The difference is the
/// size of a fetch.
const CONCURRENCY: (usize, usize) = (32, 128);

/// Maximum number of attempts of an emit, if other senders write to its channel.
const MAX_TRIES: usize = 1_000;

/// Time limit of running jobs at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(30);

/// The crate's SQL function for many messages. Its Rust calls send one message.
const INSERT_MANY: &str = "
SELECT mq_insert(array_agg(
    ROW(
        m.id, interval '0', 4, interval '1 second', $1, m.args, NULL::interval, $2, 'count', m.json, NULL::bytea
    )::mq_new_t
)) FROM unnest($3::uuid[], $4::text[], $5::text[]) AS m (id, args, json)";

/// Counts all messages except the crate's placeholder.
const LEFT: &str = "SELECT count(*) FROM mq_msgs WHERE id <> uuid_nil()";

pub(crate) struct Sqlxmq;

#[async_trait(?Send)]
impl Peer for Sqlxmq {
    fn name(&self) -> &'static str {
        "sqlxmq"
    }

    fn can(&self, _order: Order) -> bool {
        true
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 1).await?;
        let migrations = Migrator::new(Path::new(env!("SQLXMQ_MIGRATIONS"))).await?;
        migrations.run(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, order: Order, _spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = OlderPools::open(url, CONSUMING_CONNECTIONS).await?;
        Ok(Arc::new(Open { pools, order }))
    }
}

struct Open {
    pools: OlderPools,
    order: Order,
}

impl Open {
    fn channel(&self) -> &'static str {
        match self.order {
            Order::PerKey => "ordered",
            Order::Any => "plain",
        }
    }

    fn channel_args<'a>(&self, event: &'a Event) -> &'a str {
        match self.order {
            Order::PerKey => &event.to,
            Order::Any => "",
        }
    }

    fn is_ordered(&self) -> bool {
        self.order == Order::PerKey
    }

    async fn spawn(&self, event: &Event) -> sqlx8::Result<()> {
        let mut job = JobBuilder::new("count");
        job.set_channel_name(self.channel()).set_channel_args(self.channel_args(event)).set_ordered(self.is_ordered());
        job.set_json(event).map_err(|error| sqlx8::Error::Encode(error.into()))?;
        job.spawn(&self.pools.sending).await.map(drop)
    }

    async fn insert(&self, args: &[&str], json: &[String]) -> sqlx8::Result<()> {
        // A batch is ordered by id, so the ids grow.
        let ids: Vec<Uuid> = args.iter().map(|_| Uuid::now_v7()).collect();
        let insert = sqlx8::query(INSERT_MANY).bind(self.channel()).bind(self.is_ordered());
        insert.bind(ids).bind(args).bind(json).execute(&self.pools.sending).await.map(drop)
    }
}

/// Returns whether the crate recommends a retry.
fn again(result: &sqlx8::Result<()>, tried: usize) -> bool {
    tried < MAX_TRIES && matches!(result, Err(error) if should_retry(error))
}

#[job(name = "count")]
async fn count(mut job: CurrentJob, handled: Arc<Handled>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let counted = async {
        let event: Event = job.json()?.context("a job has no event")?;
        let mut tx = job.pool().begin().await?;
        add!(sqlx8, tx, event).await?;
        job.complete_with_transaction(tx).await?;
        anyhow::Ok(event)
    };
    match counted.await {
        Ok(event) => handled.committed(std::slice::from_ref(&event)),
        Err(error) => handled.fault(format!("{error:#}")),
    }
    Ok(())
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        sqlxmq::clear_all(&self.pools.sending).await?;
        Ok(())
    }

    async fn emit(&self, event: Event) -> Result<()> {
        for tried in 1.. {
            let spawned = self.spawn(&event).await;
            if !again(&spawned, tried) {
                return spawned.with_context(|| format!("tried {tried} times"));
            }
        }
        Ok(())
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let args: Vec<&str> = events.iter().map(|event| self.channel_args(event)).collect();
        let json = events.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        for tried in 1.. {
            let inserted = self.insert(&args, &json).await;
            if !again(&inserted, tried) {
                return inserted.with_context(|| format!("tried {tried} times"));
            }
        }
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let mut registry = JobRegistry::new(&[count]);
        registry.set_context(handled);
        let mut runner = registry.runner(&self.pools.consuming);
        runner.set_concurrency(CONCURRENCY.0, CONCURRENCY.1).set_channel_names(&[self.channel()]);
        Ok(Box::new(Running(runner.run().await?)))
    }

    async fn left(&self) -> Result<i64> {
        Ok(sqlx8::query_scalar(LEFT).fetch_one(&self.pools.sending).await?)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Running(JobRunnerHandle);

#[async_trait]
impl Consumer for Running {
    async fn stop(mut self: Box<Self>) -> Result<()> {
        self.0.stop().await;
        self.0.wait_jobs_finish(FINISH_WITHIN).await;
        Ok(())
    }
}
