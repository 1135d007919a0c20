//! Tombstones on SQLite.

use sqlx::{Row, Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::inbox::tombstone::{PrunedSlice, Slice, TombstoneDialect};
use crate::store::sqlite::now_us;

/// Whether the event of a tombstone exists.
macro_rules! lives {
    () => {
        "(EXISTS (SELECT 1 FROM eventbox_event e
             WHERE e.shard = $1 AND e.recipient = eventbox_tombstone.recipient AND e.id = eventbox_tombstone.id)
          OR EXISTS (SELECT 1 FROM eventbox_timer m
             WHERE m.shard = $1 AND m.recipient = eventbox_tombstone.recipient AND m.id = eventbox_tombstone.id)
          OR EXISTS (SELECT 1 FROM eventbox_dead_letter d WHERE d.shard = $1 AND d.id = eventbox_tombstone.id))"
    };
}

/// Differs: a CTE cannot write, so a pass is four statements in one transaction, which has the only lock.
///
/// The end of a slice, and its number of tombstones.
pub(crate) const END_OF_SLICE: &str = "SELECT recipient, name, count(*) OVER () FROM (
    SELECT recipient, name FROM eventbox_tombstone
    WHERE shard = $1 AND (recipient, name) > ($2, $3) AND (recipient, name) <= ($4, $5)
    ORDER BY recipient, name LIMIT $6 + 0
) ORDER BY recipient DESC, name DESC LIMIT 1";

pub(crate) const DELETE_TOMBSTONES: &str = concat!(
    "DELETE FROM eventbox_tombstone WHERE shard = $1 AND (recipient, name) > ($2, $3) AND (recipient, name) <= ($4, $5)
       AND gone_at_us <= ",
    now_us!(),
    " - $6 AND NOT ",
    lives!()
);

pub(crate) const REVIVE_TOMBSTONES: &str = concat!(
    "UPDATE eventbox_tombstone SET gone_at_us = NULL
     WHERE shard = $1 AND (recipient, name) > ($2, $3) AND (recipient, name) <= ($4, $5)
       AND gone_at_us IS NOT NULL AND ",
    lives!()
);

pub(crate) const STAMP_TOMBSTONES: &str = concat!(
    "UPDATE eventbox_tombstone SET gone_at_us = ",
    now_us!(),
    " WHERE shard = $1 AND (recipient, name) > ($2, $3) AND (recipient, name) <= ($4, $5)
       AND (gone_at_us IS NULL OR gone_at_us > ",
    now_us!(),
    ") AND NOT ",
    lives!()
);

impl TombstoneDialect for Sqlite {
    async fn prune_tombstones(tx: &mut SqliteConnection, slice: Slice<'_>) -> Result<PrunedSlice, Fault> {
        let Slice { shard, after, until, .. } = slice;
        let query = sqlx::query(END_OF_SLICE).bind(shard).bind(after.0).bind(after.1);
        let query = query.bind(until.0).bind(until.1).bind(slice.limit);
        let Some(row) = query.fetch_optional(&mut *tx).await? else { return Ok(PrunedSlice::default()) };
        let last: (String, String) = (row.try_get(0)?, row.try_get(1)?);

        let changed = |sql: &'static str| {
            let query = sqlx::query::<Sqlite>(sql).bind(shard).bind(after.0).bind(after.1);
            query.bind(last.0.clone()).bind(last.1.clone())
        };
        // The deletion comes first: a stamp of this pass is not older than the delay.
        let deleted = changed(DELETE_TOMBSTONES).bind(slice.delay_us).execute(&mut *tx).await?.rows_affected();
        let revived = changed(REVIVE_TOMBSTONES).execute(&mut *tx).await?.rows_affected();
        let stamped = changed(STAMP_TOMBSTONES).execute(&mut *tx).await?.rows_affected();
        let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(PrunedSlice {
            walked: row.try_get(2)?,
            stamped: count(stamped),
            revived: count(revived),
            deleted: count(deleted),
            last: Some(last),
        })
    }
}
