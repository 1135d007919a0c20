//! Where events are emitted.

use sqlx::{Database, Executor, Pool};

use crate::store::Backend;

/// A pool, on which an emit commits by itself, or a connection, perhaps in a transaction of the caller.
///
/// Implemented for `&Pool`, and for `&mut` of a connection, such as `&mut *tx`. Sealed.
///
/// # Examples
///
/// For a transaction, pass its connection (`&mut *tx`). The compiler refuses the transaction itself:
///
/// ```compile_fail,E0277
/// # async fn f(mut tx: sqlx::Transaction<'static, sqlx::Sqlite>, to: eventbox::Recipient) {
/// let _ = eventbox::emit(&mut tx, &to, eventbox::Event::new("x")).await;
/// # }
/// ```
///
/// ```
/// # async fn f(mut tx: sqlx::Transaction<'static, sqlx::Sqlite>, to: eventbox::Recipient) {
/// let _ = eventbox::emit(&mut *tx, &to, eventbox::Event::new("x")).await;
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "an eventbox cannot write on `{Self}`: write `&mut *tx` for a transaction `tx`, or `&pool` for a pool",
    label = "write `&mut *tx`, `&mut *conn` or `&pool` here",
    note = "`&mut *tx` is the connection of the transaction `tx`; `&mut tx`, `&tx` and `tx` are not"
)]
pub trait EmitExecutor<'e>: Executor<'e, Database: Backend> + sealed::Sealed + 'e {
    /// Returns the pool, if this executor is a pool.
    #[doc(hidden)]
    fn pool(&self) -> Option<Pool<Self::Database>>;

    /// Returns the pool or the connection, for work of several statements.
    #[doc(hidden)]
    fn place(self) -> Place<'e, Self::Database>;
}

/// A pool, or a connection.
#[doc(hidden)]
pub enum Place<'e, DB: Database> {
    Pool(&'e Pool<DB>),
    Connection(&'e mut DB::Connection),
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

            fn place(self) -> Place<'e, $engine> {
                Place::Pool(self)
            }
        }

        impl<'e> EmitExecutor<'e> for &'e mut $connection {
            fn pool(&self) -> Option<Pool<$engine>> {
                None
            }

            fn place(self) -> Place<'e, $engine> {
                Place::Connection(self)
            }
        }
    };
}

#[cfg(feature = "postgres")]
executors!(sqlx::Postgres, sqlx::PgConnection);
#[cfg(feature = "sqlite")]
executors!(sqlx::Sqlite, sqlx::SqliteConnection);
