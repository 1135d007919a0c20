//! Citus: how the tables lie on its cluster.

use sqlx::{PgConnection, Postgres, Row};

use crate::store::connect::schema::SettingsProblem;
use crate::store::fault::Fault;
use crate::store::operate::diagnosis::DiagnosisDialect;

/// Every database with the extension has this catalog. The catalog of the system comes first in every search path.
const HAS_CITUS: &str = "SELECT to_regclass('pg_dist_partition') IS NOT NULL";

/// The tables with their places. A table that Citus does not know lies in group 0, as a local table that it knows does.
const TABLE_PLACES: &str = "SELECT t.name, coalesce(p.partmethod = 'n', true), coalesce(p.colocationid, 0)::int8
  FROM unnest((SELECT $1::text[])) AS t (name) LEFT JOIN pg_dist_partition p ON p.logicalrelid = to_regclass(t.name)
 WHERE to_regclass(t.name) IS NOT NULL ORDER BY t.name";

/// Facts about the extension, and the schema of the tables; before the first migration, that of new tables.
const CITUS_FACTS: &str = "SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'citus'),
    to_regproc('citus_schema_distribute') IS NOT NULL,
    coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('eventbox_event')),
             quote_ident(current_schema()))";

const DISTRIBUTE_SCHEMA: &str = "SELECT citus_schema_distribute($1::regnamespace)::text";

/// The only distribution that the statements can use.
const ON_ONE_NODE: &str = "put their schema on one node: \
undistribute the tables, then run `eventbox migrate up --citus-schema`; see docs/scaling.md";

/// Returns why the tables lie on a cluster as the statements cannot use them.
pub(super) async fn layout_problem(conn: &mut PgConnection) -> Result<Option<SettingsProblem>, Fault> {
    if !sqlx::query_scalar::<Postgres, bool>(HAS_CITUS).fetch_one(&mut *conn).await? {
        return Ok(None);
    }
    let made = Postgres::MADE.iter().filter(|made| made.sort == "table").map(|made| made.name);
    let rows = sqlx::query(TABLE_PLACES).bind(made.collect::<Vec<_>>()).fetch_all(conn).await?;
    let mut first: Option<(String, i64)> = None;
    for row in rows {
        let (table, is_whole, group): (String, bool, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if !is_whole {
            return Ok(Some(problem(format!("Citus has cut the rows of {table} into shards of its own"))));
        }
        match &first {
            Some((other, its)) if *its != group => {
                return Ok(Some(problem(format!("Citus may keep {other} and {table} on different nodes"))));
            }
            _ => first = first.or(Some((table, group))),
        }
    }
    Ok(None)
}

fn problem(what: String) -> SettingsProblem {
    SettingsProblem { what, help: ON_ONE_NODE.to_owned() }
}

/// Returns why the schema of the tables cannot be distributed.
pub(super) async fn distribution_problem(conn: &mut PgConnection) -> Result<Option<SettingsProblem>, Fault> {
    let row = sqlx::query(CITUS_FACTS).fetch_one(conn).await?;
    let (has_citus, distributes): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let schema: Option<String> = row.try_get(2)?;
    let refused = |what: &str, help: &str| Some(SettingsProblem { what: what.to_owned(), help: help.to_owned() });
    Ok(match schema.as_deref() {
        _ if !has_citus => {
            refused("the database has no extension citus", "run CREATE EXTENSION citus on every node of the cluster")
        }
        _ if !distributes => refused("this Citus distributes no schemas", "use Citus 12 or newer"),
        None => refused("there is no schema for the tables", "create one, and set the role's search_path to it"),
        Some("public") => refused(
            "the tables are in the schema public, which Citus does not distribute",
            "create a schema for them, and set the role's search_path to it",
        ),
        Some(_) => None,
    })
}

/// Distributes the schema of the tables. Citus does nothing when it is distributed.
pub(super) async fn distribute_schema(conn: &mut PgConnection) -> Result<(), Fault> {
    let schema: Option<String> = sqlx::query(CITUS_FACTS).fetch_one(&mut *conn).await?.try_get(2)?;
    sqlx::query(DISTRIBUTE_SCHEMA).bind(schema).execute(conn).await?;
    Ok(())
}
