//! The loop that keeps this process a member and its shards leased. Its decisions save work; correctness never rests
//! on them.
//!
//! Every check reads members and leases, by the database's clock. It takes free shards that should belong to this
//! process, hands over shards that should belong to another living member, and learns which shards were handed to
//! this process. A shard is worked on until the check after its hand-over, so that there is no gap. Two processes on
//! one shard are harmless. A disabled shard is given up at once, and a failed one is kept but not worked on.

use std::sync::Arc;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::assignment::{Assignment, Candidate, Wishes};
use super::failed::{self, FailedShards, leaves_alone};
#[cfg(feature = "emitter")]
use crate::chip::BreakerState;
use crate::clock::micros;
#[cfg(feature = "emitter")]
use crate::emitter::DurableEmitter;
use crate::heartbeat::Beat;
use crate::retry::pause_after;
use crate::runtime::attended::Attended;
use crate::runtime::config::{LeaseConfig, RuntimeConfig};
use crate::runtime::failing::complaints::Complaints;
use crate::runtime::failing::outage::Outages;
use crate::runtime::metrics;
use crate::runtime::working::at_work::AtWork;
use crate::runtime::working::paused::PausedKinds;
use crate::shard::ShardSet;
use crate::store::{
    Backend, FailureWrite, Fault, LeaseRow, MemberReport, MemberRow, ReportedBreaker, ShardMask, ShardOrder, answered,
    hold,
};

/// Number of lease terms of silence after which a member is removed.
const SILENT_TERMS: u32 = 20;

/// This process as a member.
pub(crate) struct Membership<B: Backend> {
    pub(crate) pool: Pool<B>,
    pub(crate) worker: Uuid,
    /// Most shards of this process. 0 for a process that works on recipients of its own only.
    pub(crate) shard_limit: u32,
    pub(crate) leases: LeaseConfig,
    pub(crate) config: RuntimeConfig,
    /// The kinds that this process registered, sorted.
    pub(crate) kinds: Vec<String>,
    pub(crate) held: watch::Receiver<PausedKinds>,
    pub(crate) at_work: Arc<AtWork>,
    pub(crate) outages: Arc<Outages>,
    /// The recipients of a runtime that takes no shards.
    pub(crate) attended: Option<Arc<Attended>>,
    pub(crate) complaints: Arc<Complaints>,
    pub(crate) failed_shards: Arc<FailedShards>,
    /// The emitter of this process, which knows its breakers.
    #[cfg(feature = "emitter")]
    pub(crate) emitter: Option<DurableEmitter<B>>,
    /// Shards that this process works on.
    pub(crate) owned: watch::Sender<ShardSet>,
    /// The last assignment, and the shards of which this process is the standby in it.
    pub(crate) standing: watch::Sender<(Assignment, ShardSet)>,
}

impl<B: Backend> Membership<B> {
    /// Checks and renews until `leaving`.
    pub(crate) async fn run(self: Arc<Self>, leaving: CancellationToken, beat: Beat) {
        let mut renewed = Instant::now();
        let mut first = true;
        while !leaving.is_cancelled() {
            {
                let _busy = beat.busy();
                let renew = first || renewed.elapsed() >= self.leases.renew_interval;
                match self.check(renew, false).await {
                    Ok(()) if renew => (first, renewed) = (false, Instant::now()),
                    Ok(()) => {}
                    Err(fault) => {
                        self.failed_shards.forget();
                        self.complaints.raise("the leases on shards", &fault.0, self.leases.check_interval);
                    }
                }
                metrics::lease_age(renewed.elapsed());
            }
            tokio::select! {
                () = leaving.cancelled() => {}
                () = tokio::time::sleep(self.leases.check_interval) => {}
            }
        }
    }

    /// Makes one check; `exiting` hands over all shards.
    pub(super) async fn check(&self, renew: bool, exiting: bool) -> Result<(), Fault> {
        answered(&self.pool, self.check_now(renew, exiting)).await
    }

