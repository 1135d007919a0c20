//! Rounds of one recipient: the same statements with plain parameters, which the engines plan once and need not unpack.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::both::on_both_engines;
use super::event::ListedRow;
use super::fault::Fault;
use super::round::{RoundFrom, RoundRow, RoundWrite};

/// The commit of a round of one.
pub trait RoundOfOneWrite: Database {
    /// [`RoundTable::write_round`](super::round::RoundTable::write_round) of one recipient: whether it won; `None` when events are missing.
    fn write_one(
        tx: &mut Self::Connection,
        write: &RoundWrite<'_>,
        token: Uuid,
        lock_wait_ms: u32,
    ) -> impl Future<Output = Result<Option<bool>, Fault>> + Send;
}

/// The list of a round of one.
pub trait RoundOfOne: RoundOfOneWrite {
    /// [`RoundTable::list_round`](super::round::RoundTable::list_round) of one recipient.
    fn list_one(
        conn: &mut Self::Connection,
        from: &RoundFrom<'_>,
        limit: i64,
    ) -> impl Future<Output = Result<RoundRow, Fault>> + Send;
}

on_both_engines! {
    /// The statement of [`RoundOfOne::list_one`]; its plan must use the primary keys. A state travels once and not with every event.
    const LIST_ONE: &str = concat!(
        "SELECT coalesce(s.turn, 0), s.state, coalesce(f.paused OR f.next_attempt_at_us > ", now_us!(), ", false), NULL AS id, NULL, NULL, NULL
         FROM (SELECT 1 AS always) one
         LEFT JOIN eventbox_state s ON NOT $5 AND s.shard = $1 AND s.recipient = $2
         LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = $2
         UNION ALL
         SELECT NULL, NULL, NULL, e.id, e.name, e.traceparent, e.value FROM (
             SELECT id, name, traceparent, value FROM eventbox_event
             WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0
         ) e"
    );

    impl RoundOfOne for Engine {
        async fn list_one(
            conn: &mut <Self as Database>::Connection,
            from: &RoundFrom<'_>,
            limit: i64,
        ) -> Result<RoundRow, Fault> {
            let query = sqlx::query::<Engine>(LIST_ONE).bind(from.shard).bind(from.recipient).bind(from.after);
            let mut round = RoundRow { place: 0, turn: 0, state: None, hindered: false, events: Vec::new() };
            for row in query.bind(limit).bind(from.is_known).fetch_all(conn).await? {
                match row.try_get(3)? {
                    Some(id) => {
                        let (name, traceparent, value) = (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
                        round.events.push(ListedRow { id, name, traceparent, value });
                    }
                    None => (round.turn, round.state, round.hindered) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?),
                }
            }
            // They come in this order as long as nobody reads them in another way.
            round.events.sort_by_key(|event| event.id);
            Ok(round)
        }
    }
}
