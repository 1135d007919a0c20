//! The beginning of a turn of one recipient: one statement to read and one to write, because each is a round trip.

use futures_util::TryStreamExt;
use sqlx::{Database, Row};
use uuid::Uuid;

use super::round::Removed;
use crate::store::bound::{Bound, Weighing, fill};
use crate::store::fault::Fault;
use crate::store::inbox::event::{ListedRow, large_events};
use crate::store::macros::on_both_engines;
use crate::store::operate::kind::kind_of;

/// Data at the begin of a turn.
#[derive(Debug, Default)]
pub struct OpenedTurn {
    /// Number of the turn; 0 when the recipient never had one.
    pub turn: i64,
    /// Token of the commit that made the turn; `None` when the recipient never had one.
    pub token: Option<Uuid>,
    /// Whether the recipient or its kind is paused.
    pub paused: bool,
    /// Whether failures are noted for the recipient.
    pub failing: bool,
    /// Time until the recipient is due, in microseconds. Not positive when it is due.
    pub wait_us: i64,
    /// Number of the session, where there is a server.
    pub session_id: Option<i32>,
    /// The oldest events, oldest first.
    pub events: Vec<ListedRow>,
    /// Whether events were left out because of their bytes.
    pub is_cut: bool,
}

/// Result of the claim of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The turn is ours, and the events are removed.
    Done,
    /// Another writer has moved the turn.
    Lost,
    /// Other events are there than the events to remove: the transaction must not be committed.
    Shortfall,
}

/// The first writing statement of a turn.
pub trait TurnDialect: Database {
    /// Moves the turn from `turn` to the next, stores the token of the attempt, and removes events, if there are any to
    /// remove. Locks the recipient.
    fn claim_turn(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        turn: i64,
        token: Uuid,
        removed: Removed<'_>,
    ) -> impl Future<Output = Result<Claimed, Fault>> + Send;
}

/// The first reading statement of a turn.
pub trait TurnTable: TurnDialect {
    /// Returns the turn with its hindrances, and the oldest events behind `after` (the nil id is before all), in one
    /// snapshot. Large values come later.
    fn open_turn(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: Uuid,
        bound: Bound,
    ) -> impl Future<Output = Result<OpenedTurn, Fault>> + Send;
}

on_both_engines! {
    /// The statement of [`TurnTable::open_turn`]; its plan must use the primary keys.
    const OPEN_TURN: &str = concat!(
        "SELECT coalesce(s.turn, 0), coalesce(f.paused, false) OR k.kind IS NOT NULL, coalesce(f.attempts, 0) > 0,
                coalesce(f.next_attempt_at_us - ", now_us!(), ", 0), e.id, e.name, e.traceparent, e.value, e.bytes,
                ", session_id!(), ", e.origin, s.token
         FROM (SELECT 1 AS always) one
         LEFT JOIN eventbox_state s ON s.shard = $1 AND s.recipient = $2
         LEFT JOIN eventbox_failure f ON f.shard = $1 AND f.recipient = $2
         LEFT JOIN eventbox_paused_kind k ON k.kind = $5
         LEFT JOIN (
             SELECT id, name, traceparent, CASE WHEN octet_length(value) <= $6 THEN value END AS value,
                    CAST(octet_length(value) AS bigint) AS bytes, origin FROM eventbox_event
             WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0
         ) e ON true"
    );

    impl TurnTable for Engine {
        async fn open_turn(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: Uuid,
            bound: Bound,
        ) -> Result<OpenedTurn, Fault> {
            let query = sqlx::query::<Engine>(OPEN_TURN).bind(shard).bind(recipient).bind(after).bind(bound.rows());
            let query = query.bind(kind_of(recipient)).bind(bound.small(1));
            let (mut opened, mut events) = (OpenedTurn::default(), Weighing::default());
            let mut rows = query.fetch(&mut *conn);
            while let Some(row) = rows.try_next().await? {
                (opened.turn, opened.paused) = (row.try_get(0)?, row.try_get(1)?);
                (opened.failing, opened.wait_us) = (row.try_get(2)?, row.try_get(3)?);
                (opened.session_id, opened.token) = (row.try_get(9)?, row.try_get(11)?);
                if let Some(id) = row.try_get(4)? {
                    let (name, traceparent, origin) = (row.try_get(5)?, row.try_get(6)?, row.try_get(10)?);
                    let listed = ListedRow { id, name, traceparent, origin, value: Vec::new() };
                    events.push(listed, row.try_get(7)?, row.try_get(8)?);
                }
            }
            drop(rows);
            events.sort();
            let page = fill!(events, bound, conn, |missing| large_events!(missing, shard, recipient, bound));
            (opened.events, opened.is_cut) = (page.rows, page.is_cut);
            Ok(opened)
        }
    }
}