    async fn check_now(&self, renew: bool, exiting: bool) -> Result<(), Fault> {
        let ttl_us = micros(self.leases.lease_ttl);
        let mut conn = hold(&self.pool).await?;
        if renew || exiting {
            B::beat_member(&mut conn, &self.row(exiting)).await?;
            B::renew_leases(&mut conn, self.worker, ttl_us).await?;
            B::delete_silent_members(&mut conn, ttl_us.saturating_mul(SILENT_TERMS.into())).await?;
        }
        let members = B::list_members(&mut conn).await?;
        let leases = B::list_leases(&mut conn).await?;
        let orders = B::list_shard_orders(&mut conn).await?;
        let (wishes, candidates) = (wishes(&orders), candidates(&members, self.worker, ttl_us));
        let pins = leases.iter().filter_map(|lease| Some((shard_of(lease), lease.pinned?)));
        let pins = pins.filter(|(shard, _)| !wishes.disabled.contains(*shard));
        let assignment = Assignment::of(&candidates, &wishes).with_pins(pins);
        let plan = Plan::of(self.worker, &assignment, &leases, ttl_us);
        let mut owned = plan.kept;
        if !plan.free.is_empty() {
            B::claim_leases(&mut conn, &ShardMask::new(plan.free.iter()), self.worker, ttl_us).await?;
            owned = held(&B::list_leases(&mut conn).await?, self.worker);
        }
        for (to, shards) in plan.handed_over {
            let given = B::hand_over_leases(&mut conn, &ShardMask::new(shards.iter()), self.worker, to, ttl_us).await?;
            metrics::handed_over(given);
            tracing::info!(%to, shards = given, "shards are handed over");
        }
        let given_up = owned.and(wishes.disabled);
        if !given_up.is_empty() {
            let given = B::release_leases(&mut conn, &ShardMask::new(given_up.iter()), self.worker).await?;
            tracing::info!(shards = given, "shards are disabled: they are given up");
        }
        let owned = owned.without(given_up);
        let failed = self.settle(&mut conn, &orders, owned).await?;
        let works_on = owned.without(failed);
        metrics::shards(works_on.len(), members.len());
        let changed = self.owned.send_if_modified(|now| std::mem::replace(now, works_on) != works_on);
        let is_other = self.standing.borrow().0 != assignment;
        if is_other {
            let standby = assignment.standby_of(self.worker, &candidates, &wishes);
            self.standing.send_replace((assignment, standby));
        }
        metrics::shard_states(works_on.len(), self.standing.borrow().1.len(), failed.len());
        if (changed || is_other) && !exiting {
            // Operators see the new standing at once.
            B::beat_member(&mut conn, &self.row(exiting)).await?;
        }
        Ok(())
    }

    /// Writes which of the shards of this process fail and which work again. Returns those that are left alone.
    async fn settle(
        &self,
        conn: &mut B::Connection,
        orders: &[ShardOrder],
        owned: ShardSet,
    ) -> Result<ShardSet, Fault> {
        let verdicts = self.failed_shards.verdicts(orders, owned, &self.config);
        let is_alone = |order: &&ShardOrder| leaves_alone(order, &self.config);
        let mut alone: ShardSet = orders.iter().filter(is_alone).map(failed::shard_of).collect();
        if !verdicts.healed.is_empty() {
            B::heal_shards(conn, &ShardMask::new(verdicts.healed.iter())).await?;
            tracing::info!(shards = verdicts.healed.len(), "shards work again");
        }
        let backoff = self.config.fail_backoff;
        for (shard, attempts, error) in verdicts.failed {
            let before = u32::try_from(attempts).unwrap_or_default();
            let is_last = before.saturating_add(1) >= self.config.fail_tries.get();
            let pause = (!is_last).then(|| pause_after(before, backoff.base, backoff.cap));
            let write = FailureWrite {
                shard: shard.into(),
                holder: self.worker,
                attempts,
                pause_us: pause.map(micros),
                errors: &error,
            };
            if B::fail_shard(conn, &write).await? {
                alone.insert(shard);
                match pause {
                    Some(pause) => tracing::warn!(shard, error, ?pause, "a shard fails: it is tried again"),
                    None => tracing::error!(shard, error, "a shard fails: it waits for an operator who unassigns it"),
                }
            }
        }
        Ok(alone.and(owned))
    }

