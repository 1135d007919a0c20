//! Several tokio runtimes in one process, as tests and embedders have them. State that the runtimes share outlives each
//! of them.

use std::num::NonZeroU32;
use std::sync::mpsc;

use ::eventbox::{Emitted, Error, Event, Receipt, Recipient, Result, Sender, SenderConfig, emit};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine};

fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// A tokio runtime in a thread of its own. It starts some work, and shuts down in the middle of it on request.
struct Dying {
    ends: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Dying {
    /// Returns when the work has begun and only waits.
    async fn begin(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let ((ends, is_ended), (begun, is_begun)) = (mpsc::channel(), oneshot::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(work);
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
            });
            begun.send(()).unwrap();
            is_ended.recv().unwrap();
            drop(runtime);
        });
        is_begun.await.unwrap();
        Dying { ends, thread }
    }

    fn end(self) {
        self.ends.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Returns a sender that sends one group at a time, and that waits for locks as long as a test takes.
fn config() -> SenderConfig {
    let lock_wait = 4 * SOON;
    SenderConfig::default().with_concurrent_groups(NonZeroU32::MIN).with_lock_wait(lock_wait)
}

/// Holds the name `held`, and on SQLite the file.
async fn hold<B: CellEngine>(db: &TestDb<B>) -> sqlx::Transaction<'static, B> {
    let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
    B::emit(&mut tx, &order("held"), Event::new("x").named("held")).await.unwrap();
    tx
}

async fn soon(emitting: JoinHandle<Result<Receipt>>) -> Result<Receipt> {
    tokio::time::timeout(SOON, emitting).await.expect("it does not hang").unwrap()
}

on_every_engine! {
    async fn a_sender_outlives_the_runtime_that_sends(db) {
        let sender = Sender::with(db.pool.clone(), config());
        for named in [true, false] {
            let tx = hold(db).await;
            let event = |key: &str| if named { Event::new("x").named(key) } else { Event::new("x") };
            let (theirs, first) = (sender.clone(), event("held"));
            let dying = Dying::begin(async move {
                let _ = theirs.emit(&order("held"), first).await;
            })
            .await;
            // These emits wait behind the group of the other runtime.
            let waiting: Vec<_> = (0..3)
                .map(|n| {
                    let (sender, event) = (sender.clone(), event(&format!("behind {n}")));
                    tokio::spawn(async move { sender.emit(&order("behind"), event).await })
                })
                .collect();
            tokio::task::yield_now().await;
            dying.end();
            tx.rollback().await.unwrap();
            for waiting in waiting {
                assert_eq!(soon(waiting).await.unwrap(), Emitted::Added);
            }
            let (sender, after) = (sender.clone(), event("after"));
            let after = tokio::spawn(async move { sender.emit(&order("after"), after).await });
            assert_eq!(soon(after).await.unwrap(), Emitted::Added);
        }
        assert_eq!(sender.stop(SOON).await.left, 0);
    }

    /// The sender retries a named event that another runtime was sending. The outcome of an event without a name is
    /// unknown.
    async fn events_in_flight_when_their_runtime_ended_have_an_outcome(db) {
        for named in [true, false] {
            let sender = Sender::with(db.pool.clone(), config());
            let tx = hold(db).await;
            let (leads, theirs) = (Event::new("x").named("held"), sender.clone());
            let (begun, is_begun) = oneshot::channel();
            let (ours, event) = (sender.clone(), Event::new("x"));
            let event = if named { event.named("ours") } else { event };
            // Both events are in one group: the test adds them before the runtime's task takes any.
            let mate = tokio::spawn(async move {
                is_begun.await.unwrap();
                ours.emit(&order("held"), event).await
            });
            let dying = Dying::begin(async move {
                begun.send(()).unwrap();
                let _ = theirs.emit(&order("held"), leads).await;
            })
            .await;
            dying.end();
            tx.rollback().await.unwrap();
            match soon(mate).await {
                Ok(receipt) => assert_eq!(receipt, Emitted::Added),
                Err(error) => assert!(!named && matches!(error, Error::Unknown { .. }), "{error}"),
            }
        }
    }

    /// On SQLite emits that arrive during a write wait for it.
    async fn emits_on_a_pool_outlive_the_runtime_that_writes_them(db) {
        let tx = hold(db).await;
        let pool = db.pool.clone();
        let dying = Dying::begin(async move {
            let theirs = order("theirs");
            let emits = (0..5).map(|_| Engine::emit_on(&pool, &theirs, Event::new("x")));
            futures_util::future::join_all(emits).await;
        })
        .await;
        let emits: Vec<_> = (0..5)
            .map(|_| {
                let pool = db.pool.clone();
                tokio::spawn(async move { emit(&pool, &order("ours"), Event::new("x")).await })
            })
            .collect();
        tokio::task::yield_now().await;
        dying.end();
        tx.rollback().await.unwrap();
        for emitting in emits {
            // An emit in flight on the other runtime may have an unknown outcome.
            match soon(emitting).await {
                Ok(receipt) => assert_eq!(receipt, Emitted::Added),
                Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error}"),
            }
        }
        eventually(SOON, async || emit(&db.pool, &order("after"), Event::new("x")).await.is_ok()).await;
    }
}
