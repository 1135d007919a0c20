//! Kinds on hold: paused by an operator, or throttled because the outbox is over its quota.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::heartbeat::Beat;
use crate::runtime::metrics;
use crate::runtime::shared::Shared;
use crate::store::{Backend, Fault, answered, hold};

/// Part of the outbox's quota below which throttled kinds go on.
const GO_ON_BELOW: f64 = 0.9;

/// The kinds on hold, by reason.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PausedKinds {
    pub(crate) paused: BTreeSet<String>,
    /// Kinds that publish, while the outbox is over its quota.
    pub(crate) throttled: BTreeSet<String>,
}

impl PausedKinds {
    pub(super) fn contains(&self, kind: &str) -> bool {
        self.paused.contains(kind) || self.throttled.contains(kind)
    }
}

/// Reads the kinds on hold, given the last result.
pub(super) async fn look<B: Backend>(shared: &Shared<B>, before: &PausedKinds) -> Result<PausedKinds, Fault> {
    let mut conn = hold(&shared.pool).await?;
    let paused = B::list_paused_kinds(&mut conn).await?.into_iter().map(|(kind, _)| kind).collect();
    let publishers = shared.publishers.all();
    let mut throttled = BTreeSet::new();
    if let Some(quota) = shared.config.outbox_quota
        && !publishers.is_empty()
    {
        let quota = i64::try_from(quota.get()).unwrap_or(i64::MAX - 1);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a quota is far smaller than the precision"
        )]
        let limit = if before.throttled.is_empty() { quota } else { (quota as f64 * GO_ON_BELOW) as i64 };
        if B::count_outbox(&mut conn, limit.saturating_add(1)).await? > limit {
            throttled = publishers;
        }
    }
    Ok(PausedKinds { paused, throttled })
}

/// Reads the kinds on hold at every poll interval, until `stopping`.
pub(crate) async fn run<B: Backend>(
    shared: Arc<Shared<B>>,
    held: watch::Sender<PausedKinds>,
    stopping: CancellationToken,
    beat: Beat,
) {
    while !stopping.is_cancelled() {
        {
            let _busy = beat.busy();
            let before = held.borrow().clone();
            match answered(&shared.pool, look(&shared, &before)).await {
                Ok(now) if now != before => {
                    log_changes(&before, &now);
                    held.send_replace(now);
                }
                Ok(_) => {}
                Err(fault) => {
                    shared.complaints.raise("what is paused", &fault.0, shared.config.poll_interval);
                }
            }
            metrics::held(&held.borrow());
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(shared.config.poll_interval) => {}
        }
    }
}

fn log_changes(before: &PausedKinds, now: &PausedKinds) {
    if before.paused != now.paused {
        tracing::info!(kinds = ?now.paused, "paused kinds");
    }
    match (before.throttled.is_empty(), now.throttled.is_empty()) {
        (true, false) => {
            let kinds = &now.throttled;
            tracing::warn!(?kinds, "the outbox is over its quota: kinds that publish wait for delivery");
        }
        (false, true) => tracing::info!("the outbox is below its quota again"),
        _ => {}
    }
}
