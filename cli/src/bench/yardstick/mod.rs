//! The statements of the benchmark, one file for each engine: the yardsticks by hand, their tables, and the looks at what the engine counts.

mod postgres;
mod sqlite;

/// The library's calls whose executor must be a concrete one.
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

/// How long to wait before a look at what is about to change.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// How late an old server writes its statistics.
const STATISTICS_DELAY: std::time::Duration = std::time::Duration::from_secs(1);
