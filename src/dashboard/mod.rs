//! A web page for the operator: what waits, why it waits, and the actions that mend it.
//!
//! [`serve()`] runs it by itself, as `eventbox serve` does. [`router`] mounts it in an `axum` service. Pages are
//! rendered on the server, and everything can be read without scripts; a small script updates the overview by
//! server-sent events. All of it stands on [`admin`](crate::admin), so the page says what the library says.
//!
//! | page | shows |
//! | --- | --- |
//! | `/` | kinds with waiting events, ages and the last hour; the outbox; members; a map of the shards |
//! | `/recipients` | recipients by kind, prefix and condition; pausing of a kind |
//! | `/recipient?r=kind/key` | one recipient: why it is not processed, state, events, timers, names; every action |
//! | `/dead` | dead letters of both sides, with their payload on request; replay and delete one, or all that match |
//! | `/outbox` | groups of messages and their errors; retry, and moving to the dead letters |
//! | `/shards` | members; states, holders, standbys, failures and leases of shards; release, move and unassign |
//! | `/peers` | peers, their open streams, what waits to be sent |
//! | `/doctor` | findings about the database and around it |
//! | `/operations` | who did what, when and why |
//! | `/api/…` | the same as JSON |
//!
//! Below `/api` are `overview`, `recipients`, `recipient`, `why`, `dead`, `outbox`, `messages`, `members`, `shards`,
//! `doctor` and `operations`, with the parameters of the pages.
//!
//! An action goes through a page that says what it will touch, by a rehearsal. The log of operations gets its reason.
//!
//! # Security
//!
//! * Without a token and a trusted header, [`serve()`] listens on loopback addresses only. The pages answer requests
//!   for loopback hosts and [added hosts](DashboardOptions::with_host) only, so that a foreign site cannot read them.
//! * Every write needs a token that belongs to the browser's cookie, and must come from a page of the dashboard.
//! * Pages load nothing from elsewhere and run no inline script (`Content-Security-Policy`), cannot be framed, and are
//!   not cached.
//! * A payload is shown on request only. It stands in no address and in no line of the log.
//!
//! Whoever mounts the router decides who reaches it: set a token, a trusted header, or an authentication of your own
//! around it. `/api` is read only.
//!
//! # Units and limits
//!
//! * Lists have 50 rows on a page. A payload is shown up to 64 KiB.
//! * A form has at most [`MAX_FORM_BYTES`] and must arrive within [`FORM_WAIT`]. A login lasts [`LOGIN_TTL`].
//! * At most [`MAX_LISTENERS`] pages listen for live updates. All of them share one read every [`UPDATE_EVERY`], which
//!   happens only while a page listens. The last hour is kept in memory, as [`SAMPLES`] samples, one every
//!   [`SAMPLE_EVERY`].
//! * A stream of updates ends after [`LISTEN_FOR`], and the page opens another. An open page delays a graceful stop of
//!   your service by at most that time.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
//! # eventbox::migrate(&pool).await?;
//! use eventbox::dashboard::{self, DashboardOptions};
//!
//! // At /eventbox of your own service, behind a proxy that says who asks.
//! let options = DashboardOptions::default().with_base_path("/eventbox").with_trusted_header("x-forwarded-user");
//! let app: axum::Router = axum::Router::new().nest("/eventbox", dashboard::router(pool, options));
//! # drop(app);
//! # Ok(()) }
//! ```

mod actions;
mod app;
mod database;
mod guard;
mod html;
mod live;
mod options;
mod pages;
mod serve;
mod web;

use std::sync::Arc;

use axum::Router;
use sqlx::Pool;

pub use guard::{FORM_WAIT, LOGIN_TTL, MAX_FORM_BYTES};
pub use live::{LISTEN_FOR, MAX_LISTENERS, SAMPLE_EVERY, SAMPLES, UPDATE_EVERY};
pub use options::{DEFAULT_ADDRESS, DashboardOptions, MIN_TOKEN_BYTES};
pub use serve::{DashboardError, DashboardHandle, MAX_CONNECTIONS, MAX_IDLE, serve, serve_on};

use self::app::App;
use self::database::OnPool;
use crate::store::Backend;

/// Returns the dashboard as a router, to nest in an `axum` service.
///
/// Nest it at the [base path](DashboardOptions::with_base_path) of the options, because all links begin with it. The
/// background reader starts with the first request and ends when the router is dropped.
///
/// # Examples
///
/// See [the module](crate::dashboard).
pub fn router<B: Backend>(pool: Pool<B>, options: DashboardOptions) -> Router {
    pages::routes(App::new(Arc::new(OnPool(pool)), options))
}
