//! `eventbox_shard`: what operators ask of each shard, and what its holder reports of a failure. `eventbox_revision`
//! counts the changes.

use std::collections::BTreeMap;

use sqlx::{Database, Row};
use uuid::Uuid;

use super::lease::ShardMask;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A shard with everything that is stored about it but its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRow {
    pub shard: i16,
    pub labels: BTreeMap<String, String>,
    pub is_disabled: bool,
    /// Preferred zone.
    pub zone: Option<String>,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// Time of the last failure.
    pub failed_at_us: Option<i64>,
    /// Failures in a row.
    pub attempts: i32,
    /// Time until the next attempt, in microseconds. Not positive once the attempt has begun.
    pub wait_us: Option<i64>,
    pub errors: Option<String>,
}

impl ShardRow {
    /// Returns whether no process may work on the shard now, because of its last failure.
    pub fn is_failed(&self) -> bool {
        self.attempts > 0 && self.wait_us.is_none_or(|wait| wait > 0)
    }
}

/// What a member needs to know of a shard: of one that is not like all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardOrder {
    pub shard: i16,
    pub is_disabled: bool,
    pub zone: Option<String>,
    pub attempts: i32,
    /// As [`ShardRow::wait_us`].
    pub wait_us: Option<i64>,
}

/// A new spec of a shard.
#[derive(Debug, Clone, Copy)]
pub struct SpecWrite<'a> {
    pub shard: i16,
    pub labels: &'a BTreeMap<String, String>,
    pub is_disabled: bool,
    pub zone: Option<&'a str>,
}

/// A failure of a shard, as its holder reports it.
#[derive(Debug, Clone, Copy)]
pub struct FailureWrite<'a> {
    pub shard: i16,
    pub holder: Uuid,
    /// Number of failures before this one.
    pub attempts: i32,
    /// Pause before the next attempt, in microseconds. `None` when there is none.
    pub pause_us: Option<i64>,
    pub errors: &'a str,
}

/// Statements on the specs and failures of shards.
pub trait SpecTable: Database {
    /// Returns all shards, in order.
    fn list_shards(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<ShardRow>, Fault>> + Send;

    /// Returns the shards that are disabled, prefer a zone or have failed, in order.
    fn list_shard_orders(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<ShardOrder>, Fault>> + Send;

    /// Returns the next revision. Its row stays locked until the end of the transaction, so changes of specs come one
    /// after the other.
    fn next_shard_revision(tx: &mut Self::Connection) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Writes the spec of a shard at a revision.
    fn write_spec(
        tx: &mut Self::Connection,
        spec: &SpecWrite<'_>,
        revision: i64,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Sets the spec of a shard back. False when the shard has none.
    fn reset_spec(tx: &mut Self::Connection, shard: i16) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Notes a failure of a shard. False when the shard has another holder, or another failure was noted.
    fn fail_shard(
        conn: &mut Self::Connection,
        failure: &FailureWrite<'_>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Forgets the failures of shards; returns how many had some.
    fn heal_shards(conn: &mut Self::Connection, shards: &ShardMask) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Frees shards, whoever holds them. Pins stay.
    fn free_leases(conn: &mut Self::Connection, shards: &ShardMask) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Returns labels as a JSON object.
pub(super) fn labels_to_json(labels: &BTreeMap<String, String>) -> String {
    // It has only texts, so it can be written.
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned())
}

/// Reads labels. An object that cannot be read has none.
pub(super) fn labels_from_json(json: &str) -> BTreeMap<String, String> {
    serde_json::from_str(json).unwrap_or_default()
}

on_both_engines! {
    impl SpecTable for Engine {
        async fn list_shards(conn: &mut <Self as Database>::Connection) -> Result<Vec<ShardRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT shard, labels, is_disabled, zone, create_revision, mod_revision, failed_at_us, attempts,
                     next_attempt_at_us - ", now_us!(), ", errors
                 FROM eventbox_shard ORDER BY shard"
            ));
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    Ok(ShardRow {
                        shard: row.try_get(0)?,
                        labels: labels_from_json(row.try_get(1)?),
                        is_disabled: row.try_get(2)?,
                        zone: row.try_get(3)?,
                        create_revision: row.try_get(4)?,
                        mod_revision: row.try_get(5)?,
                        failed_at_us: row.try_get(6)?,
                        attempts: row.try_get(7)?,
                        wait_us: row.try_get(8)?,
                        errors: row.try_get(9)?,
                    })
                })
                .collect()
        }

