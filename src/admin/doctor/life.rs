//! Signs of life: clocks, processes and their shards, and the outbox.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use super::{Finding, Severity, spoken};
use crate::admin::view::destination::PausedDestination;
use crate::admin::why::resume_command;
use crate::clock::{self, micros};
use crate::eventbox::STREAM_KIND;
use crate::shard::SHARDS;
use crate::store::{
    Backend, BacklogRow, Fault, LeaseRow, MemberRow, OldestMessage, PausedDestinationRow, ReportedBreaker, hold,
};

/// Difference of two clocks that is a finding.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Time without a heartbeat after which a process is taken for dead. The default term of a lease is a quarter.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Most kinds that are looked at.
const MAX_KINDS: i64 = 200;

/// Age of an undelivered message that is a finding.
const OLD_MESSAGE: Duration = Duration::from_secs(10 * 60);

const CLOCKS: &str = "clocks";
const LEASES: &str = "leases";
const OUTBOX: &str = "outbox";

/// Compares the clock of this process with that of the database.
pub(super) async fn clock<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let mut conn = hold(pool).await?;
    let before_us = since_epoch_us(clock::now());
    let database_us = B::database_time_us(&mut conn).await?;
    let after_us = since_epoch_us(clock::now());
    // The database answered at some moment between the two.
    let ahead_us = if before_us > database_us { before_us - database_us } else { (after_us - database_us).min(0) };
    let side = if ahead_us > 0 { "ahead of" } else { "behind" };
    Ok(vec![match ahead_us.abs() >= micros(CLOCK_SKEW) {
        false => Finding::ok(CLOCKS, format!("this process and the database differ by less than {CLOCK_SKEW:?}")),
        true => Finding::new(
            Severity::Warning,
            CLOCKS,
            format!("the clock of this process is {} {side} the clock of the database", spoken(ahead_us)),
            "let both hosts follow a time server: ids of events have the time of this process, timers that of the \
             database",
        ),
    }])
}

fn since_epoch_us(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, micros)
}

/// Looks for heartbeats that are ahead of the clock by which they were written.
pub(super) async fn heartbeats<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let members = B::list_members(&mut *hold(pool).await?).await?;
    let ahead = members.iter().filter(|member| member.silent_us <= -micros(CLOCK_SKEW));
    let finding = |member: &MemberRow| {
        Finding::new(
            Severity::Warning,
            CLOCKS,
            format!(
                "the heartbeat of worker {} is {} in the future: the clock of the database has gone back",
                member.worker,
                spoken(member.silent_us)
            ),
            "see docs/leases.md, \"When the database's clock jumps\"; a living worker corrects it within seconds",
        )
    };
    Ok(ahead.map(finding).collect())
}

/// Looks for shards that a dead process holds, and for shards that no process works on.
pub(super) async fn leases<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let mut conn = hold(pool).await?;
    let members = B::list_members(&mut conn).await?;
    let leases = B::list_leases(&mut conn).await?;
    let dead_us = micros(DEAD_AFTER);
    let mut findings = abandoned(&leases, dead_us);
    let living: Vec<_> = members.iter().filter(|member| is_worker(member, dead_us)).collect();
    let room: i64 = living.iter().map(|member| i64::from(member.shard_limit)).sum();
    if living.is_empty() {
        findings.push(Finding::new(
            Severity::Note,
            LEASES,
            "no process with leases works on the boxes of this database",
            "start a service with a Runtime; a Runtime without leases does not show here",
        ));
    } else if room < i64::from(SHARDS) {
        findings.push(Finding::new(
            Severity::Warning,
            LEASES,
            format!("{} processes take at most {room} of {SHARDS} shards: the events of the others wait", living.len()),
            "raise RuntimeConfig::shard_limit, or start more processes",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(LEASES, format!("{} processes renew their leases", living.len())));
    }
    Ok(findings)
}

/// Returns whether a process takes shards. One that only runs peers takes none.
pub(super) fn is_worker(member: &MemberRow, dead_us: i64) -> bool {
    !member.exiting && member.shard_limit > 0 && member.lives(dead_us)
}

/// Returns a finding for each holder whose leases expired long ago.
fn abandoned(leases: &[LeaseRow], dead_us: i64) -> Vec<Finding> {
    let mut expired: BTreeMap<Uuid, (usize, i64)> = BTreeMap::new();
    for lease in leases.iter().filter(|lease| lease.left_us <= -dead_us) {
        if let Some(holder) = lease.holder {
            let (shards, since_us) = expired.entry(holder).or_insert((0, lease.left_us));
            *shards += 1;
            *since_us = (*since_us).max(lease.left_us);
        }
    }
    let finding = |(holder, (shards, since_us)): (Uuid, (usize, i64))| {
        Finding::new(
            Severity::Warning,
            LEASES,
            format!("worker {holder} holds {shards} shards, and its leases expired {} ago", spoken(since_us)),
            "the worker is gone and no other process took over: start one, or see the log of those that run",
        )
    };
    expired.into_iter().map(finding).collect()
}

