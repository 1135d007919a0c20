//! Where an event is, or what became of it: in the box, the timers, the quarantine and the journal.

use sqlx::{Database, Row};
use uuid::Uuid;

use super::journal::JournalOutcome;
use super::kind::kind_of;
use crate::store::connect::schema::Schema;
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Key of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKey<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    pub id: Uuid,
}

/// The tables that have an event, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    pub is_in_box: bool,
    pub is_timer: bool,
    pub is_quarantined: bool,
    pub noted: Option<JournalOutcome>,
}

/// Everything about one event, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FateRow {
    /// Id of the event; `None` when the name is not known.
    pub id: Option<Uuid>,
    pub is_in_box: bool,
    /// Number of events before it in its box, at most the limit of the count.
    pub ahead: i64,
    pub due_at_us: Option<i64>,
    /// Code and reason of an event in quarantine.
    pub verdict: Option<(String, String)>,
    /// Turn, outcome and time in the journal.
    pub noted: Option<(i64, JournalOutcome, i64)>,
    /// Whether the kind keeps a journal, or the recipient has rows of one.
    pub keeps_journal: bool,
}

/// Limits of [`FateTable::read_fate`].
#[derive(Debug, Clone, Copy)]
pub struct FateLimits {
    /// Most rows of the journal that are searched for a name.
    pub named: i64,
    /// Most events that are counted before the event.
    pub ahead: i64,
}

/// A part of the events of a kind in one shard, in the order of (recipient, id).
#[derive(Debug, Clone, Copy)]
pub struct AuditFrom<'a> {
    pub shard: i16,
    /// The first recipient behind the kind.
    pub behind: &'a str,
    /// The part begins behind this recipient and id.
    pub after: (&'a str, Uuid),
    pub limit: i64,
}

/// An event of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub recipient: String,
    pub id: Uuid,
    pub places: Places,
}

