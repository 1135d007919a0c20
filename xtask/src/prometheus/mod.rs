//! A real Prometheus scrapes a service: alerts of `ops/alerts.yaml` fire, and end when the commands mend the cause.

mod api;
mod install;
mod names;
mod programs;
mod rules;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::programs::{Build, Stage};
use crate::postgres::{self, Database};
use crate::run::interrupted;

/// Time limit for an alert to fire or to end. A process reads the age of its oldest event every 10 s.
const ALERT_LIMIT: Duration = Duration::from_secs(120);

/// Time limit for the programs to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Plays both scenes, and checks the names and the queries.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    let tools = install::tools()?;
    let server = postgres::server()?;
    let build = Build::new()?;
    let database = Database::create(&server, "prometheus")?;
    let mut stage = Stage::new(&tools, &build, &database.url)?;
    paused_kind(&mut stage)?;
    broken_receiver(&mut stage)?;
    // Now nearly every instrument has been used.
    names::check(&stage.api)?;
    eprintln!("xtask: all of it passed ({} s)", started.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Somebody paused a kind, and forgot it.
fn paused_kind(stage: &mut Stage<'_>) -> Result<()> {
    println!("\n1. A kind is paused, and nobody goes on with it");
    let alerts = ["EventboxKindPausedForLong", "EventboxOldestEventWaits"];
    quiet(stage, &alerts)?;
    stage.act("pause --kind order --why release-17 --yes")?;
    alerts.iter().try_for_each(|alert| fires(stage, alert))?;
    stage.act("operations --limit 1")?;
    stage.act("resume --kind order --yes")?;
    alerts.iter().try_for_each(|alert| ends(stage, alert))
}

/// The receiver of the messages is away, and comes back.
fn broken_receiver(stage: &mut Stage<'_>) -> Result<()> {
    println!("\n2. The receiver of the messages is away");
    let alert = "OutboxBreakerOpen";
    quiet(stage, &[alert])?;
    println!("   the receiver is stopped");
    stage.stop_receiver();
    fires(stage, alert)?;
    stage.act("outbox list")?;
    println!("   the receiver is started again");
    stage.start_receiver()?;
    stage.act("outbox retry --all --yes")?;
    ends(stage, alert)
}

/// Checks that none of these alerts fires before its cause.
fn quiet(stage: &Stage<'_>, names: &[&str]) -> Result<()> {
    let early: Vec<_> = stage.api.alerts()?.into_iter().filter(|alert| names.contains(&alert.name.as_str())).collect();
    ensure!(early.is_empty(), "before its cause: {early:?}");
    Ok(())
}

/// Waits until an alert fires.
fn fires(stage: &mut Stage<'_>, name: &str) -> Result<()> {
    let started = Instant::now();
    let alert = until(&format!("{name} fires"), ALERT_LIMIT, || {
        stage.is_up()?;
        Ok(stage.api.alerts()?.into_iter().find(|alert| alert.name == name && alert.is_firing()))
    })?;
    println!("   {name} fires after {} s: {}", started.elapsed().as_secs(), alert.summary);
    Ok(())
}

/// Waits until an alert has ended for every job.
fn ends(stage: &mut Stage<'_>, name: &str) -> Result<()> {
    let started = Instant::now();
    until(&format!("{name} ends"), ALERT_LIMIT, || {
        stage.is_up()?;
        Ok(stage.api.alerts()?.iter().all(|alert| alert.name != name).then_some(()))
    })?;
    println!("   {name} has ended after {} s", started.elapsed().as_secs());
    Ok(())
}

/// Asks until there is an answer.
fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if interrupted() {
            bail!("interrupted");
        }
        if let Some(answer) = ask().with_context(|| format!("wait until {what}"))? {
            return Ok(answer);
        }
        ensure!(started.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(ASK_EVERY);
    }
}
