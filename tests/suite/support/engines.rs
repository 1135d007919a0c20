//! Tests on every engine, and waits for a condition instead of sleeps.

use std::time::{Duration, Instant};

/// Time that a test waits for a condition. It is long, because only a failing test reaches it.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Interval at which [`eventually`] checks its condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Defines a test that runs on every engine, each time with a migrated database of its own, on two threads.
///
/// ```ignore
/// on_every_engine! {
///     /// A committed event is listed.
///     async fn an_event_is_listed(db) {
///         eventbox::emit(&db.pool, &to, Event::new("x")).await.unwrap();
///     }
/// }
/// ```
///
/// defines the tests `an_event_is_listed::postgres` and `an_event_is_listed::sqlite`.
/// In the body, `db` is a `&TestDb<Engine>` and `Engine` is the engine.
macro_rules! on_every_engine {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                type Engine = sqlx::Postgres;
                crate::support::with_database(
                    stringify!($name),
                    async |$db: &crate::support::TestDb<Engine>| $body,
                )
                .await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                type Engine = sqlx::Sqlite;
                crate::support::with_database(
                    stringify!($name),
                    async |$db: &crate::support::TestDb<Engine>| $body,
                )
                .await;
            }
        }
    )+};
}
pub(crate) use on_every_engine;

/// Waits until `condition` holds, and checks it repeatedly. Panics after `deadline`, and names the caller's line.
#[track_caller]
pub(crate) fn eventually(deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < deadline, "not true within {deadline:?}: the condition at {caller}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
