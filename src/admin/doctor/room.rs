//! Room: what removed rows, long transactions and the log take of it.

use std::time::Duration;

use sqlx::Pool;

use super::{Finding, Severity, spoken};
use crate::clock::micros;
use crate::store::{Backend, Fault, OldTransaction, VacuumedTable, hold};

/// Fewest removed rows of a table that are a finding.
const DEAD_ROWS: i64 = 50_000;

/// Time since the last vacuum after which removed rows are a finding. A server looks at its tables once a minute.
const VACUUM_LATE: Duration = Duration::from_secs(10 * 60);

/// Number of transactions by which a slot or a standby that is a finding is behind.
const OLD_SNAPSHOT: i64 = 100_000;

/// Most old transactions of one examination.
const MAX_NAMED: i64 = 10;

/// Size of a write-ahead log that is a finding. SQLite begins to move the log into the file at 4 MiB.
const LARGE_LOG: u64 = 256 << 20;

/// Looks whether autovacuum runs, and whether it keeps up.
pub(super) async fn vacuum<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "autovacuum";
    let Some(facts) = B::vacuum_facts(&mut *hold(pool).await?).await? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    if !facts.is_on {
        findings.push(Finding::new(
            Severity::Error,
            CHECK,
            "autovacuum is off: removed events take room for ever, and listings become slow",
            "set autovacuum and track_counts to on, and reload the server",
        ));
    }
    for table in facts.tables.iter().filter(|table| !table.is_on) {
        let table = &table.table;
        findings.push(Finding::new(
            Severity::Warning,
            CHECK,
            format!("autovacuum is switched off for {table}"),
            format!("run: ALTER TABLE {table} RESET (autovacuum_enabled)"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "autovacuum is on, for the server and for each table"));
    }
    findings.extend(dead_rows(&facts.tables));
    Ok(findings)
}

fn dead_rows(tables: &[VacuumedTable]) -> Vec<Finding> {
    const CHECK: &str = "dead_rows";
    let late_us = micros(VACUUM_LATE);
    let is_late = |table: &&VacuumedTable| {
        let is_old = table.since_vacuum_us.is_none_or(|since_us| since_us >= late_us);
        table.dead_rows >= DEAD_ROWS && table.dead_rows > table.live_rows && is_old
    };
    let finding = |late: &VacuumedTable| {
        let VacuumedTable { table, dead_rows, live_rows, since_vacuum_us, .. } = late;
        let vacuum = match since_vacuum_us {
            Some(since_us) => format!("the last vacuum was {} ago", spoken(*since_us)),
            None => "no vacuum is on record".to_owned(),
        };
        Finding::new(
            Severity::Warning,
            CHECK,
            format!("{table} has {dead_rows} removed rows next to {live_rows} others, and {vacuum}"),
            format!("run: VACUUM {table}; when it removes nothing, end the old transactions"),
        )
    };
    let late: Vec<_> = tables.iter().filter(is_late).map(finding).collect();
    match late.is_empty() {
        true => vec![Finding::ok(CHECK, "removed rows are cleaned up")],
        false => late,
    }
}

/// Names the transactions that keep removed rows from being cleaned up.
pub(super) async fn transactions<B: Backend>(pool: &Pool<B>, age: Duration) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "transactions";
    // A file does not tell who reads it.
    if B::ONE_WRITER {
        return Ok(Vec::new());
    }
    let old = B::old_transactions(pool, micros(age), OLD_SNAPSHOT, MAX_NAMED).await?;
    if old.is_empty() {
        return Ok(vec![Finding::ok(CHECK, format!("no transaction that this role may see is older than {age:?}"))]);
    }
    let finding = |old: &OldTransaction| {
        Finding::new(
            Severity::Warning,
            CHECK,
            format!("an old transaction makes the database keep removed rows: {old}"),
            "end it (pg_terminate_backend, ROLLBACK PREPARED, pg_drop_replication_slot), and see why it was open",
        )
    };
    Ok(old.iter().map(finding).collect())
}

pub(super) async fn log<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "log";
    let Some(bytes) = B::log_bytes(&mut *hold(pool).await?).await? else { return Ok(Vec::new()) };
    let mib = bytes >> 20;
    Ok(vec![match bytes {
        LARGE_LOG.. => Finding::new(
            Severity::Warning,
            CHECK,
            format!(
                "the write-ahead log has {mib} MiB: a reader that never ends keeps it from being moved into the file"
            ),
            "end the process that reads the file for long; then run: PRAGMA wal_checkpoint(TRUNCATE)",
        ),
        _ => Finding::ok(CHECK, format!("the write-ahead log has {mib} MiB")),
    }])
}

pub(super) async fn integrity<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "integrity";
    let Some(damages) = B::damages(&mut *hold(pool).await?).await? else {
        return Ok(vec![Finding::new(
            Severity::Note,
            CHECK,
            "this engine does not check its files in a statement",
            "run pg_amcheck on the database",
        )]);
    };
    if damages.is_empty() {
        return Ok(vec![Finding::ok(CHECK, "the file is not damaged")]);
    }
    let finding = |damage: String| {
        let advice = "stop the service, keep a copy of the file and its -wal, and restore a backup (docs/operating.md)";
        Finding::new(Severity::Error, CHECK, format!("the file is damaged: {damage}"), advice)
    };
    Ok(damages.into_iter().map(finding).collect())
}
