//! Where events are emitted.

use sqlx::{Executor, Pool};

use super::Backend;

/// A pool, on which an emit commits by itself, or a connection, perhaps in a transaction of the caller.
///
/// The executors of sqlx that eventboxes know: `&Pool`, and `&mut` of a connection, as `&mut *tx` is one. Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no place where events are emitted",
    label = "expected `&pool`, `&mut *tx` or `&mut *connection`",
    note = "in a transaction `tx`, write `&mut *tx` instead of `&mut tx`; with a pooled connection `conn`, write `&mut *conn`"
)]
pub trait EmitExecutor<'e>: Executor<'e, Database: Backend> + sealed::Sealed + 'e {
    /// The pool, if it is one.
    #[doc(hidden)]
    fn pool(&self) -> Option<Pool<Self::Database>>;
}

mod sealed {
    pub trait Sealed {}
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
macro_rules! executors {
    ($engine:ty, $connection:ty) => {
        impl sealed::Sealed for &Pool<$engine> {}
        impl sealed::Sealed for &mut $connection {}

        impl<'e> EmitExecutor<'e> for &'e Pool<$engine> {
            fn pool(&self) -> Option<Pool<$engine>> {
                Some((*self).clone())
            }
        }

        impl<'e> EmitExecutor<'e> for &'e mut $connection {
            fn pool(&self) -> Option<Pool<$engine>> {
                None
            }
        }
    };
}

#[cfg(feature = "postgres")]
executors!(sqlx::Postgres, sqlx::PgConnection);
#[cfg(feature = "sqlite")]
executors!(sqlx::Sqlite, sqlx::SqliteConnection);
