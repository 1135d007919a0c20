//! One promise and several ways to keep it: a promise of a turn holds for a round of one recipient, for a round of
//! many, and for a round of a processor, and a promise of one door into a box holds for all doors. Each test here is written once and runs for every
//! way, on every engine.

mod counting;
mod decisions;
mod doors;
mod failing;
mod journal;
#[cfg(feature = "postgres")]
mod lost_answer;
mod racing;
mod reducers;
mod rules;
mod timing;
mod ways;

/// Defines a test that runs for every way of working, on every engine.
macro_rules! by_every_way {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident, $way:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            crate::paths::for_each!($name, $db, $way, $body;
                turn Way::Turn; round_of_one Way::RoundOfOne; round_of_many Way::RoundOfMany;
                round_of_processor Way::RoundOfProcessor);
        }
    )+};
}
use by_every_way;

/// Defines a test that runs for every door into a box, on every engine.
macro_rules! by_every_door {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident, $door:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            crate::paths::for_each!($name, $db, $door, $body;
                emit Door::Emit; emit_all Door::EmitAll; in_a_transaction Door::Transaction; sender Door::Sender;
                set Door::Set);
        }
    )+};
}
use by_every_door;

/// One module for each case, with a test for each engine.
macro_rules! for_each {
    ($name:ident, $db:ident, $case:ident, $body:block; $($module:ident $value:expr);+) => {$(
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            #[cfg(feature = "postgres")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                type Engine = sqlx::Postgres;
                let $case = $value;
                let body = async |$db: &crate::support::TestDb<Engine>| $body;
                crate::support::with_database(stringify!($name), body).await;
            }

            #[cfg(feature = "sqlite")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                type Engine = sqlx::Sqlite;
                let $case = $value;
                let body = async |$db: &crate::support::TestDb<Engine>| $body;
                crate::support::with_database(stringify!($name), body).await;
            }
        }
    )+};
}
use for_each;
