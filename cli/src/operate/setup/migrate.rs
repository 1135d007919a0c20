//! `eventbox migrate`: the tables of eventbox.

use anyhow::{Context, Result};
use clap::ValueEnum;
use eventbox::Migration;
use serde::Serialize;
use serde_json::json;
use sqlx::{Postgres, Sqlite};

use crate::operate::Answer;
use crate::operate::args::Common;
use crate::operate::ask::with_progress;
use crate::operate::connect::{Address, CONNECTIONS, on};
use crate::operate::print::table::{Grid, Tone, cell, number, short, text};
use crate::operate::print::words::counted;
use crate::operate::session::Settings;

/// Shows, applies or prints the migrations of the tables of eventbox
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox migrate status                                exit code 1 when a migration is not applied
  eventbox migrate up
  eventbox migrate up --citus-schema                     on the coordinator of a Citus cluster, to one node
  eventbox migrate up --citus                            to all nodes, cut by shard
  eventbox migrate print --engine postgres               print SQL for another tool, without a database
  eventbox migrate print --engine postgres --roles | psql orders")]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, clap::Subcommand)]
enum MigrateCommand {
    /// Lists the migrations, and whether each is applied
    Status,
    /// Applies the migrations that are not applied yet
    ///
    /// The command creates no database and no SQLite file.
    Up {
        /// Put the schema of the tables on one node of a Citus cluster too; docs/scaling.md has the steps
        #[arg(long)]
        citus_schema: bool,
        /// Cut the tables by shard over all nodes of a Citus cluster too; docs/scaling.md has the steps
        #[arg(long, conflicts_with = "citus_schema")]
        citus: bool,
    },
    /// Prints the SQL of the migrations
    Print {
        /// Engine of the SQL [default: the engine of the database URL]
        #[arg(long, value_enum)]
        engine: Option<Engine>,
        /// Print the SQL that makes roles instead: owner, service, emitter and reader; on Postgres
        #[arg(long)]
        roles: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Postgres,
    Sqlite,
}

/// Where the tables go after the migrations.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// They stay where they are.
    AsIs,
    /// To one node of a cluster.
    OneNode,
    /// To all nodes of a cluster.
    AllNodes,
}

/// The SQL of a migration.
#[derive(Serialize)]
struct Script {
    version: i64,
    description: String,
    sql: String,
}

pub(crate) async fn migrate(common: &Common, args: MigrateArgs) -> Result<Answer> {
    let settings = Settings::read(common)?;
    match args.command {
        MigrateCommand::Status => status(&settings).await,
        MigrateCommand::Up { citus_schema: true, .. } => up(&settings, Place::OneNode).await,
        MigrateCommand::Up { citus: true, .. } => up(&settings, Place::AllNodes).await,
        MigrateCommand::Up { .. } => up(&settings, Place::AsIs).await,
        MigrateCommand::Print { engine, roles } => print(&settings, engine, roles),
    }
}

async fn status(settings: &Settings) -> Result<Answer> {
    let database = settings.needed_address()?.open().await?;
    let migrations = on!(&database, pool => eventbox::migrations(pool).await)?;
    settings.output.show(&migrations, || list(&migrations))?;
    let is_current = migrations.iter().all(|migration| migration.is_applied);
    Ok(if is_current { Answer::Yes } else { Answer::No })
}

fn list(migrations: &[Migration]) -> String {
    let mut grid = Grid::new(&[number("version"), short(""), short("description")]);
    for migration in migrations {
        grid.row([
            text(migration.version.to_string()),
            if migration.is_applied { cell("applied", Tone::Good) } else { cell("not applied", Tone::Warning) },
            text(&migration.description),
        ]);
    }
    grid.or("There are no migrations.")
}

async fn up(settings: &Settings, place: Place) -> Result<Answer> {
    let database = settings.needed_address()?.open_as_a_service(CONNECTIONS).await?;
    let before = on!(&database, pool => eventbox::migrations(pool).await)?;
    with_progress(None, async |_| match place {
        Place::AsIs => on!(&database, pool => eventbox::migrate(pool).await),
        Place::OneNode => on!(&database, pool => eventbox::migrate_citus_schema(pool).await),
        Place::AllNodes => on!(&database, pool => eventbox::migrate_citus_by_shard(pool).await),
    })
    .await?;
    let pending = before.iter().filter(|migration| !migration.is_applied).count();
    settings.output.show(&json!({ "applied": pending }), || match pending {
        0 => "The tables were current already.".to_owned(),
        pending => format!("Applied {}.", counted(pending as u64, "migration", "migrations")),
    })?;
    Ok(Answer::Yes)
}

fn print(settings: &Settings, engine: Option<Engine>, roles: bool) -> Result<Answer> {
    let of_database = settings.address()?.map(|address| match address {
        Address::Postgres(_) => Engine::Postgres,
        Address::Sqlite(_) => Engine::Sqlite,
    });
    let engine = engine.or(of_database).context("name the engine with --engine, or a database with --database-url")?;
    if roles {
        let sql = match engine {
            Engine::Postgres => eventbox::roles_sql::<Postgres>(),
            Engine::Sqlite => eventbox::roles_sql::<Sqlite>(),
        };
        let sql = sql.context("SQLite has no roles: the rights on a file are those of the file system")?;
        settings.output.show(&json!({ "sql": sql }), || sql.trim_end().to_owned())?;
        return Ok(Answer::Yes);
    }
    let scripts = match engine {
        Engine::Postgres => eventbox::migration_sql::<Postgres>(),
        Engine::Sqlite => eventbox::migration_sql::<Sqlite>(),
    };
    let scripts = scripts.into_iter().map(|(version, description, sql)| Script { version, description, sql });
    let scripts: Vec<Script> = scripts.collect();
    settings.output.show(&scripts, || {
        let texts = scripts
            .iter()
            .map(|script| format!("-- {:04} {}\n{}", script.version, script.description, script.sql.trim_end()));
        texts.collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(Answer::Yes)
}
