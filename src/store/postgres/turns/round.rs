//! Rounds on Postgres.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use crate::store::bound::{Bound, Missing};
use crate::store::connect::connection::in_time;
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::begin;
use crate::store::fault::Fault;
use crate::store::inbox::event::ListedRow;
use crate::store::postgres::{by_shard, now_us};
use crate::store::turns::round::{
    ListedPart, RoundDialect, RoundFrom, RoundRow, RoundWrite, WalkFrom, WalkedRow, cut_parts, empty_parts, hindrance,
};
use crate::store::turns::round_of_one::{RoundOfOneDialect, RoundOfOneTable};

/// The statement of [`RoundDialect::walk_recipients`]; its plan must use the primary key at every step.
///
/// A look-up of an entry takes much longer than the read of the next entry. So a step reads several events of a shard:
/// four at first, then four times the number of recipients that the last step found. That is 64 events where each
/// recipient has one event, and a few where they have many.
pub(crate) const WALK_RECIPIENTS: &str = concat!(
    "WITH RECURSIVE step (shard, last, has_failures, recipients, firsts, behind, found, n) AS (
    SELECT shard, last, (SELECT true FROM eventbox_failure x WHERE x.shard = f.shard LIMIT 1),
           NULL::text[] COLLATE \"C\", NULL::uuid[], after COLLATE \"C\", 1, 0::int8
    FROM unnest((SELECT $1::int2[]), $2::text[], $3::text[]) AS f (shard, after, last)
    UNION ALL
    SELECT step.shard, step.last, has_failures, e.recipients, e.firsts, e.behind,
           cardinality(e.recipients), n + cardinality(e.recipients)
    FROM step CROSS JOIN LATERAL (
        SELECT array_agg(recipient) FILTER (WHERE is_first) AS recipients,
               array_agg(id) FILTER (WHERE is_first) AS firsts, max(behind) AS behind
        FROM (
            SELECT recipient, id, behind, lag(behind) OVER (ORDER BY recipient, id) IS DISTINCT FROM behind AS is_first
            FROM (
                SELECT recipient, id,
                       CASE WHEN split_part(recipient, '/', 1) = ANY($5) THEN recipient
                            ELSE split_part(recipient, '/', 1) || '0' END AS behind
                FROM eventbox_event e WHERE e.shard = step.shard AND e.recipient > step.behind
                ORDER BY recipient, id LIMIT least(4 * step.found, 64, $4 - step.n)
            ) listed
        ) marked
    ) e
    WHERE (step.last IS NULL OR step.behind < step.last) AND n < $4 AND e.behind IS NOT NULL
)
SELECT step.shard, r.recipient, r.first,
       CASE WHEN step.last IS NULL AND n - found + r.place = $4 THEN
           (SELECT e.recipient FROM eventbox_event e WHERE e.shard = step.shard ORDER BY e.recipient DESC LIMIT 1)
       ELSE step.last END,
       coalesce(f.paused, false), coalesce(f.next_attempt_at_us, 0) - ",
    now_us!(),
    " FROM step CROSS JOIN unnest(step.recipients, step.firsts) WITH ORDINALITY AS r (recipient, first, place)
LEFT JOIN LATERAL (
    SELECT paused, next_attempt_at_us FROM eventbox_failure f
    WHERE step.has_failures AND f.shard = step.shard AND f.recipient = r.recipient LIMIT 1
) f ON true
WHERE r.recipient <= coalesce(step.last, r.recipient) ORDER BY n - found + r.place"
);

/// While the statistics say that the table is empty, a free planner would read all events of a shard to find its first
/// recipient. It would also expect so much work from the recursion that it compiles the statement, which takes longer
/// than a scan.
const STEP_BY_INDEX: &str =
    "SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
    set_config('jit', 'off', true)";