/// Looks for events whose kind no living process handles.
pub(super) async fn kinds<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "kinds";
    let mut conn = hold(pool).await?;
    let members = B::list_members(&mut conn).await?;
    let living: Vec<_> = members.iter().filter(|member| member.lives(micros(DEAD_AFTER))).collect();
    // A process of an older version does not say its kinds.
    if living.is_empty() || living.iter().any(|member| member.report.kinds.is_empty()) {
        return Ok(Vec::new());
    }
    let registered: BTreeSet<&str> =
        living.iter().flat_map(|member| member.report.kinds.iter().map(String::as_str)).collect();
    let there = B::list_kinds(&mut conn, MAX_KINDS).await?;
    let strange = there.iter().map(String::as_str).filter(|kind| !kind.is_empty() && !registered.contains(kind));
    // The check of peers looks at streams.
    let strange = strange.filter(|kind| !kind.starts_with(STREAM_KIND));
    let waiting = B::count_backlog(&mut conn, &strange.collect::<Vec<_>>(), 1).await?;
    let finding = |waiting: BacklogRow| {
        let kind = waiting.kind;
        Finding::new(
            Severity::Warning,
            CHECK,
            format!("events of kind {kind} wait, and no living process has registered the kind"),
            "register the kind in the Runtime of a service; if it is misspelled, emit the events again and purge these",
        )
    };
    let found: Vec<_> = waiting.into_iter().filter(|kind| kind.events > 0).map(finding).collect();
    match found.is_empty() {
        true => Ok(vec![Finding::ok(CHECK, "each kind with events has a process")]),
        false => Ok(found),
    }
}

/// Looks at the oldest message.
pub(super) async fn outbox<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    Ok(vec![oldest(B::oldest_undelivered(&mut *hold(pool).await?).await?)])
}

/// Lists the paused destinations.
pub(super) async fn pauses<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let conn = &mut *hold(pool).await?;
    let now_us = B::database_time_us(conn).await?;
    Ok(B::list_paused_destinations(conn).await?.into_iter().map(|row| paused(now_us, row)).collect())
}

/// Lists the breakers that the living processes tell of.
pub(super) async fn breakers<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let members = B::list_members(&mut *hold(pool).await?).await?;
    let living = members.iter().filter(|member| member.lives(micros(DEAD_AFTER)));
    let breakers = living.flat_map(|member| member.report.breakers.iter().map(move |found| breaker(member, found)));
    Ok(breakers.collect())
}

fn paused(now_us: i64, row: PausedDestinationRow) -> Finding {
    let since = spoken(now_us - row.paused_at_us);
    let PausedDestination { destination, who, why, .. } = PausedDestination::of(row);
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Finding::new(
        Severity::Note,
        "pauses",
        format!("a destination has been paused for {since}: {destination}, by {who}{why}"),
        format!("to go on: `{}`", resume_command(&destination)),
    )
}

fn breaker(member: &MemberRow, breaker: &ReportedBreaker) -> Finding {
    let (endpoint, since) = (&breaker.endpoint, spoken(breaker.open_us));
    let error = breaker.error.as_deref().unwrap_or("unknown");
    Finding::new(
        Severity::Warning,
        "breakers",
        format!("the breaker of {} to {endpoint} has been open for {since}; last error: {error}", member.address),
        "repair the endpoint or the way to it: a probe closes the breaker",
    )
}

fn oldest(oldest: Option<OldestMessage>) -> Finding {
    let Some(oldest) = oldest else {
        return Finding::ok(OUTBOX, "no message waits for its delivery");
    };
    let OldestMessage { age_us, attempts, code, error } = oldest;
    let age = spoken(age_us);
    if age_us < micros(OLD_MESSAGE) {
        return Finding::ok(OUTBOX, format!("the oldest message waits for {age}"));
    }
    let error = match (code, error) {
        (None, None) => "no error".to_owned(),
        (code, error) => [code, error].into_iter().flatten().collect::<Vec<_>>().join(": "),
    };
    Finding::new(
        Severity::Warning,
        OUTBOX,
        format!("the oldest message waits for {age}, claimed {attempts} times; last: {error}"),
        "see `eventbox outbox`, and docs/operating.md, \"The outbox grows\"",
    )
}
