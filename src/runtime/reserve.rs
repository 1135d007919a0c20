//! The connections of a runtime besides those of its pool.

use std::sync::Arc;

use sqlx::Pool;
use tokio::time::{Instant, timeout_at};

use super::shared::Shared;
use crate::store::Backend;

/// Number of these connections on Postgres: one for scans, one for leases.
const CONNECTIONS: u32 = 2;

/// Returns a pool for scans and leases; the caller's pool where the engine needs no other.
pub(super) fn of<B: Backend>(pool: &Pool<B>) -> Pool<B> {
    B::reserve(pool, CONNECTIONS).unwrap_or_else(|| pool.clone())
}

/// Closes that pool, unless it is the caller's.
pub(super) async fn close<B: Backend>(shared: &Shared<B>, deadline: Instant) {
    if !Arc::ptr_eq(&shared.reserved.connect_options(), &shared.pool.connect_options()) {
        let _ = timeout_at(deadline, shared.reserved.close()).await;
    }
}