    /// Leaves: hands over all shards at once, and removes this member.
    pub(crate) async fn leave(&self) -> Result<(), Fault> {
        self.check(true, true).await?;
        let leaving = async {
            let mut conn = hold(&self.pool).await?;
            B::release_leases(&mut conn, &ShardMask::new(0..=u8::MAX), self.worker).await?;
            B::delete_member(&mut conn, self.worker).await
        };
        answered(&self.pool, leaving).await
    }

    fn report(&self) -> MemberReport {
        let (held, mut failing) = self.outages.report(*self.owned.borrow());
        if let Some(attended) = &self.attended {
            failing.extend(attended.report());
        }
        MemberReport {
            kinds: self.kinds.clone(),
            throttled: self.held.borrow().throttled.iter().cloned().collect(),
            held,
            busy: self.at_work.long_ones(Instant::now()),
            failing,
            breakers: self.breakers(),
            works_on: self.owned.borrow().to_string(),
            standby_of: self.standing.borrow().1.to_string(),
            lease_ttl_us: micros(self.leases.lease_ttl),
        }
    }

    #[cfg(not(feature = "emitter"))]
    fn breakers(&self) -> Vec<ReportedBreaker> {
        Vec::new()
    }

    #[cfg(feature = "emitter")]
    fn breakers(&self) -> Vec<ReportedBreaker> {
        let open = self.emitter.as_ref().map(DurableEmitter::open_breakers).unwrap_or_default();
        let reported = open.into_iter().map(|breaker| ReportedBreaker {
            is_half_open: breaker.state == BreakerState::HalfOpen,
            open_us: micros(breaker.open_for),
            endpoint: breaker.endpoint,
            error: breaker.last_error,
        });
        reported.collect()
    }

    fn row(&self, exiting: bool) -> MemberRow {
        MemberRow {
            worker: self.worker,
            address: self.config.address.clone(),
            shard_limit: i32::try_from(self.shard_limit).unwrap_or(i32::MAX),
            exiting,
            silent_us: 0,
            report: self.report(),
            zone: self.config.zone.clone(),
            labels: self.config.labels.clone(),
            endpoint: self.config.endpoint.clone(),
        }
    }
}

/// Returns the members that take shards. This process lives, whatever the clock says of its heartbeat.
fn candidates(members: &[MemberRow], worker: Uuid, ttl_us: i64) -> Vec<Candidate> {
    let lives = |member: &&MemberRow| !member.exiting && (member.worker == worker || member.lives(ttl_us));
    let living = members.iter().filter(lives);
    living
        .map(|member| Candidate {
            worker: member.worker,
            limit: usize::try_from(member.shard_limit).unwrap_or(0),
            zone: member.zone.clone(),
        })
        .collect()
}

fn wishes(orders: &[ShardOrder]) -> Wishes {
    Wishes {
        disabled: orders.iter().filter(|order| order.is_disabled).map(failed::shard_of).collect(),
        zones: orders.iter().filter_map(|order| Some((failed::shard_of(order), order.zone.clone()?))).collect(),
    }
}

/// The decisions of one check.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Shards of this process, with those in hand-over: it works on them until the next check.
    kept: ShardSet,
    /// Shards to take.
    free: ShardSet,
    /// Shards to hand over.
    handed_over: Vec<(Uuid, ShardSet)>,
}

impl Plan {
    fn of(worker: Uuid, assignment: &Assignment, leases: &[LeaseRow], ttl_us: i64) -> Self {
        let kept = held(leases, worker);
        let wanted = assignment.held_by(worker);
        let is_free =
            |lease: &&LeaseRow| lease.holder.is_none() || (!lease.is_valid(ttl_us) && lease.holder != Some(worker));
        let free = leases.iter().filter(is_free).map(shard_of).filter(|shard| wanted.contains(*shard)).collect();
        let others = assignment.parts().filter(|(member, _)| *member != worker);
        let handed_over = others
            .map(|(member, shards)| (member, shards.iter().filter(|shard| kept.contains(*shard)).collect::<ShardSet>()))
            .filter(|(_, shards)| !shards.is_empty())
            .collect();
        Plan { kept, free, handed_over }
    }
}

fn held(leases: &[LeaseRow], worker: Uuid) -> ShardSet {
    leases.iter().filter(|lease| lease.holder == Some(worker)).map(shard_of).collect()
}

fn shard_of(lease: &LeaseRow) -> u8 {
    u8::try_from(lease.shard).unwrap_or_default()
}
