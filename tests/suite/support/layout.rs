//! Tests on a cluster of Citus: `EVENTBOX_TEST_LAYOUT=citus-schema`.
//!
//! The server's database must know the nodes of the cluster (`pg_dist_node`). Each test has a database on every node,
//! and in it a distributed schema, which all its connections use. So `migrate` makes the tables on a node of the
//! cluster, and so does a test that creates tables of its own.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error};

/// Name of the distributed schema of a test's database.
const SCHEMA: &str = "boxes";

/// Host and port of each node; the coordinator is the first.
type Nodes = Vec<(String, i32)>;

/// Returns whether the tests run in schemas that Citus distributes. Panics on a layout that the suite does not know.
pub(crate) fn is_citus() -> bool {
    match std::env::var("EVENTBOX_TEST_LAYOUT").as_deref() {
        Ok("citus-schema") => true,
        Err(_) | Ok("" | "one-node") => false,
        Ok(other) => panic!("EVENTBOX_TEST_LAYOUT is {other}: it may be one-node or citus-schema"),
    }
}

/// Returns the schema of the tables of a test.
pub(crate) fn schema() -> &'static str {
    if is_citus() { SCHEMA } else { "public" }
}

/// Makes a new database of the coordinator a database of the whole cluster, with a distributed schema.
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
