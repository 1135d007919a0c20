//! Single emits on a pool: emits that arrive during a write commit together.
//!
//! An emit that finds the slot free inserts at once. Other emits put their rows into a queue. One task moves the rows
//! into parts of shared transactions, and each emit returns when the transaction with its row is committed. The number
//! of waiting callers bounds the queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{Pool, Sqlite};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::group_commit::{Writers, writers_of};
use crate::store::connect::group::GroupCommit;
use crate::store::connect::takeover::Gone;
use crate::store::fault::{Fault, SharedFault};
use crate::store::inbox::event::{EventDialect, EventRow};
use crate::store::sqlite::inbox::event::insert_plain_events;

/// The most rows of a part.
const MAX_ROWS: usize = 1_000;

/// The most bytes of the values of a part. A part always takes one row.
const MAX_BYTES: usize = 4 << 20;

/// Rows that wait for their part.
#[derive(Default)]
pub(super) struct Emits {
    queue: Mutex<Queue>,
    /// Notified when the task that empties the queue ends with its runtime.
    gone: Gone,
}

#[derive(Default)]
struct Queue {
    /// Whether a task empties the queue.
    emptied: bool,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    shard: i16,
    recipient: String,
    id: Uuid,
    traceparent: Option<String>,
    origin: Option<String>,
    value: Vec<u8>,
    answer: oneshot::Sender<Result<(), SharedFault>>,
}

impl Waiting {
    fn row(&self) -> EventRow<'_> {
        EventRow {
            shard: self.shard,
            recipient: &self.recipient,
            id: self.id,
            name: None,
            traceparent: self.traceparent.as_deref(),
            origin: self.origin.as_deref(),
            value: &self.value,
            due: None,
        }
    }
}

impl Emits {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rows of the next part.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let mut bytes = 0_usize;
        let fitting = queue.waiting.iter().take(MAX_ROWS).take_while(|waiting| {
            bytes = bytes.saturating_add(waiting.value.len());
            bytes <= MAX_BYTES
        });
        let count = fitting.count().max(1).min(queue.waiting.len());
        queue.waiting.drain(..count).collect()
    }

    /// Returns whether no row waits. Then the calling task ends.
    fn is_empty(&self) -> bool {
        let mut queue = self.queue();
        queue.emptied = !queue.waiting.is_empty();
        !queue.emptied
    }
}

/// Inserts one plain event. Returns when it is committed.
pub(crate) async fn insert(pool: &Pool<Sqlite>, row: EventRow<'_>) -> Result<(), Fault> {
    let writers = writers_of(pool);
    if let Some(_slot) = writers.queue.try_write_now() {
        return Sqlite::insert_event(pool, row).await;
    }
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting {
        shard: row.shard,
        recipient: row.recipient.to_owned(),
        id: row.id,
        traceparent: row.traceparent.map(str::to_owned),
        origin: row.origin.map(str::to_owned),
        value: row.value.to_vec(),
        answer,
    };
    writers.emits.queue().waiting.push_back(waiting);
    match writers.emits.gone.answer(answered, || see_to(pool, &writers)).await {
        Ok(answer) => Ok(answer?),
        // The task with the row has ended.
        Err(_) => Err(Fault(sqlx::Error::WorkerCrashed)),
    }
}

/// Begins a task that empties the queue, unless one is running.
fn see_to(pool: &Pool<Sqlite>, writers: &Arc<Writers>) {
    let is_begun = {
        let mut queue = writers.emits.queue();
        queue.waiting.is_empty() || std::mem::replace(&mut queue.emptied, true)
    };
    if !is_begun {
        tokio::spawn(empty(pool.clone(), Emptying { writers: Arc::clone(writers), has_ended: false }));
    }
}

/// The task that empties the queue. When it ends with its runtime, a waiting caller begins another task.
struct Emptying {
    writers: Arc<Writers>,
    has_ended: bool,
}

impl Drop for Emptying {
    fn drop(&mut self) {
        if !self.has_ended {
            self.writers.emits.queue().emptied = false;
            self.writers.emits.gone.tell();
        }
    }
}