        async fn list_shard_orders(conn: &mut <Self as Database>::Connection) -> Result<Vec<ShardOrder>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT shard, is_disabled, zone, attempts, next_attempt_at_us - ", now_us!(), "
                 FROM eventbox_shard WHERE is_disabled OR zone IS NOT NULL OR attempts > 0 ORDER BY shard"
            ));
            let rows = query.fetch_all(conn).await?;
            rows.into_iter()
                .map(|row| {
                    Ok(ShardOrder {
                        shard: row.try_get(0)?,
                        is_disabled: row.try_get(1)?,
                        zone: row.try_get(2)?,
                        attempts: row.try_get(3)?,
                        wait_us: row.try_get(4)?,
                    })
                })
                .collect()
        }

        async fn next_shard_revision(tx: &mut <Self as Database>::Connection) -> Result<i64, Fault> {
            let query = sqlx::query_scalar::<Engine, i64>(
                "UPDATE eventbox_revision SET value = value + 1 WHERE counter = 'shard' RETURNING value",
            );
            Ok(query.fetch_one(tx).await?)
        }

        async fn write_spec(
            tx: &mut <Self as Database>::Connection,
            spec: &SpecWrite<'_>,
            revision: i64,
        ) -> Result<(), Fault> {
            let query = sqlx::query::<Engine>(
                "UPDATE eventbox_shard SET labels = $2, is_disabled = $3, zone = $4, mod_revision = $5,
                     create_revision = CASE WHEN create_revision = 0 THEN $5 ELSE create_revision END
                 WHERE shard = $1",
            );
            let query = query.bind(spec.shard).bind(labels_to_json(spec.labels)).bind(spec.is_disabled);
            query.bind(spec.zone).bind(revision).execute(tx).await?;
            Ok(())
        }

        async fn reset_spec(tx: &mut <Self as Database>::Connection, shard: i16) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(
                "UPDATE eventbox_shard SET labels = '{}', is_disabled = false, zone = NULL,
                     create_revision = 0, mod_revision = 0
                 WHERE shard = $1 AND mod_revision > 0",
            );
            Ok(query.bind(shard).execute(tx).await?.rows_affected() == 1)
        }

        async fn fail_shard(
            conn: &mut <Self as Database>::Connection,
            failure: &FailureWrite<'_>,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "UPDATE eventbox_shard SET failed_at_us = ", now_us!(), ", attempts = attempts + 1,
                     next_attempt_at_us = ", now_us!(), " + $4, errors = $5
                 WHERE shard = $1 AND attempts = $3 AND EXISTS (
                     SELECT 1 FROM eventbox_lease l WHERE l.shard = $1 AND l.holder = $2)"
            ));
            let query = query.bind(failure.shard).bind(failure.holder).bind(failure.attempts);
            let query = query.bind(failure.pause_us).bind(failure.errors);
            Ok(query.execute(conn).await?.rows_affected() == 1)
        }

        async fn heal_shards(
            conn: &mut <Self as Database>::Connection,
            shards: &ShardMask,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                "UPDATE eventbox_shard SET failed_at_us = NULL, attempts = 0, next_attempt_at_us = NULL, errors = NULL
                 WHERE substr($1, shard + 1, 1) = '1' AND attempts > 0",
            );
            Ok(query.bind(shards.0.as_str()).execute(conn).await?.rows_affected())
        }

        async fn free_leases(
            conn: &mut <Self as Database>::Connection,
            shards: &ShardMask,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                "UPDATE eventbox_lease SET holder = NULL, generation = generation + 1, expires_at_us = 0
                 WHERE substr($1, shard + 1, 1) = '1' AND holder IS NOT NULL",
            );
            Ok(query.bind(shards.0.as_str()).execute(conn).await?.rows_affected())
        }
    }
}
