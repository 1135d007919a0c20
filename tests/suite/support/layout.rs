//! Tests on other layouts of the tables: `EVENTBOX_TEST_LAYOUT`.
//!
//! * `by-shard` runs the statements for tables that are cut by shard, on any server.
//! * `citus-by-shard` runs them on a cluster of Citus that cuts the tables.
//! * `citus-schema` runs the statements of one server in schemas that a cluster of Citus has put on a node.
//!
//! On a cluster, the server's database must know the nodes (`pg_dist_node`). Each test has a database on every node.
//! With `citus-schema` all connections of the database use a distributed schema. So `migrate` makes the tables on a node of
//! the cluster, and so does a test that creates tables of its own.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error};

/// Name of the distributed schema of a test's database.
const SCHEMA: &str = "boxes";

/// Host and port of each node; the coordinator is the first.
type Nodes = Vec<(String, i32)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneNode,
    ByShard,
    CitusByShard,
    CitusSchema,
}

/// Panics on a layout that the suite does not know.
fn mode() -> Mode {
    match std::env::var("EVENTBOX_TEST_LAYOUT").as_deref() {
        Err(_) | Ok("" | "one-node") => Mode::OneNode,
        Ok("by-shard") => Mode::ByShard,
        Ok("citus-by-shard") => Mode::CitusByShard,
        Ok("citus-schema") => Mode::CitusSchema,
        Ok(other) => {
            panic!("EVENTBOX_TEST_LAYOUT is {other}: it may be one-node, by-shard, citus-by-shard or citus-schema")
        }
    }
}

/// Returns whether the tests run on a cluster of Citus.
pub(crate) fn is_citus() -> bool {
    matches!(mode(), Mode::CitusByShard | Mode::CitusSchema)
}

/// Returns whether the tests run in schemas that Citus distributes.
pub(crate) fn is_citus_schema() -> bool {
    mode() == Mode::CitusSchema
}

/// Returns whether Citus cuts the tables of the tests by shard.
pub(crate) fn is_citus_by_shard() -> bool {
    mode() == Mode::CitusByShard
}

/// Returns whether the tests run the statements that touch one shard each.
pub(crate) fn is_by_shard() -> bool {
    matches!(mode(), Mode::ByShard | Mode::CitusByShard)
}

/// Returns the schema of the tables of a test.
pub(crate) fn schema() -> &'static str {
    if is_citus_schema() { SCHEMA } else { "public" }
}

/// Says in a new database of one server that its tables are cut by shard.
pub(crate) async fn say(server: &mut PgConnection, database: &str) -> Result<(), Error> {
    let said = format!("ALTER DATABASE {database} SET eventbox.layout = 'by-shard'");
    sqlx::raw_sql(AssertSqlSafe(said)).execute(server).await.map(drop)
}

/// Makes a new database of the coordinator a database of the whole cluster, with a distributed schema where the tests
/// use one.
pub(crate) async fn distribute(
    server: &mut PgConnection,
    options: &PgConnectOptions,
    database: &str,
) -> Result<(), Error> {
    let nodes = nodes(server).await?;
    for node in nodes.iter().skip(1) {
        run(&at(options, node), &format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")).await?;
    }
    for node in &nodes {
        run(&at(options, node).database(database), "CREATE EXTENSION citus").await?;
    }
    let coordinator = at(options, nodes.first().ok_or(Error::RowNotFound)?).database(database);
    for (place, (host, port)) in nodes.iter().enumerate() {
        let adds = if place == 0 { "citus_set_coordinator_host" } else { "citus_add_node" };
        run(&coordinator, &format!("SELECT {adds}('{host}', {port})")).await?;
    }
    if let [(host, port)] = nodes.as_slice() {
        let holds = format!("SELECT citus_set_node_property('{host}', {port}, 'shouldhaveshards', true)");
        run(&coordinator, &holds).await?;
    }
    if !is_citus_schema() {
        return Ok(());
    }
    run(&coordinator, &format!("CREATE SCHEMA {SCHEMA}")).await?;
    run(&coordinator, &format!("GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC")).await?;
    run(&coordinator, &format!("SELECT citus_schema_distribute('{SCHEMA}')")).await?;
    run(&coordinator, &format!("ALTER DATABASE {database} SET search_path = {SCHEMA}, public")).await
}

/// Removes the database from the other nodes.
pub(crate) async fn remove(server: &mut PgConnection, options: &PgConnectOptions, database: &str) -> Result<(), Error> {
    for node in nodes(server).await?.iter().skip(1) {
        run(&at(options, node), &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
    }
    Ok(())
}

async fn nodes(server: &mut PgConnection) -> Result<Nodes, Error> {
    let query = "SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid";
    sqlx::query_as(query).fetch_all(server).await
}

fn at(options: &PgConnectOptions, (host, port): &(String, i32)) -> PgConnectOptions {
    options.clone().host(host).port(u16::try_from(*port).expect("a port"))
}

async fn run(options: &PgConnectOptions, sql: &str) -> Result<(), Error> {
    let mut conn = options.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
    conn.close().await
}