/// Empties the queue.
async fn empty(pool: Pool<Sqlite>, mut emptying: Emptying) {
    let writers = Arc::clone(&emptying.writers);
    while !writers.emits.is_empty() {
        // Rows that arrive while this task waits for the slot go into the same part.
        let part = Sqlite::begin_shared(&pool).await;
        let rows = writers.emits.take();
        let inserted = match part {
            Ok(part) => insert_part(part, &rows).await,
            Err(fault) => {
                answer(rows, &Err(fault.shared()));
                continue;
            }
        };
        match inserted.map_err(Fault::shared) {
            Err(fault) if !fault.lost_the_answer() && rows.len() > 1 => one_by_one(&pool, rows).await,
            inserted => answer(rows, &inserted),
        }
    }
    emptying.has_ended = true;
}

fn answer(rows: Vec<Waiting>, inserted: &Result<(), SharedFault>) {
    for row in rows {
        // A caller that has given up gets no answer.
        let _ = row.answer.send(inserted.clone());
    }
}

async fn insert_part(mut part: <Sqlite as GroupCommit>::SharedTx, rows: &[Waiting]) -> Result<(), Fault> {
    let rows: Vec<_> = rows.iter().map(Waiting::row).collect();
    match insert_plain_events(&mut part, &rows).await {
        Ok(()) => Sqlite::commit_shared(part).await,
        Err(fault) => {
            Sqlite::roll_back_shared(part).await;
            Err(fault)
        }
    }
}

