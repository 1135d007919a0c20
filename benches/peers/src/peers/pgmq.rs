//! `pgmq`: batches read under a visibility timeout, then counted and deleted in one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use pgmq::{Message, PGMQueueExt};
use sqlx8::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::peer::{CONSUMING_CONNECTIONS, Consumer, Handled, OlderPools, Order, Peer, Session, Spread, older_pool};
use crate::states::{ADD_MANY, Additions};

/// The header that puts a message into a group. The messages of a group are read in order.
const GROUP: &str = "x-pgmq-group";

/// Returns the number of readers. Only one reader at a time can read a group; other readers would find nothing.
const READERS: usize = 8;
const READERS_OF_ONE: usize = 1;

/// Number of messages of one read.
const BATCH: i32 = 100;

/// Visibility timeout of a read message in seconds.
const VISIBILITY_TIMEOUT: i32 = 60;

/// Pause of a reader that found no message.
///
/// A read that polls on the server is one long transaction. After a lost race for a message it keeps the row locked.
/// The winner then cannot delete the message until the poll ends.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Pgmq;

#[async_trait(?Send)]
impl Peer for Pgmq {
    fn name(&self) -> &'static str {
        "pgmq"
    }

    fn can(&self, _order: Order) -> bool {
        true
    }

    async fn install(&self, url: &str) -> Result<()> {
        let pool = older_pool(url, 1).await?;
        let queues = PGMQueueExt::new_with_pool(pool.clone()).await;
        queues.install_sql_from_embedded().await?;
        for order in [Order::PerKey, Order::Any] {
            queues.create(queue(order)).await?;
        }
        queues.create_fifo_index(queue(Order::PerKey)).await?;
        pool.close().await;
        Ok(())
    }

    async fn open(&self, url: &str, order: Order, spread: Spread) -> Result<Arc<dyn Session>> {
        let pools = OlderPools::open(url, CONSUMING_CONNECTIONS).await?;
        let queues = PGMQueueExt::new_with_pool(pools.sending.clone()).await;
        Ok(Arc::new(Open { queues, pools, order, spread }))
    }
}

fn queue(order: Order) -> &'static str {
    match order {
        Order::PerKey => "ordered",
        Order::Any => "plain",
    }
}

struct Open {
    queues: PGMQueueExt,
    pools: OlderPools,
    order: Order,
    spread: Spread,
}

fn headers(event: &Event) -> HashMap<&'static str, String> {
    HashMap::from([(GROUP, event.to.clone())])
}

#[async_trait]
impl Session for Open {
    async fn clear(&self) -> Result<()> {
        self.queues.purge_queue(queue(self.order)).await?;
        Ok(())
    }

    async fn emit(&self, event: Event) -> Result<()> {
        let queue = queue(self.order);
        match self.order {
            Order::PerKey => self.queues.send_delay_with_headers(queue, &event, Some(&headers(&event)), 0).await?,
            Order::Any => self.queues.send(queue, &event).await?,
        };
        Ok(())
    }

    async fn emit_batch(&self, events: Vec<Event>) -> Result<()> {
        let queue = queue(self.order);
        match self.order {
            Order::PerKey => {
                let headers: Vec<_> = events.iter().map(headers).collect();
                self.queues.send_batch_with_delay_with_headers(queue, &events, Some(&headers), 0).await?;
            }
            Order::Any => drop(self.queues.send_batch(queue, &events).await?),
        }
        Ok(())
    }

    async fn consume(&self, handled: Arc<Handled>) -> Result<Box<dyn Consumer>> {
        let queues = PGMQueueExt::new_with_pool(self.pools.consuming.clone()).await;
        let reader =
            Reader { queues, pool: self.pools.consuming.clone(), order: self.order, spread: self.spread, handled };
        let (reader, stopping, mut readers) = (Arc::new(reader), CancellationToken::new(), JoinSet::new());
        let count = match (self.order, self.spread) {
            (Order::PerKey, Spread::Hot) => READERS_OF_ONE,
            _ => READERS,
        };
        for _ in 0..count {
            let (reader, stopping) = (Arc::clone(&reader), stopping.clone());
            readers.spawn(async move {
                while !stopping.is_cancelled() {
                    let read = reader.read().await.unwrap_or_else(|error| {
                        reader.handled.fault(format!("{error:#}"));
                        false
                    });
                    if !read {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
        }
        Ok(Box::new(Readers { readers, stopping }))
    }

    async fn left(&self) -> Result<i64> {
        Ok(self.queues.metrics(queue(self.order)).await?.queue_length)
    }

    async fn close(&self) {
        self.pools.close().await;
    }
}

struct Reader {
    queues: PGMQueueExt,
    pool: PgPool,
    order: Order,
    spread: Spread,
    handled: Arc<Handled>,
}

impl Reader {
    /// Reads a batch, which commits its visibility timeout, then counts and deletes it in one transaction. Returns
    /// whether there was a batch.
    async fn read(&self) -> Result<bool> {
        let name = queue(self.order);
        let mut messages: Vec<Message<Event>> = match (self.order, self.spread) {
            (Order::Any, _) => self.queues.read_batch(name, VISIBILITY_TIMEOUT, BATCH).await?,
            (Order::PerKey, Spread::Hot) => self.queues.read_grouped(name, VISIBILITY_TIMEOUT, BATCH).await?,
            (Order::PerKey, Spread::Many) => self.queues.read_grouped_head(name, VISIBILITY_TIMEOUT, BATCH).await?,
        };
        if messages.is_empty() {
            return Ok(false);
        }
        // The messages come in the order of the update.
        messages.sort_by_key(|message| message.msg_id);
        let ids: Vec<i64> = messages.iter().map(|message| message.msg_id).collect();
        let events: Vec<Event> = messages.into_iter().map(|message| message.message).collect();
        let sums = Additions::of(&events);
        let mut tx = self.pool.begin().await?;
        let add = sqlx8::query(ADD_MANY).bind(&sums.recipients).bind(&sums.counts).bind(&sums.firsts);
        add.bind(&sums.lasts).bind(&sums.disorders).execute(&mut *tx).await?;
        let deleted = self.queues.delete_batch_with_cxn(name, &ids, &mut *tx).await?;
        // A reader that exceeded the visibility timeout must not count messages that another reader has read.
        ensure!(deleted == ids.len(), "{} of {} messages were gone", ids.len() - deleted, ids.len());
        tx.commit().await?;
        self.handled.committed(&events);
        Ok(true)
    }
}

struct Readers {
    readers: JoinSet<()>,
    stopping: CancellationToken,
}

#[async_trait]
impl Consumer for Readers {
    async fn stop(mut self: Box<Self>) -> Result<()> {
        self.stopping.cancel();
        while let Some(ended) = self.readers.join_next().await {
            ended?;
        }
        Ok(())
    }
}
