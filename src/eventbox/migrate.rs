//! Creates the tables of eventboxes, and checks that they are current.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sqlx::Pool;
use sqlx::migrate::{Migrate, MigrateError};
use tokio::time::timeout;

use super::database::check;
use crate::error::{Error, Result};
use crate::store::{Backend, Class, Fault, Layout, answered, hold};

/// Creates or updates the tables of eventboxes (all begin with `eventbox_`), after [`check`].
///
/// Call it when the program starts; it does nothing when the tables are current. The migrations are recorded in the
/// table `eventbox_migration`, apart from your own.
///
/// # Errors
///
/// [`Error::Setup`] when the database is not fit (see [`check`]), was migrated by a newer version of this crate, has
/// another table of a needed name, or does not let this role create tables. Transient and database errors. A migrated
/// database needs no right to create anything.
///
/// # Cancel safety
///
/// Safe: a started migration continues in the background.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(":memory:")).await?;
/// eventbox::migrate(&pool).await?;
/// # Ok(()) }
/// ```
pub async fn migrate<B: Backend>(pool: &Pool<B>) -> Result<()> {
    check(pool).await?;
    let pool = pool.clone();
    to_its_end(ATTEMPT, async move { run_migrations(&pool).await }).await
}

/// Does what [`migrate`] does, and puts the schema of the tables on one node of a Citus cluster.
///
/// This is Citus' schema-based sharding. Use it on the coordinator, for a schema of the cluster that no other service
/// uses: Citus moves every table of the schema to the node, and each table that is created there later. The service
/// goes on with the same code and the same URL. A schema that was distributed before stays where it is, and gets the
/// missing migrations. `docs/scaling.md` has the steps, and the differences to one node.
///
/// # Errors
///
/// [`Error::Setup`], before anything is changed, when the database has no extension `citus` 12 or newer, and when the
/// schema is `public`. The errors of [`migrate`].
///
/// # Cancel safety
///
/// Safe: a started migration or move continues in the background, and another call finishes what is missing.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A file is no cluster.
/// let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(":memory:")).await?;
/// let refused = eventbox::migrate_citus_schema(&pool).await.unwrap_err();
/// assert!(matches!(refused, eventbox::Error::Setup { .. }));
/// # Ok(()) }
/// ```
pub async fn migrate_citus_schema<B: Backend>(pool: &Pool<B>) -> Result<()> {
    require_distributable(pool, Layout::BySchema, DISTRIBUTE).await?;
    migrate(pool).await?;
    let pool = pool.clone();
    to_its_end(DISTRIBUTE, async move {
        let during = |fault: Fault| fault.during(DISTRIBUTE);
        B::distribute_schema(&mut *hold(&pool).await.map_err(during)?).await.map_err(during)
    })
    .await
}

/// Does what [`migrate`] does, and cuts the tables by `shard` on a Citus cluster, so that they lie on all its nodes.
///
/// Use it on the coordinator, for one eventbox that is larger than a server. Stop the services first: Citus moves the
/// rows of one table after the other, and a process that started before the move has the statements of one server. Each
/// process reads the layout in [`check`], in [`migrate`] and at the start of a runtime, so call one of them before the
/// first emit. Tables that were cut before stay where they are, and get the missing migrations. `docs/scaling.md` has
/// the steps, and the differences to one node.
///
/// # Errors
///
/// [`Error::Setup`], before anything is changed, when the database has no extension `citus` 12 or newer, and when the
/// tables are in a schema that Citus has put on one node. The errors of [`migrate`].
///
/// # Cancel safety
///
/// Safe: a started migration or move continues in the background, and another call finishes what is missing.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A file is no cluster.
/// let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(":memory:")).await?;
/// let refused = eventbox::migrate_citus_by_shard(&pool).await.unwrap_err();
/// assert!(matches!(refused, eventbox::Error::Setup { .. }));
/// # Ok(()) }
/// ```
pub async fn migrate_citus_by_shard<B: Backend>(pool: &Pool<B>) -> Result<()> {
    require_distributable(pool, Layout::ByShard, CUT).await?;
    // Tables of which only some are cut are not fit for a migration.
    cut(pool).await?;
    migrate(pool).await?;
    cut(pool).await?;
    check(pool).await
}

