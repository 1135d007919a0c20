//! Rounds on SQLite.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Pool, Row, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::bound::Bound;
use crate::store::fault::Fault;
use crate::store::inbox::event::{LARGE_EVENTS, ListedRow};
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::{Packed, hex};
use crate::store::turns::round::{
    RoundDialect, RoundFrom, RoundRow, RoundWrite, WalkFrom, WalkedRow, cut_parts, empty_parts, hindrance,
};
use crate::store::turns::round_of_one::{RoundOfOneDialect, RoundOfOneTable};

/// The shards that have events, each found by one look-up.
pub(crate) const OCCUPIED_SHARDS: &str = "
WITH RECURSIVE occupied (shard) AS (
    SELECT min(shard) FROM eventbox_event
    UNION ALL
    SELECT (SELECT min(e.shard) FROM eventbox_event e WHERE e.shard > occupied.shard) FROM occupied
    WHERE occupied.shard IS NOT NULL
)
SELECT shard FROM occupied WHERE shard IS NOT NULL";

/// Number of shards from which a scan first finds the shards with events. A look-up in an empty shard costs more here
/// than finding the next shard with events.
const MANY_SHARDS: usize = 32;

/// Differs: no arrays. The added slash gives a kind of its own to a recipient without a slash, which a foreign
/// statement may have inserted.
pub(crate) const WALK_RECIPIENTS: &str = concat!(
    "WITH RECURSIVE step (shard, last, recipient, n) AS (
    SELECT f.value ->> 0, f.value ->> 2,
           (SELECT e.recipient FROM eventbox_event e
            WHERE e.shard = f.value ->> 0 AND e.recipient > f.value ->> 1 ORDER BY e.recipient LIMIT 1), 1
    FROM json_each($1) f
    UNION ALL
    SELECT step.shard, step.last,
           (SELECT e.recipient FROM eventbox_event e
            WHERE e.shard = step.shard AND e.recipient > CASE
                WHEN substr(step.recipient, 1, instr(step.recipient || '/', '/') - 1)
                    IN (SELECT value FROM json_each($3))
                THEN step.recipient
                ELSE substr(step.recipient, 1, instr(step.recipient || '/', '/') - 1) || '0' END
                ORDER BY e.recipient LIMIT 1), n + 1
    FROM step WHERE (step.last IS NULL OR step.recipient < step.last) AND step.recipient IS NOT NULL AND n < $2
)
SELECT step.shard, step.recipient,
       (SELECT e.id FROM eventbox_event e
        WHERE e.shard = step.shard AND e.recipient = step.recipient ORDER BY e.id LIMIT 1),
       CASE WHEN step.last IS NULL AND n = $2 THEN
           (SELECT e.recipient FROM eventbox_event e WHERE e.shard = step.shard ORDER BY e.recipient DESC LIMIT 1)
       ELSE step.last END,
       coalesce(f.paused, false), coalesce(f.next_attempt_at_us, 0) - ",
    now_us!(),
    " FROM step LEFT JOIN eventbox_failure f ON f.shard = step.shard AND f.recipient = step.recipient
WHERE step.recipient <= coalesce(step.last, step.recipient) ORDER BY n"
);

/// Differs: no LATERAL, so the id at which a recipient's part ends is looked up first. A running sum keeps its rows in
/// memory, so the states are looked up after it.
pub(crate) const LIST_ROUND: &str = concat!(
    "WITH r AS MATERIALIZED (
    SELECT f.key AS place, f.value ->> 0 AS shard, f.value ->> 1 AS recipient, unhex(f.value ->> 2) AS after,
           f.value ->> 3 AS is_known FROM json_each($1) f
), kept AS MATERIALIZED (
    SELECT r.*, s.turn, s.bytes, sum(s.bytes) OVER (ROWS UNBOUNDED PRECEDING) - s.bytes AS before
    FROM r LEFT JOIN (SELECT shard, recipient, turn, octet_length(state) AS bytes FROM eventbox_state) s
        ON NOT r.is_known AND s.shard = r.shard AND s.recipient = r.recipient
), part AS MATERIALIZED (
    SELECT r.*, (SELECT e.id FROM eventbox_event e
                 WHERE e.shard = r.shard AND e.recipient = r.recipient AND e.id > r.after
                 ORDER BY e.id LIMIT 1 OFFSET $2 - 1) AS upto FROM r
)
SELECT kept.place, coalesce(kept.turn, 0),
       CASE WHEN kept.before < $4 THEN
           (SELECT s.state FROM eventbox_state s WHERE s.shard = kept.shard AND s.recipient = kept.recipient) END,
       kept.bytes IS NOT NULL, f.paused OR f.next_attempt_at_us - ",
    now_us!(),
    " BETWEEN 1 AND $5, NULL, NULL, NULL, NULL, NULL, NULL
