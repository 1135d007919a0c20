//! `cargo xtask upgrade`: two versions of the library beside each other on one database.
//!
//! The service is `tests/upgrade`. This command builds it with both versions, starts and kills its processes, and
//! compares what they noted outside the database with what the boxes have seen.

mod args;
mod build;
mod oracle;
mod process;
mod report;
mod stage;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use self::args::{Engine, HELP, Options};
use self::build::Versions;
use self::process::Place;
use self::report::Report;
use self::stage::Stage;
use crate::postgres::{self, Database};
use crate::run::outlive_interrupts;

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let Some(options) = Options::parse(args)? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    outlive_interrupts()?;
    let versions = Versions::build(options.old.as_deref())?;
    let mut reports = Vec::new();
    for engine in &options.engines {
        let report = on(*engine, &versions, &options)?;
        if !options.json {
            println!("{report}");
        }
        reports.push(report);
    }
    if options.json {
        let all: Vec<Value> = reports.iter().map(Report::json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    let is_broken = reports.iter().any(|report| !report.problems.is_empty());
    Ok(ExitCode::from(u8::from(is_broken)))
}

/// Plays all phases on an engine. The logs and notes stay when a promise was broken.
fn on(engine: Engine, versions: &Versions, options: &Options) -> Result<Report> {
    let mut folder = tempfile::Builder::new().prefix("eventbox-upgrade-").tempdir().context("create a folder")?;
    let report = match engine {
        Engine::Postgres => {
            let server = postgres::server()?;
            let database = Database::create(&server, "upgrade")?;
            play(engine, versions, options, &database.url, folder.path())?
        }
        Engine::Sqlite => {
            let file = folder.path().join("upgrade.sqlite3");
            play(engine, versions, options, &file.to_string_lossy(), folder.path())?
        }
    };
    if !report.problems.is_empty() {
        folder.disable_cleanup(true);
        eprintln!("xtask: the logs and notes are in {}", folder.path().display());
    }
    Ok(report)
}

fn play(engine: Engine, versions: &Versions, options: &Options, url: &str, folder: &Path) -> Result<Report> {
    let place = Place { url: url.to_owned(), folder: folder.to_owned() };
    Stage::new(versions, place, engine, options.seed).play(options.time(engine))
}
