//! Citus: how the tables lie on its cluster, and how they get there.

use sqlx::{PgConnection, Postgres, Row};

use crate::store::connect::layout::Layout;
use crate::store::connect::schema::SettingsProblem;
use crate::store::fault::Fault;
use crate::store::operate::diagnosis::DiagnosisDialect;
use crate::store::postgres::by_shard;

/// The tables that are cut by `shard`. The others decide nothing about single recipients.
const CUT: [&str; 9] = [
    "eventbox_anchor",
    "eventbox_event",
    "eventbox_tombstone",
    "eventbox_timer",
    "eventbox_state",
    "eventbox_failure",
    "eventbox_outbox",
    "eventbox_dead_letter",
    "eventbox_journal",
];

/// Beside cut tables: small tables of which each node has a copy, because statements join them with cut tables.
const COPIED: [&str; 3] = ["eventbox_paused_kind", "eventbox_paused_destination", "eventbox_journal_kind"];

/// A setting of the database (`ALTER DATABASE … SET`), for clusters other than Citus: the value `by-shard` says that
/// the tables are cut.
const SAID: &str = "SELECT current_setting('eventbox.layout', true)";

/// Every database with the extension has this catalog. The catalog of the system comes first in every search path.
const HAS_CITUS: &str = "SELECT to_regclass('pg_dist_partition') IS NOT NULL";

/// The tables with their places. A table that Citus does not know lies in group 0, as a local table that it knows does.
/// `shard` is the first column of every table that is cut.
const TABLE_PLACES: &str = "SELECT t.name, coalesce(p.partmethod::text, ''), coalesce(p.colocationid, 0)::int8,
       coalesce(p.repmodel = 't', false), coalesce(p.partkey::text LIKE '%:varattno 1 %', false)
  FROM unnest((SELECT $1::text[])) AS t (name) LEFT JOIN pg_dist_partition p ON p.logicalrelid = to_regclass(t.name)
 WHERE to_regclass(t.name) IS NOT NULL ORDER BY t.name";

/// Facts about the extension, and the schema of the tables; before the first migration, that of new tables.
const CITUS_FACTS: &str = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus'),
    to_regproc('citus_schema_distribute') IS NOT NULL,
    coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('eventbox_event')),
             quote_ident(current_schema()))";

const DISTRIBUTE_SCHEMA: &str = "SELECT citus_schema_distribute($1::regnamespace)::text";

const CUT_FIRST: &str = "SELECT create_distributed_table($1::regclass, 'shard', colocate_with => 'none')::text";

const CUT_TABLE: &str = "SELECT create_distributed_table($1::regclass, 'shard', colocate_with => $2)::text";

const COPY_TABLE: &str = "SELECT create_reference_table($1::regclass)::text";

/// What to do about tables that lie on several nodes.
const APART: &str = "put all tables into one layout: \
undistribute them, then run `eventbox migrate up` with `--citus` or `--citus-schema`; see docs/scaling.md";

/// What to do about tables of which only some are cut.
const NOT_ALL_CUT: &str = "stop the services, and run `eventbox migrate up --citus`; see docs/scaling.md";

/// A table, and how Citus keeps it.
struct Placed {
    table: String,
    /// `h` for a table that is cut by a hash, `n` for a whole table, and empty for a table that Citus does not know.
    method: String,
    group: i64,
    is_copied: bool,
    is_by_first_column: bool,
}

/// Returns how the tables lie, or why the statements cannot use them. A process that sees cut tables uses the
/// statements for them from then on.
pub(super) async fn read_layout(conn: &mut PgConnection) -> Result<Result<Layout, SettingsProblem>, Fault> {
    let layout = match sqlx::query_scalar::<Postgres, bool>(HAS_CITUS).fetch_one(&mut *conn).await? {
        true => layout_of(&placed(conn).await?),
        false => Ok(Layout::OneNode),
    };
    let said: Option<String> = sqlx::query_scalar(SAID).fetch_one(conn).await?;
    let layout = match (layout, said.as_deref()) {
        (Ok(Layout::OneNode), Some("by-shard")) => Ok(Layout::ByShard),
        (layout, _) => layout,
    };
    if layout == Ok(Layout::ByShard) {
        by_shard::switch_on();
    }
    Ok(layout)
}

