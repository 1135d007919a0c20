//! Wake-ups from a process that only emits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::notify::{self, Sending};
use crate::eventbox::{self, WakeUps};
use crate::service::StopReport;
use crate::shard::ShardSet;
use crate::store::Backend;

/// Wakes up the runtimes of other processes after emits of this process, which has no
/// [`Runtime`](crate::runtime::Runtime) of its own.
///
/// Start it in a service that emits and leaves the work to other processes. Without it, on Postgres, an event waits for
/// the next poll ([`poll_interval`](crate::runtime::RuntimeConfig::poll_interval), 1 s by default). It sends a `NOTIFY`
/// at once after a few emits, and one every 1 to 50 ms after many. For each it takes a connection of the pool. On
/// SQLite it does nothing, because the other processes see the version of the file. A `Runtime` sends its own wake-ups.
///
/// A wake-up may get lost. Its event then waits for the poll. Dropping the announcer stops it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use std::time::Duration;
///
/// use eventbox::runtime::Announcer;
///
/// let announcer = Announcer::start(&pool);
/// let order = eventbox::Recipient::new("order", "4711")?;
/// eventbox::emit(&pool, &order, eventbox::Event::new("paid")).await?;
/// let _ = announcer.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct Announcer<B: Backend> {
    pool: Pool<B>,
    wake_ups: Arc<WakeUps>,
    task: Mutex<Option<JoinHandle<()>>>,
    stopping: CancellationToken,
    _guard: DropGuard,
}

impl<B: Backend> Announcer<B> {
    /// Starts the announcer in its own task.
    #[must_use = "dropping it stops it"]
    pub fn start(pool: &Pool<B>) -> Self {
        let (wake_ups, stopping) = (eventbox::listen(), CancellationToken::new());
        let task = B::SENDS_WAKE_UPS.then(|| {
            // This process works on no shard, so every wake-up goes to other processes.
            let (_, owned) = watch::channel(ShardSet::default());
            let wake_ups = Arc::clone(&wake_ups);
            tokio::spawn(notify::send_loop(pool.clone(), wake_ups, owned, Sending::All, stopping.clone()))
        });
        Announcer {
            pool: pool.clone(),
            wake_ups,
            task: Mutex::new(task),
            _guard: stopping.clone().drop_guard(),
            stopping,
        }
    }

    /// Stops the announcer after its last wake-ups, within `limit`, so that a process may emit and end. A second stop
    /// does nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has stopped the announcer, and may have sent the last wake-ups or not.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.stopping.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(task) = task else { return StopReport::COMPLETE };
        let sending = async {
            // The task may be sending now. Only the end of the tokio runtime makes it fail.
            let _ = task.await;
            let last = self.wake_ups.take();
            if !last.is_empty() {
                notify::send(&self.pool, &last).await;
            }
        };
        StopReport::in_time(timeout(limit, sending).await.is_ok())
    }
}

impl<B: Backend> fmt::Debug for Announcer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}
