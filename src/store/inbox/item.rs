//! `eventbox_event` as a set: the listed items, and the items that are still there.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::event::large_events;
use crate::store::bound::{Bound, Heavy, Page, fill, weigh};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// A named event in its box.
#[derive(Debug)]
pub struct ItemRow {
    pub id: Uuid,
    pub name: String,
    pub value: Vec<u8>,
}

impl Heavy for ItemRow {
    fn id(&self) -> Uuid {
        self.id
    }

    fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.value
    }
}

/// The turn of a recipient, and the time of the read.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub turn: i64,
    pub now_us: i64,
}

/// Statements on items that differ between the engines.
pub trait ItemDialect: Database {
    /// Returns those of the given events that are in the box.
    fn living_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<Vec<Uuid>, Fault>> + Send;

    /// Deletes events by name. Returns the number of deleted events. The names stay remembered.
    fn delete_named_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        names: &[&str],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on items that both engines accept.
pub trait ItemTable: ItemDialect {
    /// Returns the recipient's turn (0 when it never had one) and the database's clock.
    fn read_moment(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Moment, Fault>> + Send;

    /// Returns the oldest named events of a recipient, oldest first.
    fn list_items(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<ItemRow>, Fault>> + Send;
}

/// The statement of [`ItemTable::list_items`]; its plan must walk the primary key.
pub(crate) const LIST_ITEMS: &str = "SELECT id, name, CASE WHEN octet_length(value) <= $4 THEN value END,
 CAST(octet_length(value) AS bigint) FROM eventbox_event
 WHERE shard = $1 AND recipient = $2 AND name IS NOT NULL ORDER BY id LIMIT $3 + 0";

on_both_engines! {
    impl ItemTable for Engine {
        async fn read_moment(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Moment, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT coalesce((SELECT turn FROM eventbox_state WHERE shard = $1 AND recipient = $2), 0), ", now_us!()
            ));
            let row = query.bind(shard).bind(recipient).fetch_one(conn).await?;
            Ok(Moment { turn: row.try_get(0)?, now_us: row.try_get(1)? })
        }

        async fn list_items(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            bound: Bound,
        ) -> Result<Page<ItemRow>, Fault> {
            let query = sqlx::query::<Engine>(LIST_ITEMS).bind(shard).bind(recipient);
            let rows = query.bind(bound.rows()).bind(bound.small(1)).fetch(&mut *conn);
            let listed = weigh!(rows, 2, |row| ItemRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                value: Vec::new(),
            });
            Ok(fill!(listed, bound, conn, |missing| large_events!(missing, shard, recipient, bound)))
        }
    }
}
