//! Recipients and their events below one shard: the walk, and the listing of a round.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Pool, Postgres, Row};
use uuid::Uuid;

use super::looking::{LOOKED_INTO, shards_with_events};
use super::of_shards;
use crate::store::bound::{Bound, Missing};
use crate::store::connect::connection::{ANSWER_WAIT, answered, hold};
use crate::store::fault::Fault;
use crate::store::postgres::now_us;
use crate::store::postgres::turns::round::{note_row, place_of};
use crate::store::turns::round::{RoundFrom, RoundRow, WalkFrom, WalkedRow, cut_parts, empty_parts};

/// Walks over the shard `$1` as `WALK_RECIPIENTS` walks over many: behind `$2`, up to `$3`, at most `$4` recipients,
/// and one of each kind that is not in `$5`.
pub(crate) const WALK_SHARD: &str = concat!(
    "WITH RECURSIVE step (has_failures, recipients, firsts, behind, found, n) AS (
    SELECT (SELECT true FROM eventbox_failure x WHERE x.shard = $1 LIMIT 1),
           NULL::text[] COLLATE \"C\", NULL::uuid[], $2::text COLLATE \"C\", 1, 0::int8
    UNION ALL
    SELECT has_failures, e.recipients, e.firsts, e.behind, cardinality(e.recipients), n + cardinality(e.recipients)
    FROM step CROSS JOIN LATERAL (
        SELECT array_agg(recipient) FILTER (WHERE is_first) AS recipients,
               array_agg(id) FILTER (WHERE is_first) AS firsts, max(behind) AS behind
        FROM (
            SELECT recipient, id, behind, lag(behind) OVER (ORDER BY recipient, id) IS DISTINCT FROM behind AS is_first
            FROM (
                SELECT recipient, id,
                       CASE WHEN split_part(recipient, '/', 1) = ANY($5) THEN recipient
                            ELSE split_part(recipient, '/', 1) || '0' END AS behind
                FROM eventbox_event e WHERE e.shard = $1 AND e.recipient > step.behind
                ORDER BY recipient, id LIMIT least(4 * step.found, 64, $4 - step.n)
            ) listed
        ) marked
    ) e
    WHERE ($3::text IS NULL OR step.behind < $3) AND n < $4 AND e.behind IS NOT NULL
)
SELECT r.recipient, r.first,
       CASE WHEN $3 IS NULL AND n - found + r.place = $4 THEN
           (SELECT e.recipient FROM eventbox_event e WHERE e.shard = $1 ORDER BY e.recipient DESC LIMIT 1)
       ELSE $3 END,
       coalesce(f.paused, false), coalesce(f.next_attempt_at_us, 0) - ",
    now_us!(),
    " FROM step CROSS JOIN unnest(step.recipients, step.firsts) WITH ORDINALITY AS r (recipient, first, place)
LEFT JOIN LATERAL (
    SELECT paused, next_attempt_at_us FROM eventbox_failure f
    WHERE step.has_failures AND f.shard = $1 AND f.recipient = r.recipient LIMIT 1
) f ON true
WHERE r.recipient <= coalesce($3, r.recipient) ORDER BY n - found + r.place"
);

