//! What peers ask of the database, with the engine erased, so that a connector is the same on both.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Pool;
use uuid::Uuid;

use super::undelivered;
use crate::admin::{self, Operator};
use crate::error::Result;
use crate::eventbox::{Emitted, Event, EventId, emit_all_in, in_transaction};
use crate::peer::boxes::emits::Emits;
use crate::peer::declare::mapping::Undelivered;
use crate::peer::declare::template::Template;
use crate::peer::stream::facts::StreamFacts;
use crate::peer::stream::id::StreamId;
use crate::recipient::Recipient;
use crate::store::{Backend, Durability, Fault, OpeningStream, StreamRow, Tx, answered, begin_tx, hold, in_time};

/// Most lost streams, and most eventboxes with events, that one statement lists.
pub(in crate::peer) const MAX_SWEPT: u32 = 500;

/// A move of a checkpoint.
#[derive(Debug, Clone)]
pub(in crate::peer) struct CheckpointMove {
    pub(in crate::peer) peer: String,
    pub(in crate::peer) stream: StreamId,
    pub(in crate::peer) from: Option<String>,
    pub(in crate::peer) to: String,
}

/// An event for a recipient.
pub(in crate::peer) type Emission = (Recipient, Event);

/// The database of a peer.
#[async_trait]
pub(in crate::peer) trait Door: Send + Sync {
    /// Emits events in order, all or none. Contention and failures of the database are retried until the peers stop.
    async fn emit(&self, events: Vec<Emission>, durability: Durability) -> Result<Vec<Emitted>>;

    /// Emits events and moves a checkpoint in one transaction, without retries. `None` when the checkpoint stands
    /// elsewhere.
    async fn emit_at(&self, events: &[Emission], to: &CheckpointMove) -> Result<Option<Vec<Emitted>>>;

    /// Returns the checkpoint of a stream.
    async fn checkpoint(&self, peer: &str, stream: &StreamId) -> Result<Option<String>>;

    /// Notes an open stream, and emits its signal. False when another living process has the stream.
    async fn open(&self, peer: &str, stream: &StreamId, facts: &StreamFacts, signal: Option<&Emission>)
    -> Result<bool>;

    /// Notes the end of a stream that `worker` has, and emits its signal. False when that process has it no more.
    async fn close(&self, peer: &str, stream: &StreamId, worker: Uuid, signal: Option<&Emission>) -> Result<bool>;

    /// Returns streams of a peer whose process has died.
    async fn lost(&self, peer: &str) -> Result<Vec<StreamRow>>;

    /// Returns one stream, if it is open.
    async fn stream(&self, peer: &str, stream: &str) -> Result<Option<StreamRow>>;

    /// Returns eventboxes of a kind that have events, each with its oldest event, behind a recipient: [`MAX_SWEPT`] at
    /// most, and none at the end.
    async fn waiting(&self, kind: &str, after: Option<&Recipient>) -> Result<Vec<(Recipient, EventId)>>;

    /// Moves events into the quarantine. Returns the number of moved events.
    async fn quarantine(&self, of: &Recipient, ids: &[EventId], reason: &str) -> Result<u64>;

    /// Does with the events of a closed stream what the mapping says. Returns the number of events.
    async fn dispose(&self, of: &Recipient, fate: &Fate) -> Result<usize>;

    /// The process as a member.
    fn worker(&self) -> Uuid;
}

/// What is done with the events of a closed stream.
#[derive(Debug, Clone)]
pub(in crate::peer) enum Fate {
    Quarantine { reason: String },
    MoveTo(Recipient),
    TellOf { peer: String, stream: String, to: Template },
}

impl Fate {
    /// Returns what a mapping says; `None` when the events stay. `other` is another open stream of the peer.
    pub(in crate::peer) fn of(
        undelivered: &Undelivered,
        peer: &str,
        stream: &str,
        other: Option<Recipient>,
    ) -> Option<Self> {
        match undelivered {
            Undelivered::Keep => None,
            Undelivered::DeadLetter => {
                Some(Fate::Quarantine { reason: format!("stream {stream} of peer {peer} is closed") })
            }
            Undelivered::AnotherStream => other.map(Fate::MoveTo),
            Undelivered::To(to) => {
                Some(Fate::TellOf { peer: peer.to_owned(), stream: stream.to_owned(), to: to.clone() })
            }
        }
    }
}

/// The door of one pool.
pub(in crate::peer) struct PoolDoor<B: Backend> {
    pub(in crate::peer) pool: Pool<B>,
    pub(in crate::peer) worker: Uuid,
    /// Silence after which a process counts as dead, in microseconds.
    pub(in crate::peer) silent_us: i64,
    pub(in crate::peer) emits: Arc<Emits>,
}

impl<B: Backend> PoolDoor<B> {
    async fn begin(&self) -> Result<Tx<B>, Fault> {
        begin_tx(&self.pool, B::BEGIN_WRITE, false).await
    }

    /// Emits the signal of a stream, and commits.
    async fn finish(&self, mut tx: Tx<B>, events: &[Emission], attempt: &str) -> Result<Vec<Emitted>> {
        let emitted = emit_all_in::<B>(&mut tx, events).await?;
        tx.commit().await.map_err(|fault| fault.during_commit(attempt))?;
        Ok(emitted)
    }
}

#[async_trait]
impl<B: Backend> Door for PoolDoor<B> {
    async fn emit(&self, events: Vec<Emission>, durability: Durability) -> Result<Vec<Emitted>> {
        self.emits.emit(events, durability).await
    }

