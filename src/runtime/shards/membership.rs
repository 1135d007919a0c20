//! The loop that keeps this process a member and its shards leased. Its decisions save work; correctness never rests
//! on them.
//!
//! Every check reads members and leases, by the database's clock. It takes free shards that should belong to this
//! process, hands over shards that should belong to another living member, and learns which shards were handed to
//! this process. A shard that was handed over is worked on until its new holder says that it works on the shard. A
//! disabled shard is given up at once, and a failed one is kept but not worked on.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::assignment::Assignment;
use super::failed::{self, FailedShards, leaves_alone};
use super::gauges::{ShardGauges, States};
use super::passing::Passing;
use super::plan::{Plan, candidates, first_end, generations, held, shard_of, wishes};
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
use crate::runtime::working::rates::Rates;
use crate::shard::ShardSet;
use crate::store::{
    Backend, FailureWrite, Fault, LeaseRow, MemberReport, MemberRow, Notification, ReportedBreaker, ShardMask,
    ShardOrder, answered, hold,
};

/// Number of lease terms of silence after which a member is removed.
const SILENT_TERMS: u32 = 20;

/// Longest pause between two checks while the shards of a process that stops are in hand-over.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(20);

/// Shortest pause between two checks.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// How far this process is on its way out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It takes shards.
    #[default]
    Working,
    /// It takes no shards, and works on its own until other members do.
    HandingOver,
    /// Every shard that another member takes is worked on there.
    HandedOver,
}

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
    pub(crate) rates: Arc<Rates>,
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
    /// Shards that this process has lost and still works on.
    pub(crate) passing: Passing,
    pub(crate) stage: watch::Sender<Stage>,
    /// `None` unless metrics by shard are asked for.
    pub(crate) gauges: Option<ShardGauges>,
    /// The last assignment, and the shards of which this process is the standby in it.
    pub(crate) standing: watch::Sender<(Assignment, ShardSet)>,
}

/// Result of a check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    /// Time until the first lease of another member ends.
    first_end: Option<Duration>,
    /// Whether this process works on shards in hand-over.
    pub(super) is_passing: bool,
}

impl<B: Backend> Membership<B> {
    /// Checks and renews until `leaving`.
    pub(crate) async fn run(self: Arc<Self>, leaving: CancellationToken, beat: Beat) {
        let (mut renewed, mut stage) = (Instant::now(), self.stage.subscribe());
        let mut first = true;
        metrics::no_failures_yet();
        while !leaving.is_cancelled() {
            let mut pause = self.leases.check_interval;
            {
                let _busy = beat.busy();
                let now = *stage.borrow_and_update();
                let renew = first || renewed.elapsed() >= self.leases.renew_interval;
                match self.check(renew, now != Stage::Working).await {
                    Ok(checked) => {
                        if renew {
                            (first, renewed) = (false, Instant::now());
                        }
                        // The leases of a member that died are taken when they end.
                        pause = pause.min(checked.first_end.map_or(pause, |end| end + MIN_PAUSE));
                        if now == Stage::HandingOver && !checked.is_passing {
                            self.stage.send_replace(Stage::HandedOver);
                        } else if now == Stage::HandingOver {
                            pause = pause.min(HAND_OVER_PAUSE);
                        }
                    }
                    Err(fault) => {
                        self.failed_shards.forget();
                        self.complaints.raise("the leases on shards", &fault.0, self.leases.check_interval);
                    }
                }
                metrics::lease_age(renewed.elapsed());
            }
            tokio::select! {
                () = leaving.cancelled() => {}
                Ok(()) = stage.changed() => {}
                () = tokio::time::sleep(pause.max(MIN_PAUSE)) => {}
            }
        }
    }

    /// Hands over the shards while this process goes on with them. Returns when each shard that another member takes
    /// is worked on there.
    pub(crate) async fn hand_over(&self) {
        let has_none = self.owned.borrow().is_empty();
        let mut stage = self.stage.subscribe();
        self.stage.send_if_modified(|stage| {
            let begins = *stage == Stage::Working;
            if begins {
                *stage = Stage::HandingOver;
            }
            begins
        });
        if has_none {
            return;
        }
        // The sender lives as long as this member.
        let _ = stage.wait_for(|stage| *stage == Stage::HandedOver).await;
    }

    /// Makes one check; `exiting` hands over all shards.
    pub(super) async fn check(&self, renew: bool, exiting: bool) -> Result<Checked, Fault> {
        answered(&self.pool, self.check_now(renew, exiting)).await
    }