/// Inserts each row by itself, so that a refused row fails alone.
async fn one_by_one(pool: &Pool<Sqlite>, rows: Vec<Waiting>) {
    for row in rows {
        let inserted = Sqlite::insert_event(pool, row.row()).await;
        let _ = row.answer.send(inserted.map_err(Fault::shared));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Event, Origin, Recipient};

    const FRAME_BYTES: u64 = 4_096 + 24;

    async fn open(directory: &tempfile::TempDir) -> Pool<Sqlite> {
        let pool = Pool::connect_with(crate::sqlite_options(directory.path().join("e.sqlite3"))).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        pool
    }

    /// Emits many events while another transaction writes. Returns the result of each.
    async fn emit_behind_a_writer(pool: &Pool<Sqlite>, values: &[&'static str]) -> Vec<crate::Result<crate::Receipt>> {
        let writer = Sqlite::begin_exclusive(pool, None).await.unwrap();
        let emits: Vec<_> = values
            .iter()
            .copied()
            .map(|value| {
                let (pool, to) = (pool.clone(), Recipient::new("cell", "1").unwrap());
                let event = Event::new(value).with_origin(Origin::new("chat", value, 1).unwrap());
                tokio::spawn(async move { crate::emit(&pool, &to, event).await })
            })
            .collect();
        while writers_of(pool).emits.queue().waiting.len() < values.len() {
            tokio::task::yield_now().await;
        }
        Sqlite::commit_shared(writer).await.unwrap();
        let mut answers = Vec::new();
        for emit in emits {
            answers.push(emit.await.unwrap());
        }
        answers
    }

    async fn refuse_bad(pool: &Pool<Sqlite>) {
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON eventbox_event WHEN new.value = CAST('bad' AS BLOB)
                      BEGIN SELECT RAISE(ABORT, 'refused'); END";
        sqlx::query(refuse).execute(pool).await.unwrap();
    }

    async fn values(pool: &Pool<Sqlite>) -> Vec<Vec<u8>> {
        sqlx::query_scalar("SELECT value FROM eventbox_event ORDER BY id").fetch_all(pool).await.unwrap()
    }

    #[tokio::test]
    async fn emits_that_wait_for_a_writer_commit_together() {
        let directory = tempfile::tempdir().unwrap();
        let pool = open(&directory).await;
        let log = directory.path().join("e.sqlite3-wal");
        let before = log.metadata().unwrap().len();
        for answer in emit_behind_a_writer(&pool, &["x"; 50]).await {
            answer.unwrap();
        }
        assert_eq!(values(&pool).await.len(), 50);
        let with_origin = r#"SELECT count(*) FROM eventbox_event WHERE origin = '[["chat","x",1,1]]'"#;
        assert_eq!(sqlx::query_scalar::<_, i64>(with_origin).fetch_one(&pool).await.unwrap(), 50);
        let frames = (log.metadata().unwrap().len() - before) / FRAME_BYTES;
        assert!(frames < 25, "every commit writes a frame or more: {frames}");
    }

    #[tokio::test]
    async fn lists_commit_together_and_a_cancelled_one_harms_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let pool = open(&directory).await;
        let log = directory.path().join("e.sqlite3-wal");
        let writer = Sqlite::begin_exclusive(&pool, None).await.unwrap();
        let before = log.metadata().unwrap().len();
        let lists: Vec<_> = (0..20)
            .map(|n| {
                let (pool, to) = (pool.clone(), Recipient::new("cell", n.to_string()).unwrap());
                tokio::spawn(async move { crate::emit_all(&pool, &[(to, Event::new("x"))]).await })
            })
            .collect();
        while writers_of(&pool).queue.waiting() < lists.len() {
            tokio::task::yield_now().await;
        }
        lists[7].abort();
        Sqlite::commit_shared(writer).await.unwrap();
        for (n, list) in lists.into_iter().enumerate() {
            match list.await {
                Ok(answers) => assert_eq!(answers.unwrap(), [crate::Emitted::Added], "{n}"),
                Err(given_up) => assert!(n == 7 && given_up.is_cancelled(), "{n}: {given_up}"),
            }
        }
        assert!(values(&pool).await.len() >= 19);
        let frames = (log.metadata().unwrap().len() - before) / FRAME_BYTES;
        assert!(frames < 10, "every commit writes a frame or more: {frames}");
    }

    #[tokio::test]
    async fn a_list_that_is_refused_fails_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pool = open(&directory).await;
        refuse_bad(&pool).await;
        let writer = Sqlite::begin_exclusive(&pool, None).await.unwrap();
        let to = Recipient::new("cell", "1").unwrap();
        let lists = [["1", "2"], ["3", "bad"], ["4", "5"]].map(|list| {
            let (pool, events) = (pool.clone(), list.map(|value| (to.clone(), Event::new(value))));
            tokio::spawn(async move { crate::emit_all(&pool, &events).await })
        });
        while writers_of(&pool).queue.waiting() < lists.len() {
            tokio::task::yield_now().await;
        }
        Sqlite::commit_shared(writer).await.unwrap();
        let mut refused = Vec::new();
        for list in lists {
            refused.push(matches!(list.await.unwrap(), Err(Error::Database { .. })));
        }
        assert_eq!(refused, [false, true, false]);
        let mut values = values(&pool).await;
        values.sort();
        assert_eq!(values, [b"1", b"2", b"4", b"5"].map(|value| value.to_vec()));
    }

    #[tokio::test]
    async fn an_event_that_is_refused_fails_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pool = open(&directory).await;
        refuse_bad(&pool).await;
        let answers = emit_behind_a_writer(&pool, &["1", "bad", "2"]).await;
        let refused: Vec<bool> = answers.iter().map(|answer| matches!(answer, Err(Error::Database { .. }))).collect();
        assert_eq!(refused, [false, true, false], "{answers:?}");
        assert_eq!(values(&pool).await, [b"1".to_vec(), b"2".to_vec()]);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_keeps_no_other_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let pool = open(&directory).await;
        let writer = Sqlite::begin_exclusive(&pool, None).await.unwrap();
        let to = Recipient::new("cell", "1").unwrap();
        {
            let gone = std::pin::pin!(crate::emit(&pool, &to, Event::new("gone")));
            assert!(futures_util::poll!(gone).is_pending());
        }
        Sqlite::commit_shared(writer).await.unwrap();
        crate::emit(&pool, &to, Event::new("next")).await.unwrap();
        assert!(values(&pool).await.contains(&b"next".to_vec()));
    }
}
