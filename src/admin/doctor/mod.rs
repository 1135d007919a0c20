//! The doctor: looks at the database itself, and says what is wrong with it and what to do.

mod life;
mod peers;
mod room;
mod schema;
mod server;
mod shards;

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sqlx::Pool;

use crate::error::Result;
use crate::store::{Backend, Fault, answered, hold};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// The check found nothing wrong.
    Ok,
    /// Good to know, or a check that could not be made.
    Note,
    /// Something is slow, is at risk, or will be wrong.
    Warning,
    /// Something does not work.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the check, one word for programs: `migrations`, `indexes`, `outbox` and so on.
    pub check: &'static str,
    /// What the check found, one sentence.
    pub sentence: String,
    /// What to do. `None` when nothing is to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, sentence: impl Into<String>) -> Self {
        Finding { severity: Severity::Ok, check, sentence: sentence.into(), advice: None }
    }

    fn new(severity: Severity, check: &'static str, sentence: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { severity, check, sentence: sentence.into(), advice: Some(advice.into()) }
    }
}

/// Options of [`doctor`].
///
/// # Examples
///
/// ```
/// use eventbox::admin::DoctorOptions;
///
/// let options = DoctorOptions::default().with_integrity(true);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct DoctorOptions {
    has_integrity: bool,
    old_transaction: Duration,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        DoctorOptions { has_integrity: false, old_transaction: OLD_TRANSACTION }
    }
}

impl DoctorOptions {
    /// Says whether to look for damages of the file; `false` by default. Only SQLite can, and it reads the whole file.
    pub fn with_integrity(mut self, has_integrity: bool) -> Self {
        self.has_integrity = has_integrity;
        self
    }

    /// Sets the age from which an open transaction is a finding; 60 s by default.
    pub fn with_old_transaction(mut self, age: Duration) -> Self {
        self.old_transaction = age;
        self
    }
}

/// Age from which an open transaction is a finding.
const OLD_TRANSACTION: Duration = Duration::from_secs(60);

/// Looks at the database itself, without changing anything, and returns a finding or more for each check.
///
/// | check | looks at |
/// | --- | --- |
/// | `versions` | the engine and this library |
/// | `connections` | a pooler that shares server connections, a file of something else |
/// | `migrations` | tables that are missing, older, newer, or changed by hand |
/// | `settings` | durability, isolation, encoding, a server or file that takes no writes |
/// | `tables`, `indexes` | objects of the migrations that are missing or invalid |
/// | `row_security`, `rights` | what this role sees, and may do (Postgres) |
/// | `autovacuum`, `dead_rows` | whether removed rows are cleaned up (Postgres) |
/// | `transactions` | transactions that have been open for long (Postgres) |
/// | `log`, `integrity` | size of the write-ahead log, damages when asked for (SQLite) |
/// | `clocks` | the clock of this process, and heartbeats, next to the database's clock |
/// | `leases` | processes that died with shards, shards without a process |
/// | `shards` | shards that failed, have no holder or no standby in another zone, or are disabled with events |
/// | `kinds` | events whose kind no living process has registered |
/// | `peers` | streams whose process is silent, events to send without a process that runs their peer |
/// | `outbox` | the oldest message that is not delivered |
/// | `pauses` | destinations that an operator paused |
/// | `breakers` | endpoints to which the emitter of a living process sends nothing, because they fail |
///
/// Findings come in this order, good ones included, so that a person sees what was looked at. A check that fails, for
/// lack of a right for example, is a finding of [`Severity::Note`]. Checks of tables are left out before the first
/// migration.
///
/// # Errors
///
/// Only when the database cannot be reached: transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// use eventbox::admin::{self, DoctorOptions, Severity};
///
/// let findings = admin::doctor(&pool, &DoctorOptions::default()).await?;
/// let worst = findings.iter().max_by_key(|finding| finding.severity).ok_or("no finding")?;
/// assert_eq!((worst.severity, worst.check), (Severity::Error, "migrations"));
///
/// eventbox::migrate(&pool).await?;
/// let findings = admin::doctor(&pool, &DoctorOptions::default()).await?;
/// assert!(findings.iter().all(|finding| finding.severity <= Severity::Note));
/// # Ok(()) }
/// ```
pub async fn doctor<B: Backend>(pool: &Pool<B>, options: &DoctorOptions) -> Result<Vec<Finding>> {
    const ATTEMPT: &str = "examine the database";
    let version = answered(pool, async { B::engine_version(&mut *hold(pool).await?).await }).await;
    let version = match version {
        Ok(version) => version,
        Err(fault) => match B::why_unusable(&fault) {
            Some(why) => return Ok(vec![server::unusable(why)]),
            None => return Err(fault.during(ATTEMPT)),
        },
    };
    let mut findings = vec![server::versions::<B>(&version)];
    let mut add = |found: Vec<Finding>| findings.extend(found);
    add(noted(pool, "connections", server::connections(pool)).await);
    let migrations = noted(pool, "migrations", schema::migrations(pool)).await;
    // Without tables, each of their checks would only repeat that they are not there.
    let has_tables = !schema::are_missing(&migrations);
    add(migrations);
    add(noted(pool, "settings", server::settings(pool)).await);
    add(server::read_only(pool).await.into_iter().collect());
    if has_tables {
        add(noted(pool, "tables", schema::objects(pool)).await);
        add(noted(pool, "row_security", schema::row_security(pool)).await);
        add(noted(pool, "rights", schema::rights(pool)).await);
        add(noted(pool, "autovacuum", room::vacuum(pool)).await);
    }
    add(noted(pool, "transactions", room::transactions(pool, options.old_transaction)).await);
    add(noted(pool, "log", room::log(pool)).await);
    if options.has_integrity {
        add(noted(pool, "integrity", room::integrity(pool)).await);
    }
    add(noted(pool, "clocks", life::clock(pool)).await);
    if has_tables {
        add(noted(pool, "clocks", life::heartbeats(pool)).await);
        add(noted(pool, "leases", life::leases(pool)).await);
        add(noted(pool, "shards", shards::shards(pool)).await);
        add(noted(pool, "kinds", life::kinds(pool)).await);
        add(noted(pool, "peers", peers::peers(pool)).await);
        add(noted(pool, "outbox", life::outbox(pool)).await);
        add(noted(pool, "pauses", life::pauses(pool)).await);
        add(noted(pool, "breakers", life::breakers(pool)).await);
    }
    Ok(findings)
}

/// Makes a check. A check that fails becomes a finding.
async fn noted<B: Backend>(
    pool: &Pool<B>,
    check: &'static str,
    look: impl Future<Output = Result<Vec<Finding>, Fault>>,
) -> Vec<Finding> {
    match answered(pool, look).await {
        Ok(found) => found,
        Err(fault) => vec![Finding::new(
            Severity::Note,
            check,
            format!("could not look at {}: {}", check.replace('_', " "), fault.0),
            "see the other findings, and examine with a role that has the right to look",
        )],
    }
}

/// Shows a time as a person would say it, in whole units.
fn spoken(us: i64) -> String {
    let seconds = us.unsigned_abs() / 1_000_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_in_order() {
        assert!(Severity::Ok < Severity::Note && Severity::Note < Severity::Warning);
        assert!(Severity::Warning < Severity::Error);
        assert_eq!(format!("{:<8}|", Severity::Note), "note    |");
    }

    #[test]
    fn a_time_is_said_in_whole_units() {
        let said = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|seconds| spoken(seconds * 1_000_000));
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
        assert_eq!(spoken(-3_500_000), "3 s");
    }
}
