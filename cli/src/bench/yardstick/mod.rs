//! The SQL of the benchmark, one file for each engine: yardsticks, their tables, and reads of the engine's counters.

pub(crate) mod outbox;
mod postgres;
mod sqlite;

/// Implements the library's calls that need a concrete executor.
macro_rules! library_calls {
    () => {
        async fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> eventbox::Result<()> {
            eventbox::emit(pool, to, event).await.map(drop)
        }

        async fn emit_all(pool: &Pool<Self>, events: &[(Recipient, Event)]) -> eventbox::Result<()> {
            eventbox::emit_all(pool, events).await.map(drop)
        }
    };
}
use library_calls;

/// Pause before the next read of a changing value.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// Time after which an old server writes its statistics.
const STATISTICS_DELAY: std::time::Duration = std::time::Duration::from_secs(1);
