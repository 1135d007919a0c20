//! The loop that keeps this process a member and its shards leased. Its decisions save work; correctness never rests
//! on them.
//!
//! Every check reads members and leases, by the database's clock. It takes free shards that should belong to this
//! process, hands over shards that should belong to another living member, and learns which shards were handed to
//! this process. A shard is worked on until the check after its hand-over, so that there is no gap. Two processes on
//! one shard are harmless.

use std::sync::Arc;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::assignment::{Assignment, Candidate};
#[cfg(feature = "emitter")]
use crate::chip::BreakerState;
use crate::clock::micros;
#[cfg(feature = "emitter")]
use crate::emitter::DurableEmitter;
use crate::heartbeat::Beat;
use crate::runtime::attended::Attended;
use crate::runtime::config::LeaseConfig;
use crate::runtime::failing::complaints::Complaints;
use crate::runtime::failing::outage::Outages;
use crate::runtime::metrics;
use crate::runtime::working::at_work::AtWork;
use crate::runtime::working::paused::PausedKinds;
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, LeaseRow, MemberReport, MemberRow, ReportedBreaker, ShardMask, answered, hold};

/// Number of lease terms of silence after which a member is removed.
const SILENT_TERMS: u32 = 20;

/// This process as a member.
pub(crate) struct Membership<B: Backend> {
    pub(crate) pool: Pool<B>,
    pub(crate) worker: Uuid,
    pub(crate) address: String,
    pub(crate) shard_limit: u32,
    pub(crate) config: LeaseConfig,
    /// The kinds that this process registered, sorted.
    pub(crate) kinds: Vec<String>,
    pub(crate) held: watch::Receiver<PausedKinds>,
    pub(crate) at_work: Arc<AtWork>,
    pub(crate) outages: Arc<Outages>,
    /// The recipients of a runtime that takes no shards.
    pub(crate) attended: Option<Arc<Attended>>,
    pub(crate) complaints: Arc<Complaints>,
    /// The emitter of this process, which knows its breakers.
    #[cfg(feature = "emitter")]
    pub(crate) emitter: Option<DurableEmitter<B>>,
    /// Shards that this process works on.
    pub(crate) owned: watch::Sender<ShardSet>,
}

impl<B: Backend> Membership<B> {
    /// Checks and renews until `leaving`.
    pub(crate) async fn run(self: Arc<Self>, leaving: CancellationToken, beat: Beat) {
        let mut renewed = Instant::now();
        let mut first = true;
        while !leaving.is_cancelled() {
            {
                let _busy = beat.busy();
                let renew = first || renewed.elapsed() >= self.config.renew_interval;
                match self.check(renew, false).await {
                    Ok(()) if renew => (first, renewed) = (false, Instant::now()),
                    Ok(()) => {}
                    Err(fault) => {
                        self.complaints.raise("the leases on shards", &fault.0, self.config.check_interval);
                    }
                }
                metrics::lease_age(renewed.elapsed());
            }
            tokio::select! {
                () = leaving.cancelled() => {}
                () = tokio::time::sleep(self.config.check_interval) => {}
            }
        }
    }

    /// Makes one check; `exiting` hands over all shards.
    pub(super) async fn check(&self, renew: bool, exiting: bool) -> Result<(), Fault> {
        answered(&self.pool, self.check_now(renew, exiting)).await
    }

    async fn check_now(&self, renew: bool, exiting: bool) -> Result<(), Fault> {
        let ttl_us = micros(self.config.lease_ttl);
        let mut conn = hold(&self.pool).await?;
        if renew || exiting {
            B::beat_member(&mut conn, &self.row(exiting)).await?;
            B::renew_leases(&mut conn, self.worker, ttl_us).await?;
            B::delete_silent_members(&mut conn, ttl_us.saturating_mul(SILENT_TERMS.into())).await?;
        }
        let members = B::list_members(&mut conn).await?;
        let leases = B::list_leases(&mut conn).await?;
        let pins = leases.iter().filter_map(|lease| Some((shard_of(lease), lease.pinned?)));
        let assignment = Assignment::of(&candidates(&members, self.worker, ttl_us)).with_pins(pins);
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
        metrics::shards(owned.len(), members.len());
        self.owned.send_if_modified(|now| {
            let changed = *now != owned;
            *now = owned;
            changed
        });
        Ok(())
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
            address: self.address.clone(),
            shard_limit: i32::try_from(self.shard_limit).unwrap_or(i32::MAX),
            exiting,
            silent_us: 0,
            report: self.report(),
        }
    }
}

/// Returns the members that take shards. This process lives, whatever the clock says of its heartbeat.
fn candidates(members: &[MemberRow], worker: Uuid, ttl_us: i64) -> Vec<Candidate> {
    let lives = |member: &&MemberRow| !member.exiting && (member.worker == worker || member.lives(ttl_us));
    let living = members.iter().filter(lives);
    living
        .map(|member| Candidate { worker: member.worker, limit: usize::try_from(member.shard_limit).unwrap_or(0) })
        .collect()
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
