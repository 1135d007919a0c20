//! `eventbox_member` and `eventbox_lease`: the living processes, and the holder of each shard. All times are by the
//! database's clock.

use std::collections::BTreeMap;

use sqlx::{Database, Row};
use uuid::Uuid;

use super::report::MemberReport;
use super::spec::{labels_from_json, labels_to_json};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A set of shards as a parameter that both engines accept: one character for each shard, `1` for the shards of the
/// set.
#[derive(Debug, Clone)]
pub struct ShardMask(pub(super) String);

impl ShardMask {
    pub fn new(shards: impl IntoIterator<Item = u8>) -> Self {
        let mut mask = [b'0'; 256];
        for shard in shards {
            if let Some(place) = mask.get_mut(usize::from(shard)) {
                *place = b'1';
            }
        }
        ShardMask(mask.iter().map(|digit| char::from(*digit)).collect())
    }
}

/// A process that works on the boxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    pub worker: Uuid,
    pub address: String,
    pub shard_limit: i32,
    pub exiting: bool,
    /// Time since its last heartbeat, microseconds.
    pub silent_us: i64,
    pub report: MemberReport,
    /// Where it runs; empty when it does not say.
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    /// Where other processes reach it.
    pub endpoint: Option<String>,
}

/// The lease of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    pub shard: i16,
    pub holder: Option<Uuid>,
    /// Number of changes of the holder.
    pub generation: i64,
    /// Time until the lease expires, in microseconds. Not positive when the lease has expired.
    pub left_us: i64,
    /// The member that an operator gave the shard to.
    pub pinned: Option<Uuid>,
}

/// The lease of a shard, and what its holder says of itself as a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderRow {
    pub lease: LeaseRow,
    /// `None` when the holder is no member.
    pub zone: Option<String>,
    pub endpoint: Option<String>,
}

/// Number of terms that an expiry may lie ahead. An expiry further ahead was written by a clock that has gone back
/// since, and is not valid.
const TERMS_AHEAD: i64 = 2;

impl MemberRow {
    /// Returns whether the worker has sent a heartbeat within a term. A heartbeat further ahead than a term is of a
    /// clock that has gone back since.
    pub fn lives(&self, ttl_us: i64) -> bool {
        (-ttl_us..ttl_us).contains(&self.silent_us)
    }
}

impl LeaseRow {
    /// Returns whether the lease has not expired, and lies no further ahead than a lease of this term may.
    pub fn is_valid(&self, ttl_us: i64) -> bool {
        self.left_us > 0 && self.left_us <= ttl_us.saturating_mul(TERMS_AHEAD)
    }
}

/// Statements on members and leases.
pub trait LeaseTable: Database {
    /// Writes the heartbeat of a worker.
    fn beat_member(conn: &mut Self::Connection, member: &MemberRow) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Removes a worker.
    fn delete_member(conn: &mut Self::Connection, worker: Uuid) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Removes workers that have been silent for `silent_us`, and workers whose heartbeats lie as far ahead.
    fn delete_silent_members(
        conn: &mut Self::Connection,
        silent_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Returns all workers, by id.
    fn list_members(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<MemberRow>, Fault>> + Send;

    /// Returns all leases, by shard.
    fn list_leases(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<LeaseRow>, Fault>> + Send;

    /// Returns the lease of one shard with its holder. `None` for a number without a lease.
    fn read_holder(
        conn: &mut Self::Connection,
        shard: i16,
    ) -> impl Future<Output = Result<Option<HolderRow>, Fault>> + Send;

    /// Claims those of the shards that no worker holds, or whose lease is not valid. Returns the number of claimed
    /// shards.
    fn claim_leases(
        conn: &mut Self::Connection,
        shards: &ShardMask,
        holder: Uuid,
        ttl_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Prolongs all leases that the holder still has, also expired leases that no other worker claimed.
    fn renew_leases(
        conn: &mut Self::Connection,
        holder: Uuid,
        ttl_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Hands shards of one holder over to another, with a full term. Returns the number of shards that were the
    /// holder's.
    fn hand_over_leases(
        conn: &mut Self::Connection,
        shards: &ShardMask,
        giver: Uuid,
        receiver: Uuid,
        ttl_us: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Gives one shard to a member and pins it there, or frees and unpins it, whoever holds it. False when nothing
    /// changed.
    fn move_lease(
        conn: &mut Self::Connection,
        shard: i16,
        to: Option<Uuid>,
        ttl_us: i64,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives up the shards of a holder.
    fn release_leases(
        conn: &mut Self::Connection,
        shards: &ShardMask,
        holder: Uuid,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

on_both_engines! {
    impl LeaseTable for Engine {
        async fn beat_member(conn: &mut <Self as Database>::Connection, member: &MemberRow) -> Result<(), Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "INSERT INTO eventbox_member
                     (worker, address, shard_limit, exiting, heartbeat_at_us, report, zone, labels, endpoint)
                 VALUES ($1, $2, $3, $4, ", now_us!(), ", $5, $6, $7, $8)
                 ON CONFLICT (worker) DO UPDATE SET address = excluded.address, shard_limit = excluded.shard_limit,
                     exiting = excluded.exiting, heartbeat_at_us = excluded.heartbeat_at_us, report = excluded.report,
                     zone = excluded.zone, labels = excluded.labels, endpoint = excluded.endpoint"
            ));
            let query = query.bind(member.worker).bind(member.address.as_str());
            let query = query.bind(member.shard_limit).bind(member.exiting).bind(member.report.to_json());
            let query = query.bind(member.zone.as_str()).bind(labels_to_json(&member.labels));
            query.bind(member.endpoint.as_deref()).execute(conn).await?;
            Ok(())
        }

        async fn delete_member(conn: &mut <Self as Database>::Connection, worker: Uuid) -> Result<(), Fault> {
            sqlx::query::<Engine>("DELETE FROM eventbox_member WHERE worker = $1").bind(worker).execute(conn).await?;
            Ok(())
        }

        async fn delete_silent_members(
            conn: &mut <Self as Database>::Connection,
            silent_us: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "DELETE FROM eventbox_member WHERE heartbeat_at_us < ", now_us!(), " - $1
                 OR heartbeat_at_us > ", now_us!(), " + $1"
            ));
            Ok(query.bind(silent_us).execute(conn).await?.rows_affected())
        }

        async fn list_members(conn: &mut <Self as Database>::Connection) -> Result<Vec<MemberRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT worker, address, shard_limit, exiting, ", now_us!(), " - heartbeat_at_us, report,
                     zone, labels, endpoint
                 FROM eventbox_member ORDER BY worker"
            ));
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    Ok(MemberRow {
                        worker: row.try_get(0)?,
                        address: row.try_get(1)?,
                        shard_limit: row.try_get(2)?,
                        exiting: row.try_get(3)?,
                        silent_us: row.try_get(4)?,
                        report: MemberReport::from_json(row.try_get(5)?),
                        zone: row.try_get(6)?,
                        labels: labels_from_json(row.try_get(7)?),
                        endpoint: row.try_get(8)?,
                    })
                })
                .collect()
        }