    async fn check_now(&self, renew: bool, exiting: bool) -> Result<Checked, Fault> {
        let ttl_us = micros(self.leases.lease_ttl);
        let conn = &mut *hold(&self.pool).await?;
        if renew || exiting {
            B::beat_member(conn, &self.row(exiting)).await?;
            B::renew_leases(conn, self.worker, ttl_us).await?;
            B::delete_silent_members(conn, ttl_us.saturating_mul(SILENT_TERMS.into())).await?;
        }
        let members = B::list_members(conn).await?;
        let mut leases = B::list_leases(conn).await?;
        let orders = B::list_shard_orders(conn).await?;
        let (wishes, candidates) = (wishes(&orders), candidates(&members, self.worker, ttl_us));
        let pins = leases.iter().filter_map(|lease| Some((shard_of(lease), lease.pinned?)));
        let pins = pins.filter(|(shard, _)| !wishes.disabled.contains(*shard));
        let assignment = Assignment::of(&candidates, &wishes).with_pins(pins);
        let plan = Plan::of(self.worker, &assignment, &leases, ttl_us);
        if !plan.free.is_empty() {
            let taken = B::claim_leases(conn, &ShardMask::new(plan.free.iter()), self.worker, ttl_us).await?;
            metrics::taken(taken);
            leases = B::list_leases(conn).await?;
        }
        self.give(conn, &plan, wishes.disabled.and(held(&leases, self.worker))).await?;
        let owned = held(&leases, self.worker).without(wishes.disabled);
        let failed = self.settle(conn, &orders, owned).await?;
        let lost = self.owned.borrow().without(owned).without(wishes.disabled);
        let passing = self.passing.keep(lost, &leases, &members, self.leases.lease_ttl);
        let is_other = self.standing.borrow().0 != assignment;
        if is_other {
            let standby = assignment.standby_of(self.worker, &candidates, &wishes);
            self.standing.send_replace((assignment, standby));
        }
        let works_on = owned.or(passing).without(failed);
        let before = *self.owned.borrow();
        if before != works_on {
            self.owned.send_replace(works_on);
        }
        metrics::members(members.len());
        self.tell(works_on, failed, &leases);
        if (before != works_on || is_other) && !exiting {
            // Operators and the former holders see the new standing at once.
            B::beat_member(conn, &self.row(exiting)).await?;
        }
        self.wake_up_others(conn, before.without(works_on)).await;
        Ok(Checked {
            first_end: first_end(&leases, &members, self.worker, ttl_us),
            is_passing: !passing.is_empty() || !plan.handed_over.is_empty(),
        })
    }

    /// Hands over the shards that others should have, and gives up those that are disabled.
    async fn give(&self, conn: &mut B::Connection, plan: &Plan, disabled: ShardSet) -> Result<(), Fault> {
        let ttl_us = micros(self.leases.lease_ttl);
        for (to, shards) in &plan.handed_over {
            let given = B::hand_over_leases(conn, &ShardMask::new(shards.iter()), self.worker, *to, ttl_us).await?;
            metrics::handed_over(given);
            tracing::info!(%to, shards = given, "shards are handed over");
        }
        if !disabled.is_empty() {
            let given = B::release_leases(conn, &ShardMask::new(disabled.iter()), self.worker).await?;
            tracing::info!(shards = given, "shards are disabled: they are given up");
        }
        Ok(())
    }

    /// Wakes up the new holders: an emit may have woken up this process only, too late to be processed here.
    async fn wake_up_others(&self, conn: &mut B::Connection, committed: ShardSet) {
        if !B::SENDS_WAKE_UPS || !self.config.remote_wake_ups || committed.is_empty() {
            return;
        }
        let wake_up = Notification { committed, ..Notification::default() };
        if let Err(fault) = B::send_wake_up(conn, wake_up).await {
            tracing::debug!(error = %fault.0, "a wake-up could not be sent: a poll finds its events");
        }
    }

    /// Sets the gauges of shards.
    fn tell(&self, primary: ShardSet, failed: ShardSet, leases: &[LeaseRow]) {
        let standby = self.standing.borrow().1;
        metrics::shard_states(primary.len(), standby.len(), failed.len());
        if let Some(gauges) = &self.gauges {
            gauges.set(States { primary, standby, failed }, &generations(leases, self.worker));
        }
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
                metrics::shard_failed();
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
        answered(&self.pool, leaving).await?;
        self.owned.send_replace(ShardSet::default());
        self.standing.send_replace((Assignment::default(), ShardSet::default()));
        self.tell(ShardSet::default(), ShardSet::default(), &[]);
        Ok(())
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
            rated: self.rates.report(Instant::now()),
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
