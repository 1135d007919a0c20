//! A database that only one run uses.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::Server;
use crate::run::output_of;

/// Advice for the user when `psql` is missing.
const ADVICE: &str = "psql makes a database for this run on the server that DATABASE_URL names: install the package \
postgresql-client, or unset DATABASE_URL to get a throw-away server";

/// A database that only this run uses.
pub(crate) struct Database {
    pub(crate) url: String,
    /// URL of the server and the name to remove at the end. A throw-away server is removed as a whole.
    created: Option<(String, String)>,
}

impl Database {
    /// Makes a database on the server of the user. A throw-away server is used as it is.
    pub(crate) fn create(server: &Server, chore: &str) -> Result<Self> {
        let Server::Given(server) = server else {
            return Ok(Database { url: server.url(), created: None });
        };
        let name = format!("eventbox_{chore}_{}", std::process::id());
        let url = with_database(server, &name).context("DATABASE_URL names no database: postgres://USER@HOST/NAME")?;
        output_of(&mut psql(server, &format!("CREATE DATABASE {name}"))).context(ADVICE)?;
        Ok(Database { url, created: Some((server.clone(), name)) })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some((server, name)) = &self.created
            && output_of(&mut psql(server, &format!("DROP DATABASE {name} WITH (FORCE)"))).is_err()
        {
            eprintln!("xtask: the database {name} could not be removed");
        }
    }
}

/// The statements that drop the databases of tests, but for those that tests copy.
const DROP_STATEMENTS: &str = "SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', datname) FROM pg_database \
WHERE datname LIKE 'eventbox\\_%' AND datname NOT LIKE 'eventbox\\_tests\\_%'";

/// Drops what tests that were killed have left on a server.
pub(crate) fn drop_test_databases(server: &Server) -> Result<()> {
    let url = server.url();
    let mut select = psql(&url, DROP_STATEMENTS);
    let statements = output_of(select.args(["--tuples-only", "--no-align"])).context(ADVICE)?;
    for statement in statements.lines().filter(|line| line.starts_with("DROP ")) {
        output_of(psql(&url, statement).env("PGOPTIONS", "-c client_min_messages=warning"))?;
    }
    Ok(())
}

fn psql(server: &str, statement: &str) -> Command {
    let mut command = Command::new("psql");
    // The statement comes first, so that words_of shows it; the URL with its password is never shown.
    command.args(["--quiet", "--no-psqlrc", "--command", statement, "--dbname", server]).stdin(Stdio::null());
    command
}

/// Returns the URL with another database.
fn with_database(url: &str, name: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (place, options) = rest.split_once('?').map_or((rest, None), |(place, options)| (place, Some(options)));
    let host = place.split_once('/').map_or(place, |(host, _)| host);
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    Some(format!("{scheme}://{host}/{name}{options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_changes() {
        let changed = |url| with_database(url, "x").unwrap_or_default();
        assert_eq!(
            changed("postgres://me:pw@db:5432/orders?sslmode=require"),
            "postgres://me:pw@db:5432/x?sslmode=require"
        );
        assert_eq!(changed("postgres://db"), "postgres://db/x");
        assert_eq!(with_database("orders.sqlite3", "x"), None);
    }
}