/// The statement of [`RoundDialect::list_round`]; its plan must look every recipient up by the primary keys.
///
/// One statement, so one snapshot of the turns and states, and of the events of each recipient in their order. A sort
/// of all events together would cost more than reading them. Large values are left to [`LARGE_OF_ROUND`], because a
/// running sum of the lengths would cost a tenth of a round. There are few states, so such a sum leaves out the states
/// that do not fit.
pub(crate) const LIST_ROUND: &str = concat!(
    "SELECT r.place, s.turn,
       CASE WHEN sum(octet_length(s.state)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(s.state) < $7
            THEN s.state END,
       s.state IS NOT NULL, f.paused OR f.next_attempt_at_us - ",
    now_us!(),
    " BETWEEN 1 AND $8 AS hindered,
           NULL::uuid AS id, NULL AS name, NULL AS traceparent, NULL::bytea AS value, NULL::int8, NULL AS origin
FROM unnest((SELECT $1::int2[]), $2::text[], $5::bool[]) WITH ORDINALITY AS r (shard, recipient, is_known, place)
LEFT JOIN LATERAL (
    SELECT turn, state FROM eventbox_state s
    WHERE NOT r.is_known AND s.shard = r.shard AND s.recipient = r.recipient LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT paused, next_attempt_at_us FROM eventbox_failure f WHERE f.shard = r.shard AND f.recipient = r.recipient
    LIMIT 1
) f ON true
UNION ALL
SELECT r.place, NULL, NULL, NULL, NULL, e.id, e.name, e.traceparent, CASE WHEN e.bytes <= $6 THEN e.value END, e.bytes,
       e.origin
FROM unnest((SELECT $1::int2[]), $2::text[], $3::uuid[]) WITH ORDINALITY AS r (shard, recipient, after, place)
CROSS JOIN LATERAL (
    SELECT id, name, traceparent, value, octet_length(value)::int8 AS bytes, origin FROM eventbox_event e
    WHERE e.shard = r.shard AND e.recipient = r.recipient AND e.id > r.after ORDER BY id LIMIT $4
) e"
);

/// The values within the bound that [`LIST_ROUND`] left out; its plan must use the primary key.
pub(crate) const LARGE_OF_ROUND: &str = "SELECT r.place, e.id, e.value
FROM unnest((SELECT $1::int2[]), $2::text[], $3::uuid[], $4::uuid[], $5::int8[]) WITH ORDINALITY
    AS r (shard, recipient, first, last, rows, place)
CROSS JOIN LATERAL (
    SELECT id, value FROM eventbox_event e
    WHERE e.shard = r.shard AND e.recipient = r.recipient AND e.id >= r.first AND e.id <= r.last
      AND octet_length(e.value) > $6
    ORDER BY id LIMIT r.rows
) e";

/// The statement of [`RoundDialect::write_round`]; its plan must find states and events by their primary keys.
///
/// The turns come first, and are complete before an event is removed. The statement checks its own result: a number of
/// removals other than the winners need divides by zero, which rolls everything back. A turn of 0 is an insert, and any
/// other turn is an update, because a missing row must not match.
///
/// The events of each recipient are read between its first and its last id. Where only some of them go, their ids are
/// the `removed` ids of `$10` from number `ids_from` on: a comparison there takes less time than a look-up of each id.
pub(crate) const WRITE_ROUND: &str = concat!(
    "WITH bound AS MATERIALIZED (
    SELECT set_config('lock_timeout', $12, true) AS lock_timeout
), w AS MATERIALIZED (
    SELECT u.* FROM bound,
        unnest((SELECT $1::int2[]), $2::text[], $3::int8[], $4::bool[], $5::bytea[], $6::uuid[], $7::uuid[], $8::int4[],
        $9::int4[], $13::uuid[]) WITH ORDINALITY
        AS u (shard, recipient, turn, keep, state, first, last, removed, ids_from, token, place)
    WHERE bound.lock_timeout IS NOT NULL
), first AS (
    INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
    SELECT shard, recipient, 1, $11, ",
    now_us!(),
    ", state FROM w WHERE turn = 0 ORDER BY shard, recipient
    ON CONFLICT DO NOTHING RETURNING shard, recipient
), next AS (
    UPDATE eventbox_state s SET turn = w.turn + 1, token = $11, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN w.keep THEN s.state ELSE w.state END
    FROM w WHERE w.turn > 0 AND s.shard = w.shard AND s.recipient = w.recipient AND s.turn = w.turn
      AND (w.token IS NULL OR s.token = w.token)
    RETURNING s.shard, s.recipient
), won AS MATERIALIZED (
    SELECT w.place, w.shard, w.recipient, w.first, w.last, w.removed,
           ($10::uuid[])[w.ids_from:w.ids_from + w.removed - 1] AS ids
    FROM (SELECT * FROM first UNION ALL SELECT * FROM next) t JOIN w USING (shard, recipient)
), gone AS (
    DELETE FROM eventbox_event e USING won
    WHERE e.shard = won.shard AND e.recipient = won.recipient AND e.id BETWEEN won.first AND won.last
      AND (won.ids IS NULL OR e.id = ANY(won.ids))
    RETURNING 1
), complete AS MATERIALIZED (
    SELECT 1 / ((SELECT coalesce(sum(removed), 0) FROM won) = (SELECT count(*) FROM gone))::int AS yes
)
SELECT won.place FROM won, complete WHERE complete.yes = 1"
);

