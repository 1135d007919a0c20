//! Statements whose text both engines accept, written once.
//!
//! A bound limit is part of an expression (`LIMIT $4 + 0`), here and in the statements of SQLite. SQLite would plan a
//! statement with a bare limit again for every bound value, which takes longer than the statement itself.

/// Implements a table's trait for both engines from one body, in which `Engine` is the engine. `now_us!()` is the text
/// of its clock, and `replicated!()` is a text that makes a commit wait.
macro_rules! on_both_engines {
    ($($body:tt)*) => {
        #[cfg(feature = "postgres")]
        pub(super) mod on_postgres {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use crate::store::postgres::{now_us, replicated, session_id};
            type Engine = sqlx::Postgres;
            $($body)*
        }
        #[cfg(feature = "sqlite")]
        pub(super) mod on_sqlite {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use crate::store::sqlite::{now_us, replicated, session_id};
            type Engine = sqlx::Sqlite;
            $($body)*
        }
    };
}

pub(in crate::store) use on_both_engines;
