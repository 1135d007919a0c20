//! The engine, the way to it, and its settings.

use sqlx::Pool;

use super::{Finding, Severity};
use crate::store::{Backend, Fault, hold};

const CONNECTIONS: &str = "connections";
const SETTINGS: &str = "settings";

pub(super) fn versions<B: Backend>(engine: &str) -> Finding {
    Finding::ok("versions", format!("{} {engine}, eventbox {}", B::NAME, env!("CARGO_PKG_VERSION")))
}

/// Returns the finding of a first connection that cannot be used. Its text has what to do.
pub(super) fn unusable(why: &str) -> Finding {
    let (sentence, advice) = why.split_once(": ").unwrap_or((why, "see docs/high-availability.md"));
    Finding::new(Severity::Error, CONNECTIONS, sentence, advice)
}

/// Looks whether something between this process and the server breaks prepared statements.
pub(super) async fn connections<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let mut conn = hold(pool).await?;
    let found = B::check_connections(pool, &mut conn).await;
    let problem = match &found {
        Ok(problem) => *problem,
        Err(fault) => B::connection_problem(fault),
    };
    match problem {
        Some(why) => {
            // The pooler may have run its statements on any server connection.
            conn.close();
            Ok(vec![unusable(why)])
        }
        None => found.map(|_| vec![Finding::ok(CONNECTIONS, "each connection keeps its session")]),
    }
}

pub(super) async fn settings<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let check = B::check_server(&mut *hold(pool).await?).await?;
    let refused = check.refused.into_iter().map(|problem| (Severity::Error, problem));
    let warnings = check.warnings.into_iter().map(|problem| (Severity::Warning, problem));
    let found = refused.chain(warnings);
    let found: Vec<_> =
        found.map(|(severity, problem)| Finding::new(severity, SETTINGS, problem.what, problem.help)).collect();
    match found.is_empty() {
        true => Ok(vec![Finding::ok(SETTINGS, "durability, isolation and encoding are as eventboxes need them")]),
        false => Ok(found),
    }
}

/// Looks whether the file of an engine with one writer can be written, by beginning a write. Other errors do not answer
/// that.
pub(super) async fn read_only<B: Backend>(pool: &Pool<B>) -> Option<Finding> {
    let is_read_only = B::ONE_WRITER && B::begin_write(pool).await.is_err_and(|fault| fault.is_read_only());
    let finding = || {
        let advice = "let this process write the file and its directory";
        Finding::new(Severity::Error, SETTINGS, "the file is read only", advice)
    };
    is_read_only.then(finding)
}
