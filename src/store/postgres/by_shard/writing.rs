//! The commit of turns and rounds below one shard.
//!
//! An `INSERT` in a CTE would be cut up by the cluster, so each step is a statement of its own, in the transaction of
//! the round. The number of removed events is compared here and not by the statement.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{bound_lock_wait, of_shards};
use crate::store::fault::Fault;
use crate::store::postgres::now_us;
use crate::store::postgres::turns::round::{number, place_of};
use crate::store::turns::round::{Removed, RoundWrite};
use crate::store::turns::turn::Claimed;

/// The first turns of recipients. A turn of 0 is an insert, because a missing row must not match another turn.
const FIRST_TURNS: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
SELECT a.shard, u.recipient, 1, $4, ",
    now_us!(),
    ", u.state FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::text[]), $3::bytea[]) WITH ORDINALITY AS u (recipient, state, place)
WHERE a.shard = $1 ORDER BY u.recipient ON CONFLICT DO NOTHING RETURNING recipient"
);

/// The next turns of recipients.
const NEXT_TURNS: &str = concat!(
    "UPDATE eventbox_state s SET turn = u.turn + 1, token = $6, updated_at_us = ",
    now_us!(),
    ", state = CASE WHEN u.keep THEN s.state ELSE u.state END
FROM unnest((SELECT $2::text[]), $3::int8[], $4::bool[], $5::bytea[], $7::uuid[]) WITH ORDINALITY
    AS u (recipient, turn, keep, state, token, place)
WHERE s.shard = $1 AND s.recipient = u.recipient AND s.turn = u.turn AND (u.token IS NULL OR s.token = u.token)
RETURNING u.place"
);

/// The events of each recipient between its first and its last id. Where only some of them go, their ids are the
/// `removed` ids of `$7` from number `ids_from` on.
const REMOVE_OF_ROUND: &str = "DELETE FROM eventbox_event e
USING unnest((SELECT $2::text[]), $3::uuid[], $4::uuid[], $5::int4[], $6::int4[])
    AS w (recipient, first, last, removed, ids_from)
WHERE e.shard = $1 AND e.recipient = w.recipient AND e.id BETWEEN w.first AND w.last
  AND (w.ids_from IS NULL OR e.id = ANY (($7::uuid[])[w.ids_from:w.ids_from + w.removed - 1]))";

/// The first turn of one recipient.
const FIRST_TURN: &str = concat!(
    "INSERT INTO eventbox_state (shard, recipient, token, updated_at_us, turn)
VALUES ($1, $2, $3, ",
    now_us!(),
    ", 1) ON CONFLICT DO NOTHING"
);

/// Commits a round, shard by shard, as [`RoundDialect::write_round`](crate::store::turns::round::RoundDialect) does.
pub(in crate::store::postgres) async fn write_round(
    tx: &mut PgConnection,
    writes: &[RoundWrite<'_>],
    token: Uuid,
    lock_wait_ms: u32,
) -> Result<Option<Vec<usize>>, Fault> {
    let (mut winners, lock_wait) = (Vec::with_capacity(writes.len()), lock_wait_ms.to_string());
    for (shard, part) in of_shards(writes, |write| write.shard) {
        bound_lock_wait(tx, shard, &lock_wait).await?;
        let (first, next): (Vec<_>, Vec<_>) = part.into_iter().partition(|(_, write)| write.turn == 0);
        let mut won = first_turns(tx, shard, &first, token).await?;
        won.extend(next_turns(tx, shard, &next, token).await?);
        if !remove(tx, shard, &won).await? {
            return Ok(None);
        }
        winners.extend(won.into_iter().map(|(place, _)| place));
    }
    Ok(Some(winners))
}

/// A recipient of a round, with its index.
type Part<'a> = (usize, &'a RoundWrite<'a>);

async fn first_turns<'a>(
    tx: &mut PgConnection,
    shard: i16,
    part: &[Part<'a>],
    token: Uuid,
) -> Result<Vec<Part<'a>>, Fault> {
    if part.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_scalar(FIRST_TURNS)
        .bind(shard)
        .bind(part.iter().map(|(_, write)| write.recipient).collect::<Vec<_>>())
        .bind(part.iter().map(|(_, write)| write.state.bytes()).collect::<Vec<_>>())
        .bind(token);
    let won: Vec<String> = query.fetch_all(tx).await?;
    let won: std::collections::HashSet<_> = won.iter().map(String::as_str).collect();
    Ok(part.iter().filter(|(_, write)| won.contains(write.recipient)).copied().collect())
}

async fn next_turns<'a>(
    tx: &mut PgConnection,
    shard: i16,
    part: &[Part<'a>],
    token: Uuid,
) -> Result<Vec<Part<'a>>, Fault> {
    if part.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(NEXT_TURNS)
        .bind(shard)
        .bind(part.iter().map(|(_, write)| write.recipient).collect::<Vec<_>>())
        .bind(part.iter().map(|(_, write)| write.turn).collect::<Vec<_>>())
        .bind(part.iter().map(|(_, write)| write.state.keeps()).collect::<Vec<_>>())
        .bind(part.iter().map(|(_, write)| write.state.bytes()).collect::<Vec<_>>())
        .bind(token)
        .bind(part.iter().map(|(_, write)| write.token).collect::<Vec<_>>());
    let won = query.fetch_all(tx).await?;
    won.iter().filter_map(|row| place_of(row).map(|place| part.get(place).copied()).transpose()).collect()
}

