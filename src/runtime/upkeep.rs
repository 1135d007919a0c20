//! The loops that run next to the workers: the pruners, the count of the backlog, the question for old transactions.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::finding::old_transactions;
use super::shared::Shared;
use super::{backlog, pruning};
use crate::store::Backend;

/// Starts the loops; they end after `stopping`.
pub(super) fn spawn<B: Backend>(others: &TaskTracker, shared: &Arc<Shared<B>>, stopping: &CancellationToken) {
    others.spawn(pruning::run(Arc::clone(shared), stopping.clone()));
    others.spawn(pruning::run_journal(Arc::clone(shared), stopping.clone()));
    others.spawn(backlog::run(Arc::clone(shared), stopping.clone()));
    let slow = shared.slow_scans.subscribe();
    others.spawn(old_transactions::run(Arc::clone(shared), slow, stopping.clone()));
}