FROM kept LEFT JOIN eventbox_failure f ON f.shard = kept.shard AND f.recipient = kept.recipient
UNION ALL
SELECT part.place, NULL, NULL, NULL, NULL, e.id, e.name, e.traceparent,
       CASE WHEN octet_length(e.value) <= $3 THEN e.value END, octet_length(e.value), e.origin
FROM part CROSS JOIN eventbox_event e ON e.shard = part.shard AND e.recipient = part.recipient AND e.id > part.after
     AND e.id <= coalesce(part.upto, x'ffffffffffffffffffffffffffffffff')"
);

/// Differs, here and below: a CTE cannot write, so turns of 0, other turns and events are three statements of one
/// transaction, which has the only lock.
pub(crate) const FIRST_TURNS: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
     SELECT value ->> '$[2][0]', value ->> '$[2][1]', 1, $3, ",
    now_us!(),
    ", CASE WHEN value ->> '$[2][4]' THEN substr($2, value ->> 0, value ->> 1) END FROM json_each($1)
     WHERE value ->> '$[2][2]' = 0 ON CONFLICT DO NOTHING RETURNING shard, recipient"
);

pub(crate) const NEXT_TURNS: &str = concat!(
    "UPDATE eventbox_state AS s SET turn = s.turn + 1, token = $3, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN w.value ->> '$[2][3]' THEN s.state
                    WHEN w.value ->> '$[2][4]' THEN substr($2, w.value ->> 0, w.value ->> 1) END
     FROM json_each($1) w
     WHERE s.shard = w.value ->> '$[2][0]' AND s.recipient = w.value ->> '$[2][1]' AND s.turn = w.value ->> '$[2][2]'
       AND w.value ->> '$[2][2]' > 0 AND (w.value ->> '$[2][5]' IS NULL OR s.token = unhex(w.value ->> '$[2][5]'))
     RETURNING shard, recipient"
);

pub(crate) const REMOVE_EVENTS: &str = "DELETE FROM eventbox_event WHERE (shard, recipient, id) IN (
    SELECT value ->> 0, value ->> 1, unhex(value ->> 2) FROM json_each($1))";

pub(crate) const REMOVE_RANGES: &str = "DELETE FROM eventbox_event WHERE (shard, recipient, id) IN (
    SELECT e.shard, e.recipient, e.id FROM json_each($1) r CROSS JOIN eventbox_event e
    WHERE e.shard = r.value ->> 0 AND e.recipient = r.value ->> 1
        AND e.id BETWEEN unhex(r.value ->> 2) AND unhex(r.value ->> 3))";

impl RoundDialect for Sqlite {
    fn is_one_statement(recipients: usize) -> bool {
        recipients == 1
    }

    async fn walk_recipients(
        pool: &Pool<Self>,
        from: &[WalkFrom],
        per_shard: i64,
        kinds: &[&str],
    ) -> Result<Vec<WalkedRow>, Fault> {
        let mut from: Vec<_> = from.iter().map(|from| (from.shard, &from.after, &from.last)).collect();
        if from.len() >= MANY_SHARDS {
            let occupied: Vec<i16> = sqlx::query_scalar(OCCUPIED_SHARDS).fetch_all(pool).await?;
            from.retain(|(shard, ..)| occupied.binary_search(shard).is_ok());
            if from.is_empty() {
                return Ok(Vec::new());
            }
        }
        let query = sqlx::query(WALK_RECIPIENTS).bind(json(&from)?).bind(per_shard).bind(json(&kinds)?);
        query.fetch_all(pool).await?.iter().map(walked).collect()
    }