/// Removes the events of the winners. Returns false when another number of events was there.
async fn remove(tx: &mut PgConnection, shard: i16, won: &[Part<'_>]) -> Result<bool, Fault> {
    let removing: Vec<_> = won.iter().map(|(_, write)| write).filter(|write| write.removed.count() > 0).collect();
    if removing.is_empty() {
        return Ok(true);
    }
    let (mut ids, mut ids_from) = (Vec::new(), Vec::with_capacity(removing.len()));
    for write in &removing {
        ids_from.push(write.removed.chosen().map(|_| number(ids.len() + 1)));
        ids.extend_from_slice(write.removed.chosen().unwrap_or_default());
    }
    let (first, last): (Vec<_>, Vec<_>) = removing.iter().map(|write| write.removed.bounds().unzip()).unzip();
    let query = sqlx::query(REMOVE_OF_ROUND)
        .bind(shard)
        .bind(removing.iter().map(|write| write.recipient).collect::<Vec<_>>())
        .bind(first)
        .bind(last)
        .bind(removing.iter().map(|write| number(write.removed.count())).collect::<Vec<_>>())
        .bind(ids_from)
        .bind(ids);
    let gone = query.execute(tx).await?.rows_affected();
    let wanted: usize = removing.iter().map(|write| write.removed.count()).sum();
    Ok(usize::try_from(gone).is_ok_and(|gone| gone == wanted))
}

/// Claims the first turn of a recipient, and removes events.
pub(in crate::store::postgres) async fn claim_first_turn(
    tx: &mut PgConnection,
    (shard, recipient): (i16, &str),
    token: Uuid,
    removed: Removed<'_>,
) -> Result<Claimed, Fault> {
    let query = sqlx::query(FIRST_TURN).bind(shard).bind(recipient).bind(token);
    if query.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(Claimed::Lost);
    }
    let (first, last) = removed.bounds().unzip();
    let query = sqlx::query(REMOVE_BETWEEN).bind(shard).bind(recipient).bind(removed.chosen()).bind(first).bind(last);
    let gone = query.execute(tx).await?.rows_affected();
    Ok(match usize::try_from(gone) {
        Ok(gone) if gone == removed.count() => Claimed::Done,
        _ => Claimed::Shortfall,
    })
}

/// The events of one recipient between two ids, those of `$3` or all of them.
const REMOVE_BETWEEN: &str = "DELETE FROM eventbox_event
WHERE shard = $1 AND recipient = $2 AND id BETWEEN $4 AND $5 AND ($3::uuid[] IS NULL OR id = ANY($3))";