/// Lists recipients of the shard `$1` as `LIST_ROUND` lists those of many.
pub(crate) const LIST_OF_SHARD: &str = concat!(
    "SELECT r.place, s.turn,
       CASE WHEN sum(octet_length(s.state)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(s.state) < $7
            THEN s.state END,
       s.state IS NOT NULL, f.paused OR f.next_attempt_at_us - ",
    now_us!(),
    " BETWEEN 1 AND $8 AS hindered,
           NULL::uuid AS id, NULL AS name, NULL AS traceparent, NULL::bytea AS value, NULL::int8, NULL AS origin
FROM unnest((SELECT $2::text[]), $5::bool[]) WITH ORDINALITY AS r (recipient, is_known, place)
LEFT JOIN LATERAL (
    SELECT turn, state FROM eventbox_state s
    WHERE NOT r.is_known AND s.shard = $1 AND s.recipient = r.recipient LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT paused, next_attempt_at_us FROM eventbox_failure f WHERE f.shard = $1 AND f.recipient = r.recipient LIMIT 1
) f ON true
UNION ALL
SELECT r.place, NULL, NULL, NULL, NULL, e.id, e.name, e.traceparent, CASE WHEN e.bytes <= $6 THEN e.value END, e.bytes,
       e.origin
FROM unnest((SELECT $2::text[]), $3::uuid[]) WITH ORDINALITY AS r (recipient, after, place)
CROSS JOIN LATERAL (
    SELECT id, name, traceparent, value, octet_length(value)::int8 AS bytes, origin FROM eventbox_event e
    WHERE e.shard = $1 AND e.recipient = r.recipient AND e.id > r.after ORDER BY id LIMIT $4
) e"
);

/// The values within the bound that [`LIST_OF_SHARD`] left out.
pub(crate) const LARGE_OF_SHARD: &str = "SELECT r.place, e.id, e.value
FROM unnest((SELECT $2::text[]), $3::uuid[], $4::uuid[], $5::int8[]) WITH ORDINALITY
    AS r (recipient, first, last, rows, place)
CROSS JOIN LATERAL (
    SELECT id, value FROM eventbox_event e
    WHERE e.shard = $1 AND e.recipient = r.recipient AND e.id >= r.first AND e.id <= r.last
      AND octet_length(e.value) > $6
    ORDER BY id LIMIT r.rows
) e";

/// Walks shard by shard. A shard whose node fails is left out, as long as another one answers. Behind a failure the
/// walk ends after [`ANSWER_WAIT`], so that a node that does not answer delays it once.
pub(in crate::store::postgres) async fn walk(
    pool: &Pool<Postgres>,
    from: &[WalkFrom],
    per_shard: i64,
    kinds: &[&str],
) -> Result<Vec<WalkedRow>, Fault> {
    let mut wanted: Vec<&WalkFrom> = from.iter().collect();
    if wanted.len() > LOOKED_INTO
        && let Ok(filled) = shards_with_events(pool, from.iter().map(|from| from.shard).collect()).await
    {
        wanted.retain(|from| filled.contains(&from.shard));
    }
    let (mut walked, mut failed) = (Vec::new(), None);
    let begun = Instant::now();
    for from in wanted {
        if failed.is_some() && begun.elapsed() >= ANSWER_WAIT {
            break;
        }
        match answered(pool, async { walk_shard(&mut *hold(pool).await?, from, per_shard, kinds).await }).await {
            Ok(rows) => walked.push(rows),
            Err(fault) => {
                tracing::warn!(shard = from.shard, error = %fault.0, "a shard cannot be walked");
                failed = Some(fault);
            }
        }
    }
    match failed {
        Some(fault) if walked.is_empty() => Err(fault),
        _ => Ok(in_turn(walked)),
    }
}

/// Returns the first row of every shard, then the second of every shard, and so on.
fn in_turn(mut walked: Vec<VecDeque<WalkedRow>>) -> Vec<WalkedRow> {
    let mut rows = Vec::with_capacity(walked.iter().map(VecDeque::len).sum());
    while !walked.is_empty() {
        rows.extend(walked.iter_mut().filter_map(VecDeque::pop_front));
        walked.retain(|left| !left.is_empty());
    }
    rows
}

async fn walk_shard(
    conn: &mut PgConnection,
    from: &WalkFrom,
    per_shard: i64,
    kinds: &[&str],
) -> Result<VecDeque<WalkedRow>, Fault> {
    let query = sqlx::query(WALK_SHARD).bind(from.shard).bind(&from.after).bind(&from.last);
    let rows = query.bind(per_shard).bind(kinds).fetch_all(conn).await?;
    let walked = |row: &sqlx::postgres::PgRow| {
        Ok(WalkedRow {
            shard: from.shard,
            recipient: row.try_get(0)?,
            first: row.try_get(1)?,
            last: row.try_get(2)?,
            paused: row.try_get(3)?,
            wait_us: row.try_get(4)?,
        })
    };
    rows.iter().map(walked).collect()
}

/// Lists a round, shard by shard. The states of a shard get the bytes that those of the shards before it have left.
pub(in crate::store::postgres) async fn list(
    conn: &mut PgConnection,
    from: &[RoundFrom<'_>],
    bound: Bound,
    longest_wait_us: i64,
) -> Result<Vec<RoundRow>, Fault> {
    let (mut parts, mut left) = (empty_parts(from.len()), bound.bytes());
    for (shard, members) in of_shards(from, |from| from.shard) {
        let query = sqlx::query(LIST_OF_SHARD)
            .bind(shard)
            .bind(members.iter().map(|(_, from)| from.recipient).collect::<Vec<_>>())
            .bind(members.iter().map(|(_, from)| from.after).collect::<Vec<_>>())
            .bind(bound.rows())
            .bind(members.iter().map(|(_, from)| from.is_known).collect::<Vec<_>>())
            .bind(bound.small(from.len()))
            .bind(left)
            .bind(longest_wait_us);
        let mut rows = query.fetch(&mut *conn);
        while let Some(row) = rows.try_next().await? {
            let Some(part) = members.get(place_of(&row)?).and_then(|(place, _)| parts.get_mut(*place)) else {
                continue;
            };
            note_row(part, &row)?;
        }
        drop(rows);
        for part in members.iter().filter_map(|(place, _)| parts.get(*place)) {
            left = match &part.row.state {
                Some(state) => left.saturating_sub_unsigned(state.len() as u64).max(0),
                None if part.has_state => 0,
                None => left,
            };
        }
    }
    let mut values = read_large(conn, from, &cut_parts(&mut parts, bound), bound).await?;
    let filled = parts.into_iter().map(|part| {
        let its = values.remove(&part.row.place).unwrap_or_default();
        part.filled(its)
    });
    Ok(filled.collect())
}

/// Returns the missing values by the indexes of their recipients.
async fn read_large(
    conn: &mut PgConnection,
    from: &[RoundFrom<'_>],
    missing: &[(usize, Missing)],
    bound: Bound,
) -> Result<HashMap<usize, HashMap<Uuid, Vec<u8>>>, Fault> {
    let mut values: HashMap<usize, HashMap<Uuid, Vec<u8>>> = HashMap::new();
    let owner = |place: usize| from.get(place);
    let shard = |(place, _): &(usize, Missing)| owner(*place).map_or(0, |from| from.shard);
    for (shard, lacking) in of_shards(missing, shard) {
        let owners = || lacking.iter().filter_map(|(_, (place, _))| owner(*place));
        let query = sqlx::query(LARGE_OF_SHARD)
            .bind(shard)
            .bind(owners().map(|from| from.recipient).collect::<Vec<_>>())
            .bind(lacking.iter().map(|(_, (_, missing))| missing.first).collect::<Vec<_>>())
            .bind(lacking.iter().map(|(_, (_, missing))| missing.last).collect::<Vec<_>>())
            .bind(lacking.iter().map(|(_, (_, missing))| missing.rows).collect::<Vec<_>>())
            .bind(bound.small(from.len()));
        let mut rows = query.fetch(&mut *conn);
        while let Some(row) = rows.try_next().await? {
            if let Some((_, (place, _))) = lacking.get(place_of(&row)?) {
                values.entry(*place).or_default().insert(row.try_get(1)?, row.try_get(2)?);
            }
        }
    }
    Ok(values)
}
