//! Checks for a server of Postgres that is unfit although every statement of a reader works.

use sqlx::{PgConnection, Row};

use crate::store::connect::schema::SettingsCheck;
use crate::store::fault::Fault;

/// The oldest server that the statements were tried on.
const MIN_VERSION_NUM: i32 = 140_000;

/// The last two columns say whether the server is a standby, and whether transactions are read only.
const SERVER_SETTINGS: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
    current_setting('server_encoding'),
    current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
    current_setting('synchronous_commit') <> 'off', current_setting('default_transaction_isolation'),
    pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";

/// The tables of eventboxes with row-level security. With each: whether it decides what this role sees, whether a
/// policy lets this role see anything, and whether one lets it see everything.
const SECURED_TABLES: &str = r"
SELECT c.relname::text, row_security_active(c.oid), count(p.oid) > 0,
       coalesce(bool_or(pg_get_expr(p.polqual, p.polrelid) = 'true'), false)
  FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
   AND (p.polroles = '{0}'::oid[]
        OR EXISTS (SELECT 1 FROM unnest(p.polroles) AS role WHERE role <> 0 AND pg_has_role(role, 'USAGE')))
 WHERE c.relkind IN ('r', 'p') AND c.relname LIKE 'eventbox\_%' AND pg_table_is_visible(c.oid) AND c.relrowsecurity
 GROUP BY c.oid, c.relname ORDER BY c.relname";

/// What to do about row-level security.
pub(in crate::store::postgres) const SECURED_HELP: &str =
    "give the role BYPASSRLS, or a policy FOR ALL USING (true) on each table of eventbox";

/// Row-level security of a table.
#[derive(Debug)]
pub(in crate::store::postgres) struct SecuredTable {
    pub(in crate::store::postgres) table: String,
    /// Whether it decides what this role sees.
    pub(in crate::store::postgres) binds: bool,
    pub(in crate::store::postgres) sees_some: bool,
    pub(in crate::store::postgres) sees_all: bool,
}

/// Lists the tables of eventboxes that have row-level security.
pub(in crate::store::postgres) async fn list_secured(conn: &mut PgConnection) -> Result<Vec<SecuredTable>, Fault> {
    let rows = sqlx::query(SECURED_TABLES).fetch_all(conn).await?;
    let secured = |row: &sqlx::postgres::PgRow| {
        Ok(SecuredTable {
            table: row.try_get(0)?,
            binds: row.try_get(1)?,
            sees_some: row.try_get(2)?,
            sees_all: row.try_get(3)?,
        })
    };
    rows.iter().map(secured).collect()
}

/// Checks the version and the settings of the server, and whether it takes writes.
pub(in crate::store::postgres) async fn check_server(conn: &mut PgConnection) -> Result<SettingsCheck, Fault> {
    let row = sqlx::query(SERVER_SETTINGS).fetch_one(conn).await?;
    let (version_num, version, encoding): (i32, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let mut check = SettingsCheck::default();
    if version_num < MIN_VERSION_NUM {
        check.refuse(format!("Postgres {version} is too old"), "use 14 or newer");
    } else if encoding != "UTF8" {
        check.refuse(format!("the database's encoding is {encoding}"), "create it with ENCODING 'UTF8'");
    }
    if row.try_get(7)? {
        check.refuse("the server is a standby in recovery, which takes no writes", "connect to the primary");
    } else if row.try_get(8)? {
        check.refuse("transactions are read only", "switch off default_transaction_read_only for this role");
    }
    for (column, setting, loss) in [
        (3, "fsync", "a power loss can destroy the database"),
        (4, "full_page_writes", "a power loss can destroy the database"),
        (5, "synchronous_commit", "a crash can lose events that were acknowledged"),
    ] {
        if !row.try_get::<bool, _>(column)? {
            check.warn(format!("{setting} is off: {loss}"), "switch it on");
        }
    }
    let isolation: String = row.try_get(6)?;
    if isolation != "read committed" {
        check.warn(
            format!("default_transaction_isolation is {isolation}: turns that race fail, and begin again"),
            "set it to read committed for this role",
        );
    }
    Ok(check)
}

/// Adds that what is written would not be seen.
pub(in crate::store::postgres) async fn check_visible(
    conn: &mut PgConnection,
    check: &mut SettingsCheck,
) -> Result<(), Fault> {
    for secured in list_secured(conn).await?.into_iter().filter(|secured| secured.binds) {
        let table = &secured.table;
        if !secured.sees_some {
            let hides = "row-level security hides every row of";
            check.refuse(format!("{hides} {table} from this role, so events would be lost from sight"), SECURED_HELP);
        } else if !secured.sees_all {
            check.warn(format!("row-level security may hide rows of {table} from this role"), SECURED_HELP);
        }
    }
    Ok(())
}
