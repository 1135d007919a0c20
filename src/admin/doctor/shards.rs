//! Shards of which something is wrong: failed, without a holder, without a standby in another zone, disabled with
//! events.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Pool;
use uuid::Uuid;

use super::life::{DEAD_AFTER, is_worker};
use super::{Finding, Severity, spoken};
use crate::admin::operator::shards::ranges;
use crate::admin::view::shards::{ShardSelector, ShardState, ShardView, read};
use crate::clock::micros;
use crate::shard::SHARDS;
use crate::store::{Backend, Fault, MemberRow, hold};

const CHECK: &str = "shards";

/// Most findings of failed shards. Shards that failed alike are one finding.
const MAX_FAILURES: usize = 10;

/// Looks at the states, holders and standbys of the shards.
pub(super) async fn shards<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let conn = &mut *hold(pool).await?;
    let (shards, members) = read::<B>(conn, &ShardSelector::all()).await?;
    let mut findings = failed(&shards);
    let living: Vec<_> = members.iter().filter(|member| is_worker(member, micros(DEAD_AFTER))).collect();
    let room: i64 = living.iter().map(|member| i64::from(member.shard_limit)).sum();
    // The check of leases tells that the members have too little room, or that there are none.
    if room >= i64::from(SHARDS) {
        findings.extend(free(&shards));
    }
    findings.extend(in_one_zone(&shards, &living));
    let mut with_events = Vec::new();
    for shard in shards.iter().filter(|shard| shard.spec.is_disabled) {
        if !B::list_recipients(conn, shard.shard.into(), "", 1).await?.is_empty() {
            with_events.push(shard.shard);
        }
    }
    if !with_events.is_empty() {
        findings.push(Finding::new(
            Severity::Warning,
            CHECK,
            format!("events wait in {}, which operators disabled", named(&with_events)),
            format!(
                "to process them: `eventbox shards apply {} --reset`, which sets the whole spec back",
                list(&with_events)
            ),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "no shard has failed, and none with events is disabled"));
    }
    Ok(findings)
}

/// Returns a finding for each group of shards that failed alike.
fn failed(shards: &[ShardView]) -> Vec<Finding> {
    let mut alike: BTreeMap<(bool, &[String]), Vec<&ShardView>> = BTreeMap::new();
    for shard in shards.iter().filter(|shard| shard.state == ShardState::Failed) {
        alike.entry((shard.next_attempt_in.is_some(), &shard.errors)).or_default().push(shard);
    }
    // Those that wait for an operator come first.
    alike
        .into_iter()
        .take(MAX_FAILURES)
        .map(|((is_tried, errors), shards)| failure(is_tried, errors, &shards))
        .collect()
}

fn failure(is_tried: bool, errors: &[String], shards: &[&ShardView]) -> Finding {
    let numbers: Vec<u8> = shards.iter().map(|shard| shard.shard).collect();
    let attempts = shards.iter().map(|shard| shard.attempts).max().unwrap_or_default();
    let next = shards.iter().filter_map(|shard| shard.next_attempt_in).min();
    let next = match next {
        Some(next) => format!("the next try is in {}", spoken(micros(next))),
        None => "no process tries again".to_owned(),
    };
    let errors = if errors.is_empty() { "unknown".to_owned() } else { errors.join("; ") };
    Finding::new(
        if is_tried { Severity::Warning } else { Severity::Error },
        CHECK,
        format!("{} FAILED, {attempts} times in a row; {next}; error: {errors}", named(&numbers)),
        format!("repair the cause, then: `eventbox shards unassign {} --only-failed`", list(&numbers)),
    )
}

/// Returns the finding of enabled shards that no living process holds.
fn free(shards: &[ShardView]) -> Option<Finding> {
    let is_free = |shard: &&ShardView| shard.holder.is_none() && !shard.spec.is_disabled;
    let free: Vec<u8> = shards.iter().filter(is_free).map(|shard| shard.shard).collect();
    (!free.is_empty()).then(|| {
        Finding::new(
            Severity::Warning,
            CHECK,
            format!("no process holds {}: their events wait", named(&free)),
            "a process takes a free shard within a second; if none does, see the log of those that run",
        )
    })
}

/// Returns the finding of shards whose holder and standby would be gone with one zone, although there is another zone.
fn in_one_zone(shards: &[ShardView], living: &[&MemberRow]) -> Option<Finding> {
    let zones: BTreeSet<&str> = living.iter().map(|member| member.zone.as_str()).collect();
    if zones.len() < 2 {
        return None;
    }
    let zone_of = |worker: Uuid| living.iter().find(|member| member.worker == worker).map(|member| &member.zone);
    let is_at_risk = |shard: &&ShardView| {
        let Some(zone) = shard.holder.and_then(zone_of) else { return false };
        shard.standby.and_then(zone_of).is_none_or(|standby| standby == zone)
    };
    let at_risk: Vec<u8> = shards.iter().filter(is_at_risk).map(|shard| shard.shard).collect();
    (!at_risk.is_empty()).then(|| {
        Finding::new(
            Severity::Note,
            CHECK,
            format!("{} have no standby in another zone than their holder's", named(&at_risk)),
            "start more processes in the other zones, or raise their RuntimeConfig::shard_limit",
        )
    })
}

fn named(shards: &[u8]) -> String {
    let word = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{word} {}", list(shards))
}

fn list(shards: &[u8]) -> String {
    ranges(shards.iter().copied())
}
