//! Rounds of one recipient: the same statements with plain parameters, which the engines plan once and need not unpack.

use futures_util::TryStreamExt;
use sqlx::{Database, Row};
use uuid::Uuid;

use super::round::{RoundFrom, RoundRow, RoundWrite, hindrance};
use crate::store::bound::{Bound, Weighing, fill};
use crate::store::fault::Fault;
use crate::store::inbox::event::{EventRow, ListedRow, large_events};
use crate::store::macros::on_both_engines;

/// The commit of a round of one.
pub trait RoundOfOneDialect: Database {
    /// Does what [`RoundDialect::write_round`](super::round::RoundDialect::write_round) does, for one recipient:
    /// returns whether the recipient won; `None` when events are missing.
    fn write_one(
        tx: &mut Self::Connection,
        write: &RoundWrite<'_>,
        token: Uuid,
        lock_wait_ms: u32,
    ) -> impl Future<Output = Result<Option<bool>, Fault>> + Send;

    /// Returns whether [`write_one_and_emit`](RoundOfOneDialect::write_one_and_emit) is one statement, which needs no
    /// transaction around it.
    fn emits_with_the_turn() -> bool;

    /// Does what [`write_one`](RoundOfOneDialect::write_one) does, and inserts what a recipient that won emits. No row
    /// has a name or a due time.
    fn write_one_and_emit(
        tx: &mut Self::Connection,
        write: &RoundWrite<'_>,
        emitted: &[EventRow<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> impl Future<Output = Result<Option<bool>, Fault>> + Send;
}

/// The list of a round of one.
pub trait RoundOfOneTable: RoundOfOneDialect {
    /// Does what [`RoundDialect::list_round`](super::round::RoundDialect::list_round) does, for one recipient.
    fn list_one(
        conn: &mut Self::Connection,
        from: &RoundFrom<'_>,
        bound: Bound,
        longest_wait_us: i64,
    ) -> impl Future<Output = Result<RoundRow, Fault>> + Send;
}

on_both_engines! {
    /// The statement of [`RoundOfOneTable::list_one`]; its plan must use the primary keys. It returns the state once
    /// and not with every event.
    const LIST_ONE: &str = concat!(
        "SELECT coalesce(s.turn, 0), s.state, f.paused OR f.next_attempt_at_us - ", now_us!(), " BETWEEN 1 AND $7,
                NULL AS id, NULL, NULL, NULL, NULL, NULL
         FROM (SELECT 1 AS always) one
         LEFT JOIN eventbox_state s ON NOT $5 AND s.shard = $1 AND s.recipient = $2
         LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = $2
         UNION ALL
         SELECT NULL, NULL, NULL, e.id, e.name, e.traceparent, e.value, e.bytes, e.origin FROM (
             SELECT id, name, traceparent, CASE WHEN octet_length(value) <= $6 THEN value END AS value,
                    CAST(octet_length(value) AS bigint) AS bytes, origin FROM eventbox_event
             WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0
         ) e"
    );

    impl RoundOfOneTable for Engine {
        async fn list_one(
            conn: &mut <Self as Database>::Connection,
            from: &RoundFrom<'_>,
            bound: Bound,
            longest_wait_us: i64,
        ) -> Result<RoundRow, Fault> {
            let query = sqlx::query::<Engine>(LIST_ONE).bind(from.shard).bind(from.recipient).bind(from.after);
            let query = query.bind(bound.rows()).bind(from.is_known).bind(bound.small(1)).bind(longest_wait_us);
            let (mut round, mut events) = (RoundRow::default(), Weighing::default());
            let mut rows = query.fetch(&mut *conn);
            while let Some(row) = rows.try_next().await? {
                match row.try_get(3)? {
                    Some(id) => {
                        let (name, traceparent, origin) = (row.try_get(4)?, row.try_get(5)?, row.try_get(8)?);
                        let listed = ListedRow { id, name, traceparent, origin, value: Vec::new() };
                        events.push(listed, row.try_get(6)?, row.try_get(7)?);
                    }
                    None => {
                        (round.turn, round.state) = (row.try_get(0)?, row.try_get(1)?);
                        (round.hindered, round.failing) = hindrance(row.try_get(2)?);
                    }
                }
            }
            drop(rows);
            events.sort();
            let page = fill!(events, bound, conn, |missing| large_events!(missing, from.shard, from.recipient, bound));
            (round.events, round.is_cut) = (page.rows, page.is_cut);
            Ok(round)
        }
    }
}
