//! Tombstones on Postgres.

use sqlx::{PgConnection, Postgres, Row};

use crate::store::fault::Fault;
use crate::store::inbox::tombstone::{PrunedSlice, Slice, TombstoneDialect};
use crate::store::postgres::clock_us;

/// The statement of [`TombstoneDialect::prune_tombstones`]; its plan must walk the primary key of the tombstones and
/// look events up by theirs.
///
/// One statement, so that event, timer and dead letter are of one snapshot: an event that moves between these tables is
/// always in one of them. Rows that another transaction holds stay for the next pass. The write compares the read
/// values again, so a replay that has just cleared a stamp wins. Lateral look-ups prevent the planner from reading
/// whole boxes, and arrays prevent it from reading a whole shard.
///
/// The moving clock, read once and behind the snapshot: an event that the snapshot does not see was removed before this
/// time, so no stamp lies before the removal, however long the statement waited for a table.
pub(crate) const PRUNE_TOMBSTONES: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT ",
    clock_us!(),
    " AS us), slice AS MATERIALIZED (
    SELECT t.recipient, t.name, t.id, t.gone_at_us FROM eventbox_tombstone t
    WHERE t.shard = $1 AND (t.recipient, t.name) > ($2, $3) AND (t.recipient, t.name) <= ($4, $5)
    ORDER BY t.recipient, t.name LIMIT $6
), looked_up AS MATERIALIZED (
    SELECT s.recipient, s.name, s.id, s.gone_at_us, coalesce(e.lives, m.lives, d.lives, false) AS lives
    FROM slice s
    LEFT JOIN LATERAL (
        SELECT true AS lives FROM eventbox_event x
        WHERE x.shard = $1 AND x.recipient = s.recipient AND x.id = s.id LIMIT 1
    ) e ON true
    LEFT JOIN LATERAL (
        SELECT true AS lives FROM eventbox_timer x
        WHERE x.shard = $1 AND x.recipient = s.recipient AND x.id = s.id LIMIT 1
    ) m ON true
    LEFT JOIN LATERAL (
        SELECT true AS lives FROM eventbox_dead_letter x WHERE x.shard = $1 AND x.id = s.id LIMIT 1
    ) d ON true
), due AS MATERIALIZED (
    SELECT l.recipient, l.name, l.id, l.lives
    FROM looked_up l
    CROSS JOIN clock
    CROSS JOIN LATERAL (
        SELECT 1 FROM eventbox_tombstone t
        WHERE t.shard = $1 AND t.recipient = l.recipient AND t.name = l.name AND t.id = l.id
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) held
    WHERE l.lives = (l.gone_at_us IS NOT NULL)
       OR (NOT l.lives AND (l.gone_at_us > clock.us OR l.gone_at_us <= clock.us - $7))
), packed AS MATERIALIZED (
    SELECT array_agg(recipient) AS recipients, array_agg(name) AS names, array_agg(id) AS ids, array_agg(lives) AS lives
    FROM due
), changed AS (
    UPDATE eventbox_tombstone t SET gone_at_us = CASE WHEN u.lives THEN NULL ELSE clock.us END
    FROM packed p CROSS JOIN clock CROSS JOIN LATERAL unnest(p.recipients, p.names, p.ids, p.lives) AS u (recipient, name, id, lives)
    WHERE t.shard = $1 AND t.recipient = u.recipient AND t.name = u.name AND t.id = u.id
      AND (u.lives = (t.gone_at_us IS NOT NULL) OR (NOT u.lives AND t.gone_at_us > clock.us))
    RETURNING u.lives
), deleted AS (
    DELETE FROM eventbox_tombstone t
    USING packed p CROSS JOIN clock CROSS JOIN LATERAL unnest(p.recipients, p.names, p.ids, p.lives) AS u (recipient, name, id, lives)
    WHERE t.shard = $1 AND t.recipient = u.recipient AND t.name = u.name AND t.id = u.id
      AND NOT u.lives AND t.gone_at_us <= clock.us - $7
    RETURNING 1
)
SELECT recipient, name, (SELECT count(*) FROM slice), (SELECT count(*) FROM changed WHERE NOT lives),
       (SELECT count(*) FROM changed WHERE lives), (SELECT count(*) FROM deleted)
FROM slice ORDER BY recipient DESC, name DESC LIMIT 1"
);

impl TombstoneDialect for Postgres {
    async fn prune_tombstones(tx: &mut PgConnection, slice: Slice<'_>) -> Result<PrunedSlice, Fault> {
        let query = sqlx::query(PRUNE_TOMBSTONES).bind(slice.shard).bind(slice.after.0).bind(slice.after.1);
        let query = query.bind(slice.until.0).bind(slice.until.1).bind(slice.limit).bind(slice.delay_us);
        let Some(row) = query.fetch_optional(tx).await? else { return Ok(PrunedSlice::default()) };
        Ok(PrunedSlice {
            last: Some((row.try_get(0)?, row.try_get(1)?)),
            walked: row.try_get(2)?,
            stamped: row.try_get(3)?,
            revived: row.try_get(4)?,
            deleted: row.try_get(5)?,
        })
    }
}