    async fn emit_at(&self, events: &[Emission], to: &CheckpointMove) -> Result<Option<Vec<Emitted>>> {
        let attempt = format!("emit {} events of stream {} of peer {}", events.len(), to.stream, to.peer);
        let during = |fault: Fault| fault.during(&attempt);
        in_transaction(async {
            let mut tx = self.begin().await.map_err(during)?;
            let moving = B::move_checkpoint(&mut tx, &to.peer, to.stream.as_str(), to.from.as_deref(), &to.to);
            if !in_time::<B, _>(moving).await.map_err(during)? {
                return Ok(None);
            }
            self.finish(tx, events, &attempt).await.map(Some)
        })
        .await
    }

    async fn checkpoint(&self, peer: &str, stream: &StreamId) -> Result<Option<String>> {
        let read =
            answered(&self.pool, async { B::checkpoint(&mut *hold(&self.pool).await?, peer, stream.as_str()).await });
        read.await
            .map_err(|fault: Fault| fault.during(format!("read the checkpoint of stream {stream} of peer {peer}")))
    }

    async fn open(
        &self,
        peer: &str,
        stream: &StreamId,
        facts: &StreamFacts,
        signal: Option<&Emission>,
    ) -> Result<bool> {
        let attempt = format!("open stream {stream} of peer {peer}");
        let during = |fault: Fault| fault.during(&attempt);
        let facts = serde_json::to_string(facts).unwrap_or_default();
        let row = OpeningStream {
            peer,
            stream: stream.as_str(),
            worker: self.worker,
            facts: &facts,
            silent_us: self.silent_us,
        };
        in_transaction(async {
            let mut tx = self.begin().await.map_err(during)?;
            if !in_time::<B, _>(B::open_stream(&mut tx, row)).await.map_err(during)? {
                return Ok(false);
            }
            self.finish(tx, signal.map(std::slice::from_ref).unwrap_or_default(), &attempt).await?;
            Ok(true)
        })
        .await
    }

    async fn close(&self, peer: &str, stream: &StreamId, worker: Uuid, signal: Option<&Emission>) -> Result<bool> {
        let attempt = format!("close stream {stream} of peer {peer}");
        let during = |fault: Fault| fault.during(&attempt);
        in_transaction(async {
            let mut tx = self.begin().await.map_err(during)?;
            let closing = B::close_stream(&mut tx, peer, stream.as_str(), worker);
            if !in_time::<B, _>(closing).await.map_err(during)? {
                return Ok(false);
            }
            self.finish(tx, signal.map(std::slice::from_ref).unwrap_or_default(), &attempt).await?;
            Ok(true)
        })
        .await
    }

    async fn lost(&self, peer: &str) -> Result<Vec<StreamRow>> {
        let read = answered(&self.pool, async {
            let conn = &mut *hold(&self.pool).await?;
            B::list_lost_streams(conn, peer, i64::from(MAX_SWEPT), self.silent_us).await
        });
        read.await.map_err(|fault: Fault| fault.during(format!("list the lost streams of peer {peer}")))
    }

    async fn stream(&self, peer: &str, stream: &str) -> Result<Option<StreamRow>> {
        let read = answered(&self.pool, async {
            B::stream(&mut *hold(&self.pool).await?, peer, stream, self.silent_us).await
        });
        read.await.map_err(|fault: Fault| fault.during(format!("look for stream {stream} of peer {peer}")))
    }

    async fn waiting(&self, kind: &str, after: Option<&Recipient>) -> Result<Vec<(Recipient, EventId)>> {
        admin::waiting_boxes(&self.pool, kind, after, MAX_SWEPT).await
    }

    async fn quarantine(&self, of: &Recipient, ids: &[EventId], reason: &str) -> Result<u64> {
        Ok(Operator::unnamed(&self.pool).quarantine(of, ids, reason).await?.touched)
    }

    async fn dispose(&self, of: &Recipient, fate: &Fate) -> Result<usize> {
        undelivered::dispose(&self.pool, of, fate).await
    }

    fn worker(&self) -> Uuid {
        self.worker
    }
}

/// A door for tests that need no database.
#[cfg(test)]
pub(in crate::peer) mod closed {
    use super::*;

    /// Takes nothing, and has nothing.
    pub(in crate::peer) struct ClosedDoor;

    #[async_trait]
    impl Door for ClosedDoor {
        async fn emit(&self, events: Vec<Emission>, _: Durability) -> Result<Vec<Emitted>> {
            Ok(vec![Emitted::Added; events.len()])
        }

        async fn emit_at(&self, events: &[Emission], _: &CheckpointMove) -> Result<Option<Vec<Emitted>>> {
            Ok(Some(vec![Emitted::Added; events.len()]))
        }

        async fn checkpoint(&self, _: &str, _: &StreamId) -> Result<Option<String>> {
            Ok(None)
        }

        async fn open(&self, _: &str, _: &StreamId, _: &StreamFacts, _: Option<&Emission>) -> Result<bool> {
            Ok(true)
        }

        async fn close(&self, _: &str, _: &StreamId, _: Uuid, _: Option<&Emission>) -> Result<bool> {
            Ok(true)
        }

        async fn lost(&self, _: &str) -> Result<Vec<StreamRow>> {
            Ok(Vec::new())
        }

        async fn stream(&self, _: &str, _: &str) -> Result<Option<StreamRow>> {
            Ok(None)
        }

        async fn waiting(&self, _: &str, _: Option<&Recipient>) -> Result<Vec<(Recipient, EventId)>> {
            Ok(Vec::new())
        }

        async fn quarantine(&self, _: &Recipient, _: &[EventId], _: &str) -> Result<u64> {
            Ok(0)
        }

        async fn dispose(&self, _: &Recipient, _: &Fate) -> Result<usize> {
            Ok(0)
        }

        fn worker(&self) -> Uuid {
            Uuid::nil()
        }
    }
}