/// Error of Postgres when [`WRITE_ROUND`] has removed too few or too many events.
const DIVISION_BY_ZERO: &str = "22012";

impl RoundDialect for Postgres {
    fn is_one_statement(_recipients: usize) -> bool {
        !by_shard::is_on()
    }

    async fn walk_recipients(
        pool: &Pool<Self>,
        from: &[WalkFrom],
        per_shard: i64,
        kinds: &[&str],
    ) -> Result<Vec<WalkedRow>, Fault> {
        if by_shard::is_on() {
            return by_shard::listing::walk(pool, from, per_shard, kinds).await;
        }
        let query = sqlx::query(WALK_RECIPIENTS)
            .bind(from.iter().map(|from| from.shard).collect::<Vec<_>>())
            .bind(from.iter().map(|from| from.after.as_str()).collect::<Vec<_>>())
            .bind(from.iter().map(|from| from.last.as_deref()).collect::<Vec<_>>());
        let mut tx = begin(pool, Self::BEGIN_WRITE, false).await?;
        let query = query.bind(per_shard).bind(kinds);
        let walking = in_time::<Self, _>(async {
            sqlx::query(STEP_BY_INDEX).execute(&mut *tx).await?;
            Ok(query.fetch_all(&mut *tx).await?)
        });
        let rows = walking.await?;
        tx.commit().await?;
        rows.iter().map(walked).collect()
    }