async fn cut<B: Backend>(pool: &Pool<B>) -> Result<()> {
    let pool = pool.clone();
    to_its_end(CUT, async move {
        let during = |fault: Fault| fault.during(CUT);
        B::cut_by_shard(&mut *hold(&pool).await.map_err(during)?).await.map_err(during)
    })
    .await
}

async fn require_distributable<B: Backend>(pool: &Pool<B>, wanted: Layout, attempt: &'static str) -> Result<()> {
    let problem = answered(pool, async { B::distribution_problem(&mut *hold(pool).await?, wanted).await });
    match problem.await.map_err(|fault: Fault| fault.during(attempt))? {
        Some(problem) => Err(Error::setup(attempt, problem)),
        None => Ok(()),
    }
}

/// Runs work in a task of its own: a caller who drops the future must not leave the work half done.
async fn to_its_end(attempt: &str, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    match tokio::spawn(timeout(MIGRATE_WAIT, work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Error::Transient {
            attempt: attempt.to_owned(),
            source: format!("not done within {MIGRATE_WAIT:?}").into(),
        }),
        Err(panic) => Err(Error::Database { attempt: attempt.to_owned(), source: panic.into() }),
    }
}

const ATTEMPT: &str = "migrate the tables of eventbox";

const DISTRIBUTE: &str = "put the schema of eventbox on a node of the cluster";

const CUT: &str = "cut the tables of eventbox by shard";

/// Time after which the migrations together are given up, and the move to a node of a cluster.
const MIGRATE_WAIT: Duration = Duration::from_secs(30 * 60);

/// Number of attempts when other processes migrate at the same time.
const MIGRATE_ATTEMPTS: usize = 50;

/// Pause before a migration is retried after another process came first.
const MIGRATE_PAUSE: Duration = Duration::from_millis(20);

/// The recorded migrations of a database, beside the migrations of this library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Migrated {
    /// The table that records them is not there.
    Never,
    /// All of them, and no others.
    Current {
        /// The last migration.
        newest: i64,
    },
    /// These are missing.
    Older {
        /// Numbers of the migrations, sorted.
        missing: Vec<i64>,
    },
    /// A newer library has migrated.
    Newer {
        /// Number of a migration that this library does not know.
        version: i64,
    },
    /// The text of a migration is not that of this library.
    Changed {
        /// Number of the migration.
        version: i64,
    },
    /// The table that records them cannot be read.
    Unreadable {
        /// The problem with the table.
        problem: String,
    },
}

impl Migrated {
    /// Returns why this library can neither use the tables nor migrate them, and what to do.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Migrated::Never | Migrated::Current { .. } | Migrated::Older { .. } => None,
            Migrated::Newer { version } => Some(format!(
                "the database was migrated by a newer eventbox (migration {version}): update this program"
            )),
            Migrated::Changed { version } => Some(format!(
                "migration {version} in the database differs from that of this eventbox: was an unreleased version \
                 used?"
            )),
            Migrated::Unreadable { problem } => Some(problem.clone()),
        }
    }
}

/// Runs the migrations; each commits with its record. When several processes migrate at once, all but one fail on
/// tables that the first has created, look again, and find the migration done.
async fn run_migrations<B: Backend>(pool: &Pool<B>) -> Result<()> {
    let during = |fault: Fault| fault.during(ATTEMPT);
    let mut before = usable(pool, ATTEMPT).await?;
    for _ in 0..MIGRATE_ATTEMPTS {
        if matches!(before, Migrated::Current { .. }) {
            return Ok(());
        }
        let mut conn = hold(pool).await.map_err(during)?;
        let Err(error) = B::run_migrations(&mut conn).await else { return Ok(()) };
        drop(conn);
        let now = usable(pool, ATTEMPT).await?;
        let error = failure_of::<B>(error);
        if now == before && !error.is_contention() {
            return Err(error);
        }
        before = now;
        tokio::time::sleep(MIGRATE_PAUSE).await;
    }
    Err(Error::contention(ATTEMPT))
}