async fn placed(conn: &mut PgConnection) -> Result<Vec<Placed>, Fault> {
    let made = Postgres::MADE.iter().filter(|made| made.sort == "table").map(|made| made.name);
    let rows = sqlx::query(TABLE_PLACES).bind(made.collect::<Vec<_>>()).fetch_all(conn).await?;
    let placed = |row: &sqlx::postgres::PgRow| {
        Ok(Placed {
            table: row.try_get(0)?,
            method: row.try_get(1)?,
            group: row.try_get(2)?,
            is_copied: row.try_get(3)?,
            is_by_first_column: row.try_get(4)?,
        })
    };
    rows.iter().map(placed).collect()
}

fn layout_of(tables: &[Placed]) -> Result<Layout, SettingsProblem> {
    let problem = |what: String, help: &str| Err(SettingsProblem { what, help: help.to_owned() });
    let Some(first) = tables.first() else { return Ok(Layout::OneNode) };
    let Some(cut) = tables.iter().find(|placed| placed.method == "h") else {
        return match tables.iter().find(|placed| placed.group != first.group) {
            Some(other) => {
                problem(format!("Citus may keep {} and {} on different nodes", first.table, other.table), APART)
            }
            None if first.group != 0 => Ok(Layout::BySchema),
            None => Ok(Layout::OneNode),
        };
    };
    for placed in tables {
        let (table, lead) = (placed.table.as_str(), cut.table.as_str());
        let is_cut = placed.method == "h" && placed.is_by_first_column;
        if CUT.contains(&table) {
            if !is_cut {
                return problem(
                    format!("Citus has cut the rows of {lead} into shards, but not {table} by shard"),
                    NOT_ALL_CUT,
                );
            }
            if placed.group != cut.group {
                return problem(
                    format!("Citus may keep the same shard of {lead} and {table} on different nodes"),
                    APART,
                );
            }
        } else if COPIED.contains(&table) && !placed.is_copied {
            return problem(
                format!("Citus has cut the rows of {lead}, but has no copy of {table} on each node"),
                NOT_ALL_CUT,
            );
        } else if !placed.method.is_empty() && placed.method != "n" || placed.group != 0 && !placed.is_copied {
            return problem(format!("Citus keeps {table} on other nodes than the coordinator"), APART);
        }
    }
    Ok(Layout::ByShard)
}

/// Returns why the schema of the tables cannot be distributed.
pub(super) async fn distribution_problem(
    conn: &mut PgConnection,
    wanted: Layout,
) -> Result<Option<SettingsProblem>, Fault> {
    let row = sqlx::query(CITUS_FACTS).fetch_one(&mut *conn).await?;
    let (has_citus, distributes): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let schema: Option<String> = row.try_get(2)?;
    let refused = |what: &str, help: &str| Some(SettingsProblem { what: what.to_owned(), help: help.to_owned() });
    let by_schema = wanted == Layout::BySchema;
    let found = match schema.as_deref() {
        _ if !has_citus => {
            refused("the database has no extension citus", "run CREATE EXTENSION citus on every node of the cluster")
        }
        _ if !distributes => refused("this Citus distributes no schemas", "use Citus 12 or newer"),
        None => refused("there is no schema for the tables", "create one, and set the role's search_path to it"),
        Some("public") if by_schema => refused(
            "the tables are in the schema public, which Citus does not distribute",
            "create a schema for them, and set the role's search_path to it",
        ),
        Some(_) => None,
    };
    if found.is_some() {
        return Ok(found);
    }
    let other = match layout_of(&placed(conn).await?) {
        Ok(Layout::BySchema) if !by_schema => "the tables are in a schema that Citus has put on one node",
        Ok(Layout::ByShard) if by_schema => "Citus has cut the tables by shard",
        _ => return Ok(None),
    };
    Ok(refused(other, "undistribute them first: undistribute_table for each table, citus_schema_undistribute"))
}