    async fn list_round(
        conn: &mut PgConnection,
        from: &[RoundFrom<'_>],
        bound: Bound,
        longest_wait_us: i64,
    ) -> Result<Vec<RoundRow>, Fault> {
        if by_shard::is_on() {
            return by_shard::listing::list(conn, from, bound, longest_wait_us).await;
        }
        if let [one] = from {
            return Ok(vec![Self::list_one(conn, one, bound, longest_wait_us).await?]);
        }
        let query = sqlx::query(LIST_ROUND)
            .bind(from.iter().map(|from| from.shard).collect::<Vec<_>>())
            .bind(from.iter().map(|from| from.recipient).collect::<Vec<_>>())
            .bind(from.iter().map(|from| from.after).collect::<Vec<_>>())
            .bind(bound.rows())
            .bind(from.iter().map(|from| from.is_known).collect::<Vec<_>>())
            .bind(bound.small(from.len()))
            .bind(bound.bytes())
            .bind(longest_wait_us);
        let mut parts = empty_parts(from.len());
        let mut rows = query.fetch(&mut *conn);
        while let Some(row) = rows.try_next().await? {
            let Some(part) = parts.get_mut(place_of(&row)?) else { continue };
            note_row(part, &row)?;
        }
        drop(rows);
        let mut values = read_large(conn, from, &cut_parts(&mut parts, bound), bound).await?;
        Ok(parts
            .into_iter()
            .map(|part| {
                let its = values.remove(&part.row.place).unwrap_or_default();
                part.filled(its)
            })
            .collect())
    }

    async fn write_round(
        tx: &mut PgConnection,
        writes: &[RoundWrite<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> Result<Option<Vec<usize>>, Fault> {
        if by_shard::is_on() {
            return by_shard::writing::write_round(tx, writes, token, lock_wait_ms).await;
        }
        if let [one] = writes {
            let written = Self::write_one(tx, one, token, lock_wait_ms).await?;
            return Ok(written.map(|won| if won { vec![0] } else { Vec::new() }));
        }
        let (mut ids, mut ids_from) = (Vec::new(), Vec::with_capacity(writes.len()));
        for write in writes {
            ids_from.push(write.removed.chosen().map(|_| number(ids.len() + 1)));
            ids.extend_from_slice(write.removed.chosen().unwrap_or_default());
        }
        let (first, last): (Vec<_>, Vec<_>) = writes.iter().map(|write| write.removed.bounds().unzip()).unzip();
        let query = sqlx::query(WRITE_ROUND)
            .bind(writes.iter().map(|write| write.shard).collect::<Vec<_>>())
            .bind(writes.iter().map(|write| write.recipient).collect::<Vec<_>>())
            .bind(writes.iter().map(|write| write.turn).collect::<Vec<_>>())
            .bind(writes.iter().map(|write| write.state.keeps()).collect::<Vec<_>>())
            .bind(writes.iter().map(|write| write.state.bytes()).collect::<Vec<_>>())
            .bind(first)
            .bind(last)
            .bind(writes.iter().map(|write| number(write.removed.count())).collect::<Vec<_>>())
            .bind(ids_from)
            .bind(ids);
        let query = query.bind(token).bind(lock_wait_ms.to_string());
        match query.bind(writes.iter().map(|write| write.token).collect::<Vec<_>>()).fetch_all(tx).await {
            Ok(rows) => rows.iter().map(place_of).collect::<Result<_, _>>().map(Some),
            Err(error) if is_shortfall(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the missing values by the indexes of their recipients.
async fn read_large(
    conn: &mut PgConnection,
    from: &[RoundFrom<'_>],
    missing: &[(usize, Missing)],
    bound: Bound,
) -> Result<HashMap<usize, HashMap<Uuid, Vec<u8>>>, Fault> {
    let mut values: HashMap<usize, HashMap<Uuid, Vec<u8>>> = HashMap::new();
    if missing.is_empty() {
        return Ok(values);
    }
    let owners = || missing.iter().filter_map(|(place, _)| from.get(*place));
    let query = sqlx::query(LARGE_OF_ROUND)
        .bind(owners().map(|from| from.shard).collect::<Vec<_>>())
        .bind(owners().map(|from| from.recipient).collect::<Vec<_>>())
        .bind(missing.iter().map(|(_, missing)| missing.first).collect::<Vec<_>>())
        .bind(missing.iter().map(|(_, missing)| missing.last).collect::<Vec<_>>())
        .bind(missing.iter().map(|(_, missing)| missing.rows).collect::<Vec<_>>())
        .bind(bound.small(from.len()));
    let mut rows = query.fetch(conn);
    while let Some(row) = rows.try_next().await? {
        if let Some((place, _)) = missing.get(place_of(&row)?) {
            values.entry(*place).or_default().insert(row.try_get(1)?, row.try_get(2)?);
        }
    }
    Ok(values)
}

pub(in crate::store::postgres) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn walked(row: &PgRow) -> Result<WalkedRow, Fault> {
    Ok(WalkedRow {
        shard: row.try_get(0)?,
        recipient: row.try_get(1)?,
        first: row.try_get(2)?,
        last: row.try_get(3)?,
        paused: row.try_get(4)?,
        wait_us: row.try_get(5)?,
    })
}

/// Returns the index in an array, from 0, of the first column, which counts from 1.
pub(in crate::store::postgres) fn place_of(row: &PgRow) -> Result<usize, Fault> {
    Ok(usize::try_from(row.try_get::<i64, _>(0)? - 1).unwrap_or(usize::MAX))
}

/// Notes a row of a listing of many recipients in its part: an event, or the recipient itself.
pub(in crate::store::postgres) fn note_row(part: &mut ListedPart, row: &PgRow) -> Result<(), Fault> {
    if let Some(id) = row.try_get(5)? {
        let (name, traceparent, origin) = (row.try_get(6)?, row.try_get(7)?, row.try_get(10)?);
        let listed = ListedRow { id, name, traceparent, origin, value: Vec::new() };
        part.events.push(listed, row.try_get(8)?, row.try_get(9)?);
        return Ok(());
    }
    part.row.turn = row.try_get::<Option<i64>, _>(1)?.unwrap_or(0);
    (part.row.state, part.has_state) = (row.try_get(2)?, row.try_get(3)?);
    (part.row.hindered, part.row.failing) = hindrance(row.try_get(4)?);
    Ok(())
}

pub(in crate::store::postgres) fn is_shortfall(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|database| database.code()).is_some_and(|code| code == DIVISION_BY_ZERO)
}
