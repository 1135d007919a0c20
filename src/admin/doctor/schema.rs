//! Tables and indexes, and what this role sees of them and may do.

use std::collections::BTreeMap;

use sqlx::Pool;

use super::{Finding, Severity};
use crate::eventbox::{Migrated, migrated};
use crate::store::{Backend, Fault, FoundObject, MadeObject, RowSecurity, Sees, hold};

const MIGRATIONS: &str = "migrations";
const NEVER: &str = "the tables of eventbox are not there";
const MIGRATE: &str = "run `eventbox migrate up`, or let the service call eventbox::migrate";

/// Rights that a service needs on its tables.
const RIGHTS: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// The same for the rows of the leases, which are there for ever.
const RIGHTS_ON_LEASES: &[&str] = &["SELECT", "UPDATE"];

pub(super) async fn migrations<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let error = |sentence: String, advice: &str| Finding::new(Severity::Error, MIGRATIONS, sentence, advice);
    Ok(vec![match migrated(pool).await? {
        Migrated::Current { newest } => Finding::ok(MIGRATIONS, format!("the tables are current (migration {newest})")),
        Migrated::Never => error(NEVER.to_owned(), MIGRATE),
        Migrated::Older { missing } => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            error(format!("the tables are older than this library: no migration {} yet", missing.join(", ")), MIGRATE)
        }
        Migrated::Newer { version } => error(
            format!("the database was migrated by a newer eventbox (migration {version})"),
            "update this program; one that runs goes on, and one that starts is refused",
        ),
        Migrated::Changed { version } => error(
            format!("migration {version} in the database differs from that of this library"),
            "an unreleased version may have been used: compare the tables with `eventbox migrate print`",
        ),
        Migrated::Unreadable { problem } => {
            error(problem, "give this role SELECT on the table, or use another schema or database")
        }
    }])
}

/// Returns whether the database was never migrated.
pub(super) fn are_missing(migrations: &[Finding]) -> bool {
    migrations.iter().any(|finding| finding.sentence == NEVER)
}

/// Compares the tables, indexes, views and triggers with those that the migrations make.
pub(super) async fn objects<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    let found = B::list_objects(&mut *hold(pool).await?).await?;
    let mut findings = Vec::new();
    for (check, is_index) in [("tables", false), ("indexes", true)] {
        let wanted: Vec<_> = B::MADE.iter().filter(|made| (made.sort == "index") == is_index).collect();
        let wrong: Vec<_> = wanted.iter().filter_map(|made| problem_of(made, check, &found)).collect();
        match wrong.is_empty() {
            true => findings.push(Finding::ok(check, format!("all {} are there", wanted.len()))),
            false => findings.extend(wrong),
        }
    }
    Ok(findings)
}

fn problem_of(made: &MadeObject, check: &'static str, found: &[FoundObject]) -> Option<Finding> {
    let MadeObject { sort, name, migration } = made;
    match found.iter().find(|found| found.sort == *sort && found.name == *name) {
        None => Some(Finding::new(
            Severity::Error,
            check,
            format!("the {sort} {name} is missing"),
            format!("make it again, as migration {migration} does: `eventbox migrate print`"),
        )),
        Some(FoundObject { is_valid: false, .. }) => Some(Finding::new(
            Severity::Error,
            check,
            format!("the index {name} is invalid: it was not built to its end, and no statement uses it"),
            format!("run: REINDEX INDEX CONCURRENTLY {name}"),
        )),
        Some(_) => None,
    }
}

pub(super) async fn row_security<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "row_security";
    let Some(secured) = B::row_security(&mut *hold(pool).await?).await? else { return Ok(Vec::new()) };
    if secured.is_empty() {
        return Ok(vec![Finding::ok(CHECK, "no table has row-level security")]);
    }
    let finding = |secured: RowSecurity| {
        let table = &secured.table;
        let (severity, sentence) = match secured.sees {
            Sees::All => {
                return Finding::ok(CHECK, format!("row-level security of {table} lets this role see all rows"));
            }
            Sees::Nothing => (
                Severity::Error,
                format!(
                    "row-level security hides every row of {table} from this role: events would be lost from sight"
                ),
            ),
            Sees::Some => (Severity::Warning, format!("row-level security may hide rows of {table} from this role")),
            Sees::Unbound => (
                Severity::Warning,
                format!(
                    "row-level security of {table} does not bind this role, but may hide rows from a service's role"
                ),
            ),
        };
        Finding::new(severity, CHECK, sentence, secured.help)
    };
    Ok(secured.into_iter().map(finding).collect())
}

pub(super) async fn rights<B: Backend>(pool: &Pool<B>) -> Result<Vec<Finding>, Fault> {
    const CHECK: &str = "rights";
    let tables = B::MADE.iter().filter(|made| made.sort == "table").map(|made| made.name);
    let (tables, rights): (Vec<&str>, Vec<&str>) = tables
        .flat_map(|table| {
            let rights = if table == "eventbox_lease" { RIGHTS_ON_LEASES } else { RIGHTS };
            rights.iter().map(move |right| (table, *right))
        })
        .chain([("eventbox_migration", "SELECT")])
        .unzip();
    let missing = B::missing_rights(&mut *hold(pool).await?, &tables, &rights).await?;
    let Some(missing) = missing else { return Ok(Vec::new()) };
    let mut by_table: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for missing in missing {
        by_table.entry(missing.table).or_default().push(missing.right);
    }
    if by_table.is_empty() {
        return Ok(vec![Finding::ok(CHECK, "this role may do all that a service needs")]);
    }
    let finding = |(table, rights): (String, Vec<String>)| {
        let rights = rights.join(", ");
        Finding::new(
            Severity::Warning,
            CHECK,
            format!("this role lacks {rights} on {table}"),
            format!("a service needs it: grant {rights} on {table}, or the roles of `eventbox migrate print --roles`"),
        )
    };
    Ok(by_table.into_iter().map(finding).collect())
}
