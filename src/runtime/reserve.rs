//! The connections of a runtime beside its pool's.

use std::sync::Arc;

use sqlx::Pool;
use tokio::time::{Instant, timeout_at};

use super::working::tasks::Shared;
use crate::store::Backend;

/// How many there are on Postgres: one for walks, one for leases.
const CONNECTIONS: u32 = 2;

/// A pool for walks and leases; the caller's where its engine has no use for another.
pub(super) fn of<B: Backend>(pool: &Pool<B>) -> Pool<B> {
    B::reserve(pool, CONNECTIONS).unwrap_or_else(|| pool.clone())
}

/// Closes it, unless it is the caller's.
pub(super) async fn close<B: Backend>(shared: &Shared<B>, deadline: Instant) {
    if !Arc::ptr_eq(&shared.reserved.connect_options(), &shared.pool.connect_options()) {
        let _ = timeout_at(deadline, shared.reserved.close()).await;
    }
}
