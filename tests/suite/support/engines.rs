//! A test runs on every engine, and waits for a condition instead of sleeping.

use std::time::{Duration, Instant};

/// How long a test waits for something that should happen soon. Generous: it is reached only when the test fails.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How often [`eventually`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Writes a test once and runs it on every engine, each run with a migrated database of its own, on two threads.
///
/// ```ignore
/// on_every_engine! {
///     /// eventbox 7.
///     async fn an_event_is_listed(db) {
///         eventbox::emit(&db.pool, &to, Event::new("x")).await.unwrap();
///     }
/// }
/// ```
///
/// gives the tests `an_event_is_listed::postgres` and `an_event_is_listed::sqlite`. In the body, `db` is a `&TestDb<Engine>` and
/// `Engine` is the engine.
macro_rules! on_every_engine {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                type Engine = sqlx::Postgres;
                crate::support::with_database(stringify!($name), async |$db: &crate::support::TestDb<Engine>| $body).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                type Engine = sqlx::Sqlite;
                crate::support::with_database(stringify!($name), async |$db: &crate::support::TestDb<Engine>| $body).await;
            }
        }
    )+};
}
pub(crate) use on_every_engine;

/// Waits until `condition` holds, looking again and again; panics at the deadline, at the caller's line.
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
