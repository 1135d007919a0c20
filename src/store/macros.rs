//! Statements whose text both engines accept, written once.
//!
//! What is bound to a limit is part of an expression (`LIMIT $4 + 0`), here and in the statements of SQLite: that engine plans a statement anew for
//! every value that is bound to a bare one, which takes longer than to run it.

/// Implements a table's trait for both engines from one body, in which `Engine` is the engine and `now_us!()` is the text of its clock,
/// `replicated!()` makes a commit wait, and `session_id!()` is the number of the session.
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
