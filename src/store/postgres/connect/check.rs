//! Checks for a server of Postgres that is unfit although every statement of a reader works.

use sqlx::{PgConnection, Row};

use crate::store::connect::schema::SettingsCheck;
use crate::store::fault::Fault;

/// Whether the server is a standby, and whether transactions are read only.
pub(crate) const READ_ONLY: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";

/// The tables of eventboxes in which row-level security applies to this role; for each table, whether a policy shows
/// the role any rows, and whether a policy shows it all rows.
pub(crate) const SECURED_TABLES: &str = r"
SELECT c.relname::text, count(p.oid) > 0, coalesce(bool_or(pg_get_expr(p.polqual, p.polrelid) = 'true'), false)
  FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
   AND (p.polroles = '{0}'::oid[]
        OR EXISTS (SELECT 1 FROM unnest(p.polroles) AS role WHERE role <> 0 AND pg_has_role(role, 'USAGE')))
 WHERE c.relkind IN ('r', 'p') AND c.relname LIKE 'eventbox\_%' AND pg_table_is_visible(c.oid)
   AND row_security_active(c.oid)
 GROUP BY c.relname ORDER BY c.relname";

/// Adds a reason when the role cannot write, or could not see the written rows.
pub(in crate::store::postgres) async fn check_access(
    conn: &mut PgConnection,
    check: &mut SettingsCheck,
) -> Result<(), Fault> {
    let row = sqlx::query(READ_ONLY).fetch_one(&mut *conn).await?;
    if row.try_get(0)? {
        refuse(check, "the server is a standby in recovery, which takes no writes: connect to the primary".to_owned());
    } else if row.try_get(1)? {
        refuse(check, "transactions are read only: switch off default_transaction_read_only for this role".to_owned());
    }
    for row in sqlx::query(SECURED_TABLES).fetch_all(conn).await? {
        let (table, sees_some, sees_all): (String, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        const HELP: &str = "give the role BYPASSRLS, or a policy FOR ALL USING (true) on each table of eventbox";
        if !sees_some {
            let what = format!(
                "row-level security hides every row of {table} from this role, so events would be lost from sight"
            );
            refuse(check, format!("{what}: {HELP}"));
        } else if !sees_all {
            check.warnings.push(format!("row-level security may hide rows of {table} from this role: {HELP}"));
        }
    }
    Ok(())
}

/// Keeps the first reason.
fn refuse(check: &mut SettingsCheck, problem: String) {
    check.refused.get_or_insert(problem);
}