/// Distributes the schema of the tables. Citus does nothing when it is distributed.
pub(super) async fn distribute_schema(conn: &mut PgConnection) -> Result<(), Fault> {
    let schema: Option<String> = sqlx::query(CITUS_FACTS).fetch_one(&mut *conn).await?.try_get(2)?;
    sqlx::query(DISTRIBUTE_SCHEMA).bind(schema).execute(conn).await?;
    Ok(())
}

/// Cuts the tables by shard, those that are there and are not cut yet. Each command moves the rows of one table.
pub(super) async fn cut_by_shard(conn: &mut PgConnection) -> Result<(), Fault> {
    let tables = placed(conn).await?;
    let is_left = |table: &&str| tables.iter().any(|placed| placed.table == *table && placed.method.is_empty());
    let [lead, others @ ..] = CUT;
    if !tables.iter().any(|placed| placed.table == lead) {
        return Ok(());
    }
    if is_left(&lead) {
        sqlx::query(CUT_FIRST).bind(lead).execute(&mut *conn).await?;
    }
    for table in others.into_iter().filter(is_left) {
        sqlx::query(CUT_TABLE).bind(table).bind(lead).execute(&mut *conn).await?;
    }
    for table in COPIED.into_iter().filter(is_left) {
        sqlx::query(COPY_TABLE).bind(table).execute(&mut *conn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(table: &str, method: &str, group: i64, is_copied: bool) -> Placed {
        let method = method.to_owned();
        Placed { table: table.to_owned(), is_by_first_column: method == "h", method, group, is_copied }
    }

    /// Returns the tables as `cut_by_shard` leaves them.
    fn all_cut() -> Vec<Placed> {
        let cut = CUT.into_iter().map(|table| placed(table, "h", 7, false));
        let copied = COPIED.into_iter().map(|table| placed(table, "n", 8, true));
        let local = ["eventbox_lease", "eventbox_member"].into_iter().map(|table| placed(table, "", 0, false));
        cut.chain(copied).chain(local).collect()
    }

    #[test]
    fn cut_tables_lie_together_or_are_refused() {
        assert_eq!(layout_of(&all_cut()), Ok(Layout::ByShard));
        let refused = |change: fn(&mut Placed), at: usize| {
            let mut tables = all_cut();
            change(&mut tables[at]);
            layout_of(&tables).unwrap_err().to_string()
        };
        let last_cut = CUT.len() - 1;
        let told = refused(|table| *table = placed("eventbox_journal", "", 0, false), last_cut);
        assert!(told.contains("not eventbox_journal by shard") && told.contains("--citus`"), "{told}");
        let told = refused(|table| table.is_by_first_column = false, 0);
        assert!(told.contains("not eventbox_anchor by shard"), "{told}");
        let told = refused(|table| table.group = 9, last_cut);
        assert!(told.contains("same shard of eventbox_anchor and eventbox_journal"), "{told}");
        let told = refused(|table| *table = placed("eventbox_paused_kind", "", 0, false), CUT.len());
        assert!(told.contains("no copy of eventbox_paused_kind"), "{told}");
        let told = refused(|table| table.group = 9, CUT.len() + COPIED.len());
        assert!(told.contains("eventbox_lease on other nodes"), "{told}");
    }

    #[test]
    fn whole_tables_lie_on_one_node_or_are_refused() {
        let whole = |group| CUT.into_iter().map(|table| placed(table, "n", group, false)).collect::<Vec<_>>();
        assert_eq!(layout_of(&[]), Ok(Layout::OneNode));
        assert_eq!(layout_of(&whole(0)), Ok(Layout::OneNode));
        assert_eq!(layout_of(&whole(7)), Ok(Layout::BySchema));
        let mut apart = whole(7);
        apart.push(placed("eventbox_timer", "", 0, false));
        assert!(layout_of(&apart).unwrap_err().to_string().contains("different nodes"));
    }
}
