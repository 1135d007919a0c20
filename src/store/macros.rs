//! Statements whose text both engines accept, written once.
//!
//! A bound limit is part of an expression (`LIMIT $4 + 0`), here and in the statements of SQLite. SQLite would plan a
//! statement with a bare limit again for every bound value, which takes longer than the statement itself.

/// Implements a table's trait for both engines from one body, in which `Engine` is the engine. `now_us!()` is the text
/// of its clock, `replicated!()` is a text that makes a commit wait, and `kind!(text)` is the text of a recipient's
/// kind.
macro_rules! on_both_engines {
    ($($body:tt)*) => {
        #[cfg(feature = "postgres")]
        pub(super) mod on_postgres {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use crate::store::postgres::{kind, now_us, replicated, session_id};
            type Engine = sqlx::Postgres;
            $($body)*
        }
        #[cfg(feature = "sqlite")]
        pub(super) mod on_sqlite {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use crate::store::sqlite::{kind, now_us, replicated, session_id};
            type Engine = sqlx::Sqlite;
            $($body)*
        }
    };
}

pub(in crate::store) use on_both_engines;

/// All shards, for `shard IN (…)`: the engine looks into the primary key once for each.
macro_rules! all_shards {
    () => {
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, \
         28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, \
         54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, \
         80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103, \
         104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, \
         124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, \
         144, 145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162, 163, \
         164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 177, 178, 179, 180, 181, 182, 183, \
         184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198, 199, 200, 201, 202, 203, \
         204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219, 220, 221, 222, 223, \
         224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240, 241, 242, 243, \
         244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255"
    };
}
pub(in crate::store) use all_shards;

/// Whether a message waits for a paused destination. `CASE`, so that no planner makes a join of it: a join may read and
/// sort every due row, and here each row is looked at in the order of the index, only as long as something is paused.
macro_rules! is_paused {
    ($message:literal) => {
        concat!(
            "CASE WHEN EXISTS (SELECT 1 FROM eventbox_paused_destination)
                  THEN EXISTS (SELECT 1 FROM eventbox_paused_destination p
                               WHERE p.source IN ('', ",
            $message,
            ".source) AND p.type IN ('', ",
            $message,
            ".type)) ELSE false END"
        )
    };
}
pub(in crate::store) use is_paused;