    async fn list_round(
        conn: &mut SqliteConnection,
        from: &[RoundFrom<'_>],
        bound: Bound,
        longest_wait_us: i64,
    ) -> Result<Vec<RoundRow>, Fault> {
        if let [one] = from {
            return Ok(vec![Self::list_one(conn, one, bound, longest_wait_us).await?]);
        }
        let wanted: Vec<_> =
            from.iter().map(|from| (from.shard, from.recipient, hex(from.after), from.is_known)).collect();
        let query = sqlx::query(LIST_ROUND).bind(json(&wanted)?).bind(bound.rows());
        let query = query.bind(bound.small(from.len())).bind(bound.bytes()).bind(longest_wait_us);
        let mut parts = empty_parts(from.len());
        let mut rows = query.fetch(&mut *conn);
        while let Some(row) = rows.try_next().await? {
            let Some(part) = parts.get_mut(place_of(&row)?) else { continue };
            match row.try_get(5)? {
                Some(id) => {
                    let (name, traceparent, origin) = (row.try_get(6)?, row.try_get(7)?, row.try_get(10)?);
                    let listed = ListedRow { id, name, traceparent, origin, value: Vec::new() };
                    part.events.push(listed, row.try_get(8)?, row.try_get(9)?);
                }
                None => {
                    (part.row.turn, part.row.state) = (row.try_get(1)?, row.try_get(2)?);
                    part.has_state = row.try_get(3)?;
                    (part.row.hindered, part.row.failing) = hindrance(row.try_get(4)?);
                }
            }
        }
        drop(rows);
        let missing = cut_parts(&mut parts, bound);
        let mut rounds = Vec::with_capacity(parts.len());
        let mut missing = missing.into_iter().peekable();
        for part in parts {
            let mut values = HashMap::new();
            if let Some((place, missing)) = missing.next_if(|(place, _)| *place == part.row.place)
                && let Some(of) = from.get(place)
            {
                // Differs: one query for each recipient, because there is no LATERAL, and a statement takes no round
                // trip.
                let query = sqlx::query(LARGE_EVENTS).bind(of.shard).bind(of.recipient).bind(missing.first);
                let query = query.bind(missing.last).bind(bound.small(from.len())).bind(missing.rows);
                let mut rows = query.fetch(&mut *conn);
                while let Some(row) = rows.try_next().await? {
                    values.insert(row.try_get(0)?, row.try_get(1)?);
                }
            }
            rounds.push(part.filled(values));
        }
        Ok(rounds)
    }

    async fn write_round(
        tx: &mut SqliteConnection,
        writes: &[RoundWrite<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> Result<Option<Vec<usize>>, Fault> {
        if let [one] = writes {
            let written = Self::write_one(tx, one, token, lock_wait_ms).await?;
            return Ok(written.map(|won| if won { vec![0] } else { Vec::new() }));
        }
        let mut packed = Packed::with_capacity(writes.len());
        for write in writes {
            let state = write.state.bytes();
            let columns =
                (write.shard, write.recipient, write.turn, write.state.keeps(), state.is_some(), write.token.map(hex));
            packed.push(columns, state.unwrap_or_default());
        }
        let (rows, states) = packed.into_parameters()?;
        let mut won = Vec::with_capacity(writes.len());
        for (sql, is_first) in [(FIRST_TURNS, true), (NEXT_TURNS, false)] {
            if writes.iter().all(|write| (write.turn == 0) != is_first) {
                continue;
            }
            for row in sqlx::query(sql).bind(&rows).bind(&states).bind(token).fetch_all(&mut *tx).await? {
                let (shard, recipient): (i16, String) = (row.try_get(0)?, row.try_get(1)?);
                let place = |write: &RoundWrite<'_>| (write.shard, write.recipient).cmp(&(shard, recipient.as_str()));
                won.extend(writes.binary_search_by(place));
            }
        }
        let winners = || won.iter().filter_map(|place| writes.get(*place));
        let listed: Vec<_> = winners()
            .flat_map(|write| {
                let ids = write.removed.chosen().unwrap_or_default();
                ids.iter().map(|id| (write.shard, write.recipient, hex(*id)))
            })
            .collect();
        let ranges: Vec<_> = winners()
            .filter_map(|write| Some((write.shard, write.recipient, write.removed.range()?)))
            .map(|(shard, recipient, (first, last))| (shard, recipient, hex(first), hex(last)))
            .collect();
        let mut removed = 0;
        if !listed.is_empty() {
            removed += sqlx::query(REMOVE_EVENTS).bind(json(&listed)?).execute(&mut *tx).await?.rows_affected();
        }
        if !ranges.is_empty() {
            removed += sqlx::query(REMOVE_RANGES).bind(json(&ranges)?).execute(tx).await?.rows_affected();
        }
        let wanted: usize = winners().map(|write| write.removed.count()).sum();
        Ok((removed == wanted as u64).then_some(won))
    }
}

fn place_of(row: &SqliteRow) -> Result<usize, Fault> {
    Ok(usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX))
}

fn walked(row: &SqliteRow) -> Result<WalkedRow, Fault> {
    Ok(WalkedRow {
        shard: row.try_get(0)?,
        recipient: row.try_get(1)?,
        first: row.try_get(2)?,
        last: row.try_get(3)?,
        paused: row.try_get(4)?,
        wait_us: row.try_get(5)?,
    })
}

fn json(rows: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))
}