/// The columns of [`Places`] for the event `w` of a shard. A scalar subquery is a look-up by key, however many events
/// are asked for.
macro_rules! places {
    ($shard:literal) => {
        concat!(
            "(SELECT 1 FROM eventbox_event e
     WHERE e.shard = ",
            $shard,
            " AND e.recipient = w.recipient AND e.id = w.id) IS NOT NULL,
    (SELECT 1 FROM eventbox_timer m
     WHERE m.shard = ",
            $shard,
            " AND m.recipient = w.recipient AND m.id = w.id) IS NOT NULL,
    (SELECT 1 FROM eventbox_dead_letter d
     WHERE d.shard = ",
            $shard,
            " AND d.id = w.id AND d.recipient = w.recipient) IS NOT NULL,
    (SELECT j.outcome FROM eventbox_journal j
     WHERE j.shard = ",
            $shard,
            " AND j.recipient = w.recipient AND j.id = w.id)"
        )
    };
}
pub(in crate::store) use places;

/// Reads [`Places`] from the column `$from` on.
macro_rules! places_of {
    ($row:expr, $from:literal) => {
        $crate::store::operate::fate::Places {
            is_in_box: $row.try_get($from)?,
            is_timer: $row.try_get($from + 1)?,
            is_quarantined: $row.try_get($from + 2)?,
            noted: $row
                .try_get::<Option<i16>, _>($from + 3)?
                .map($crate::store::operate::journal::JournalOutcome::from_code),
        }
    };
}
pub(in crate::store) use places_of;

/// Statements on the places of events that differ between the engines.
pub trait FateDialect: Database {
    /// Returns the tables that have these events, in the order of the keys, all in one snapshot.
    fn locate_events(
        conn: &mut Self::Connection,
        keys: &[EventKey<'_>],
    ) -> impl Future<Output = Result<Vec<Places>, Fault>> + Send;
}

/// Statements on the places of events that both engines accept.
pub trait FateTable: FateDialect {
    /// Looks for the event `id`. Without an id, looks for the newest event of `name`, in the remembered names and then
    /// in the journal.
    fn read_fate(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        id: Option<Uuid>,
        name: Option<&str>,
        limits: FateLimits,
    ) -> impl Future<Output = Result<FateRow, Fault>> + Send;

    /// Returns the shards that have an event of the kind, in any table. `first` is the first recipient that the kind
    /// may have, and `behind` the first one behind the kind.
    fn list_audited_shards(
        conn: &mut Self::Connection,
        first: &str,
        behind: &str,
    ) -> impl Future<Output = Result<Vec<i16>, Fault>> + Send;

    /// Returns events of a kind in one shard, from all tables, each once. An event keeps its key when it moves between
    /// tables, so a walk in the order of the keys meets it at most once, and does not pass it over.
    fn list_audited(
        conn: &mut Self::Connection,
        from: AuditFrom<'_>,
    ) -> impl Future<Output = Result<Vec<AuditRow>, Fault>> + Send;
}

/// The first events of one table in a part of an audit.
macro_rules! audited {
    ($table:literal) => {
        concat!(
            "SELECT recipient, id FROM (
                 SELECT recipient, id FROM ",
            $table,
            " WHERE shard = $1 AND recipient < $2 AND (recipient, id) > ($3, $4)
                 ORDER BY recipient, id LIMIT $5 + 0
             ) of_table"
        )
    };
}

/// Whether a table has an event of the kind in the shard `s`.
macro_rules! has_audited {
    ($table:literal) => {
        concat!(
            "(SELECT 1 FROM ",
            $table,
            " x WHERE x.shard = s.shard AND x.recipient >= $1 AND x.recipient < $2 LIMIT 1) IS NOT NULL"
        )
    };
}

on_both_engines! {
    /// One statement, so that the event is looked for in all tables in one snapshot: no order of several statements
    /// would find an event that moves meanwhile in each direction. All look-ups are by key, except that of a name
    /// that is no longer remembered.
    ///
    /// As in the status of an event, the answer waits until a standby has what removed the event.
    pub(crate) const READ_FATE: &str = concat!(
        "WITH sought AS MATERIALIZED (
            SELECT coalesce($3,
                (SELECT t.id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = $4),
                (SELECT n.id FROM (
                     SELECT x.id, x.name FROM eventbox_journal x WHERE x.shard = $1 AND x.recipient = $2
                     ORDER BY x.id DESC LIMIT $6 + 0
                 ) n WHERE n.name = $4 ORDER BY n.id DESC LIMIT 1)) AS id
        )
        SELECT sought.id, b.id IS NOT NULL,
               CASE WHEN b.id IS NULL THEN 0 ELSE (SELECT count(*) FROM (
                   SELECT 1 FROM eventbox_event c
                   WHERE c.shard = $1 AND c.recipient = $2 AND c.id < b.id LIMIT $7 + 0
               ) counted) END,
               m.due_at_us, d.code, d.reason, j.turn, j.outcome, j.at_us,
               coalesce(k.keep_us > 0, false)
                   OR EXISTS (SELECT 1 FROM eventbox_journal y WHERE y.shard = $1 AND y.recipient = $2),
               CASE WHEN b.id IS NULL AND m.id IS NULL THEN ", replicated!(), " END
        FROM sought
        LEFT JOIN eventbox_event b ON b.shard = $1 AND b.recipient = $2 AND b.id = sought.id
        LEFT JOIN eventbox_timer m ON m.shard = $1 AND m.recipient = $2 AND m.id = sought.id
        LEFT JOIN eventbox_dead_letter d ON d.shard = $1 AND d.id = sought.id AND d.recipient = $2
        LEFT JOIN eventbox_journal j ON j.shard = $1 AND j.recipient = $2 AND j.id = sought.id
        LEFT JOIN eventbox_journal_kind k ON k.kind = $5"
    );

    pub(crate) const AUDITED_SHARDS: &str = concat!(
        "WITH RECURSIVE shards (shard) AS (
             SELECT 0 UNION ALL SELECT shard + 1 FROM shards WHERE shard < 255
         )
         SELECT CAST(s.shard AS smallint) FROM shards s WHERE ", has_audited!("eventbox_journal"), " OR ",
        has_audited!("eventbox_event"), " OR ", has_audited!("eventbox_timer"), " OR ",
        has_audited!("eventbox_dead_letter"), " ORDER BY s.shard"
    );

    /// The same for tables that are cut by `shard`, where each node looks into its own shards.
    pub(crate) const AUDITED_SHARDS_OF_NODES: &str = concat!(
        "SELECT s.shard FROM eventbox_anchor s WHERE ", has_audited!("eventbox_journal"), " OR ",
        has_audited!("eventbox_event"), " OR ", has_audited!("eventbox_timer"), " OR ",
        has_audited!("eventbox_dead_letter"), " ORDER BY s.shard"
    );

    pub(crate) const AUDITED: &str = concat!(
        "WITH of_all AS (",
        audited!("eventbox_event"), " UNION ", audited!("eventbox_timer"), " UNION ",
        audited!("eventbox_dead_letter"), " UNION ", audited!("eventbox_journal"),
        ")
         SELECT w.recipient, w.id, ", places!("$1"), "
         FROM (SELECT recipient, id FROM of_all ORDER BY recipient, id LIMIT $5 + 0) w
         ORDER BY w.recipient, w.id"
    );

    impl FateTable for Engine {
        async fn read_fate(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            id: Option<Uuid>,
            name: Option<&str>,
            limits: FateLimits,
        ) -> Result<FateRow, Fault> {
            let query = sqlx::query::<Engine>(READ_FATE).bind(shard).bind(recipient).bind(id).bind(name);
            let query = query.bind(kind_of(recipient)).bind(limits.named).bind(limits.ahead);
            let row = query.fetch_one(conn).await?;
            let verdict = match (row.try_get::<Option<String>, _>(4)?, row.try_get::<Option<String>, _>(5)?) {
                (Some(code), Some(reason)) => Some((code, reason)),
                _ => None,
            };
            let noted = match row.try_get::<Option<i64>, _>(6)? {
                Some(turn) => Some((turn, JournalOutcome::from_code(row.try_get(7)?), row.try_get(8)?)),
                None => None,
            };
            Ok(FateRow {
                id: row.try_get(0)?,
                is_in_box: row.try_get(1)?,
                ahead: row.try_get(2)?,
                due_at_us: row.try_get(3)?,
                verdict,
                noted,
                keeps_journal: row.try_get(9)?,
            })
        }

        async fn list_audited_shards(
            conn: &mut <Self as Database>::Connection,
            first: &str,
            behind: &str,
        ) -> Result<Vec<i16>, Fault> {
            let sql = if Engine::is_by_shard() { AUDITED_SHARDS_OF_NODES } else { AUDITED_SHARDS };
            let rows = sqlx::query::<Engine>(sql).bind(first).bind(behind).fetch_all(conn).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        }

        async fn list_audited(
            conn: &mut <Self as Database>::Connection,
            from: AuditFrom<'_>,
        ) -> Result<Vec<AuditRow>, Fault> {
            let (recipient, id) = from.after;
            let query = sqlx::query::<Engine>(AUDITED).bind(from.shard).bind(from.behind).bind(recipient).bind(id);
            let rows = query.bind(from.limit).fetch_all(conn).await?;
            let audited = |row: &<Engine as Database>::Row| {
                Ok(AuditRow { recipient: row.try_get(0)?, id: row.try_get(1)?, places: places_of!(row, 2) })
            };
            rows.iter().map(audited).collect()
        }
    }
}