        async fn list_leases(conn: &mut <Self as Database>::Connection) -> Result<Vec<LeaseRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT shard, holder, generation, expires_at_us - ", now_us!(), ", pinned
                 FROM eventbox_lease ORDER BY shard"
            ));
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    Ok(LeaseRow {
                        shard: row.try_get(0)?,
                        holder: row.try_get(1)?,
                        generation: row.try_get(2)?,
                        left_us: row.try_get(3)?,
                        pinned: row.try_get(4)?,
                    })
                })
                .collect()
        }

        async fn read_holder(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
        ) -> Result<Option<HolderRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT l.holder, l.generation, l.expires_at_us - ", now_us!(), ", l.pinned, m.zone, m.endpoint
                 FROM eventbox_lease l LEFT JOIN eventbox_member m ON m.worker = l.holder WHERE l.shard = $1"
            ));
            let Some(row) = query.bind(shard).fetch_optional(conn).await? else { return Ok(None) };
            let (holder, generation) = (row.try_get(0)?, row.try_get(1)?);
            let lease = LeaseRow { shard, holder, generation, left_us: row.try_get(2)?, pinned: row.try_get(3)? };
            Ok(Some(HolderRow { lease, zone: row.try_get(4)?, endpoint: row.try_get(5)? }))
        }

        async fn claim_leases(
            conn: &mut <Self as Database>::Connection,
            shards: &ShardMask,
            holder: Uuid,
            ttl_us: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_lease SET holder = $2, generation = generation + 1,
                     expires_at_us = ", now_us!(), " + $3
                 WHERE substr($1, shard + 1, 1) = '1'
                   AND (holder IS NULL OR expires_at_us < ", now_us!(), " OR expires_at_us > ", now_us!(), " + $4)"
            ));
            let query =
                query.bind(shards.0.as_str()).bind(holder).bind(ttl_us).bind(ttl_us.saturating_mul(TERMS_AHEAD));
            Ok(query.execute(conn).await?.rows_affected())
        }

        async fn renew_leases(
            conn: &mut <Self as Database>::Connection,
            holder: Uuid,
            ttl_us: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_lease SET expires_at_us = ", now_us!(), " + $2 WHERE holder = $1"
            ));
            Ok(query.bind(holder).bind(ttl_us).execute(conn).await?.rows_affected())
        }

        async fn hand_over_leases(
            conn: &mut <Self as Database>::Connection,
            shards: &ShardMask,
            giver: Uuid,
            receiver: Uuid,
            ttl_us: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_lease SET holder = $3, generation = generation + 1,
                     expires_at_us = ", now_us!(), " + $4
                 WHERE substr($1, shard + 1, 1) = '1' AND holder = $2"
            ));
            let query = query.bind(shards.0.as_str()).bind(giver).bind(receiver).bind(ttl_us);
            Ok(query.execute(conn).await?.rows_affected())
        }

        async fn move_lease(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            to: Option<Uuid>,
            ttl_us: i64,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_lease SET holder = $2, pinned = $2, generation = generation + 1,
                     expires_at_us = CASE WHEN $2 IS NULL THEN 0 ELSE ", now_us!(), " + $3 END
                 WHERE shard = $1 AND (holder IS DISTINCT FROM $2 OR pinned IS DISTINCT FROM $2)"
            ));
            Ok(query.bind(shard).bind(to).bind(ttl_us).execute(conn).await?.rows_affected() == 1)
        }

        async fn release_leases(
            conn: &mut <Self as Database>::Connection,
            shards: &ShardMask,
            holder: Uuid,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                "UPDATE eventbox_lease SET holder = NULL, generation = generation + 1, expires_at_us = 0
                 WHERE substr($1, shard + 1, 1) = '1' AND holder = $2",
            );
            Ok(query.bind(shards.0.as_str()).bind(holder).execute(conn).await?.rows_affected())
        }
    }
}