fn failure_of<B: Backend>(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) => refusal_of::<B>(ATTEMPT.to_owned(), error),
        MigrateError::ExecuteMigration(error, version) => {
            refusal_of::<B>(format!("{ATTEMPT}, migration {version}"), error)
        }
        other => Error::Database { attempt: ATTEMPT.to_owned(), source: other.into() },
    }
}

fn refusal_of<B: Backend>(attempt: String, error: sqlx::Error) -> Error {
    match B::why_not_migrated(&error) {
        Some(why) => Error::setup(attempt, format!("{why} ({error})")),
        None => Fault(error).during(attempt),
    }
}

/// Reads the recorded migrations, and refuses those that this library can neither use nor migrate.
pub(super) async fn usable<B: Backend>(pool: &Pool<B>, attempt: &'static str) -> Result<Migrated> {
    let migrated = migrated(pool).await.map_err(|fault| fault.during(attempt))?;
    match migrated.problem() {
        Some(problem) => Err(Error::setup(attempt, problem)),
        None => Ok(migrated),
    }
}

/// Reads the recorded migrations, which needs only the right to read.
pub(crate) async fn migrated<B: Backend>(pool: &Pool<B>) -> Result<Migrated, Fault> {
    let mut conn = hold(pool).await?;
    let migrator = B::migrator();
    if !B::has_migrations(&mut conn).await? {
        return Ok(Migrated::Never);
    }
    let unreadable = |cause: &dyn fmt::Display| Migrated::Unreadable {
        problem: format!("the table {} cannot be read, or is of something else ({cause})", migrator.table_name),
    };
    let applied = match conn.list_applied_migrations(&migrator.table_name).await {
        Ok(applied) => applied,
        Err(MigrateError::Execute(error)) => match Fault(error) {
            fault if fault.class() == Class::Permanent => return Ok(unreadable(&fault.0)),
            fault => return Err(fault),
        },
        Err(error) => return Ok(unreadable(&error)),
    };
    let known: BTreeMap<_, _> = migrator.iter().map(|known| (known.version, &known.checksum)).collect();
    for migration in &applied {
        let version = migration.version;
        match known.get(&version) {
            None => return Ok(Migrated::Newer { version }),
            Some(checksum) if **checksum != migration.checksum => return Ok(Migrated::Changed { version }),
            Some(_) => {}
        }
    }
    let is_missing = |version: &i64| applied.iter().all(|migration| migration.version != *version);
    let missing: Vec<i64> = known.keys().copied().filter(is_missing).collect();
    match known.keys().next_back() {
        Some(newest) if missing.is_empty() => Ok(Migrated::Current { newest: *newest }),
        _ => Ok(Migrated::Older { missing }),
    }
}

/// Checks that this version of the library knows the tables; for services that start and run by themselves.
#[cfg(feature = "runtime")]
pub(crate) async fn check_migrated<B: Backend>(pool: &Pool<B>) -> Result<()> {
    const ATTEMPT: &str = "check the database's tables";
    let layout = answered(pool, async { B::read_layout(&mut *hold(pool).await?).await });
    if let Err(problem) = layout.await.map_err(|fault: Fault| fault.during(ATTEMPT))? {
        return Err(Error::setup(ATTEMPT, problem));
    }
    match usable(pool, ATTEMPT).await? {
        Migrated::Current { .. } => Ok(()),
        _ => Err(Error::setup(ATTEMPT, "tables are missing or old: call eventbox::migrate first")),
    }
}
