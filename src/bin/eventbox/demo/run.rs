//! One run: everything at once, then the comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use eventbox::Recipient;
use sha2::{Digest, Sha256};
use sqlx::Pool;
use tokio::task::JoinSet;

use super::bars::{Bars, LOOK_EVERY};
use super::database::{self, Target};
use super::expected::Figures;
use super::flights::Input;
use super::publish::{Publishing, Received, Receiver};
use super::report::{Report, Surroundings};
use super::tables::{AirportState, DemoTables, Leftovers, Progress};
use super::work::{self, Shared};
use super::{Args, send, shows_progress};

/// Runs the demo on an open database; cleans up when all is well and nothing is to be kept.
pub(crate) async fn run<B: DemoTables>(
    args: &Args,
    input: &Input,
    pool: Pool<B>,
    target: Target,
) -> Result<(Report, Surroundings)> {
    let started = Instant::now();
    let expected = Figures::of(input);
    let wanted = Progress {
        input: digest(input),
        ingress_store: target.ingress_store().display().to_string(),
        resend: args.resend.into(),
        ..Progress::default()
    };
    let progress = database::prepare(&pool, wanted, args.resume).await?;
    let ingress_store = PathBuf::from(&progress.ingress_store);

    let receiver = Receiver::start(args.ingress.as_deref(), &ingress_store).await?;
    let publishing = Publishing::start(&pool, &receiver).await?;
    let bars = Bars::new(shows_progress(args), input.flights.len(), expected.keys.len());
    let shared = Arc::new(Shared::default());
    let worked = work_and_watch(args, input, &pool, &shared, &publishing, &bars).await;
    let drained = match worked {
        Ok(()) => publishing.drain().await,
        Err(error) => Err(error),
    };
    bars.clear();
    publishing.stop().await;
    drained?;

    let found = collect(&pool, &receiver).await?;
    receiver.stop().await;
    let differences = found.differences(&expected);
    let mut report = found.report(input, &expected, &shared);
    report.verified = differences.is_empty();

    let keep = args.keep || !report.verified;
    let around = Surroundings {
        data: keep.then(|| target.to_string()),
        messages: args.ingress.clone().or(keep.then_some(progress.ingress_store)),
        messages_checked: args.ingress.is_none(),
        differences,
        consumed_now: shared.consumed.load(Ordering::Relaxed),
        elapsed: started.elapsed(),
    };
    report.seconds = (around.elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0;
    match keep {
        true => target.keep(),
        false => database::remove(&pool, target, &ingress_store).await?,
    }
    Ok((report, around))
}

/// The sender and the workers, until all is sent and every box is empty.
async fn work_and_watch<B: DemoTables>(
    args: &Args,
    input: &Input,
    pool: &Pool<B>,
    shared: &Arc<Shared>,
    publishing: &Publishing<B>,
    bars: &Bars,
) -> Result<()> {
    let mut workers = JoinSet::new();
    for worker in 0..args.workers {
        let (pool, shared, publishing) = (pool.clone(), Arc::clone(shared), publishing.clone());
        // Spread over the shards, so that they meet now and then and not always.
        let first_shard = u8::try_from(worker * 256 / args.workers).unwrap_or_default();
        workers.spawn(async move {
            work::run(&pool, &shared, first_shard, |turn| publishing.deliver(turn.published)).await
        });
    }
    let watched = async {
        loop {
            bars.processed.set_position(shared.consumed.load(Ordering::Relaxed).unsigned_abs());
            bars.published.set_position(publishing.delivered());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let worked = async {
        send::run(pool, &input.flights, |sent| bars.sent.set_position(sent as u64)).await?;
        shared.all_sent.store(true, Ordering::Release);
        while let Some(worker) = workers.join_next().await {
            worker.context("a worker panicked")??;
        }
        // A worker may have filled an airport's box behind the last walk of another one.
        work::run(pool, shared, 0, |turn| publishing.deliver(turn.published)).await
    };
    tokio::select! {
        worked = worked => worked,
        () = watched => Ok(()),
    }
}

/// What a run left behind.
struct Found {
    figures: Figures,
    progress: Progress,
    turns: i64,
    leftovers: Leftovers,
    /// What the built-in ingress got.
    received: Option<Received>,
}

async fn collect<B: DemoTables>(pool: &Pool<B>, receiver: &Receiver) -> Result<Found> {
    let mut conn = pool.acquire().await.context("read the results")?;
    let (aircraft, aircraft_turns) = B::all_aircraft(&mut conn).await.context("read the aircraft")?;
    let airports = B::airports(&mut conn).await.context("read the airports")?;
    let progress = B::load_progress(&mut conn).await.context("read the sender's progress")?.unwrap_or_default();
    let leftovers = B::leftovers(&mut conn).await.context("count what is left")?;
    drop(conn);
    let (airports, airport_turns) = states_of(pool, &airports).await.context("read the airports")?;
    let figures = Figures { aircraft, airports, ..Figures::default() };
    let received = receiver.received().await?;
    Ok(Found { figures, progress, turns: aircraft_turns + airport_turns, leftovers, received })
}

/// The states that the library keeps for airports, and how many turns they took together.
async fn states_of<B: DemoTables>(
    pool: &Pool<B>,
    airports: &[String],
) -> Result<(BTreeMap<String, AirportState>, i64)> {
    let mut turns = 0;
    let mut states = BTreeMap::new();
    for airport in airports {
        let airport: Recipient = airport.parse()?;
        let at = eventbox::state::<AirportState>(pool, &airport).await?.context("an airport's state is gone")?;
        turns += at.turn;
        states.insert(airport.key().to_owned(), at.state.unwrap_or_default());
    }
    Ok((states, turns))
}

impl Found {
    /// What is not as the input says, in words.
    fn differences(&self, expected: &Figures) -> Vec<String> {
        let mut differences = self.figures.entity_differences(expected);
        if let Some(received) = &self.received {
            differences.extend(received.differences(&expected.keys));
        }
        let Leftovers { events, outbox, dead_letters } = self.leftovers;
        for (rows, what) in [
            (events, "events were not processed"),
            (outbox, "messages were not delivered"),
            (dead_letters, "dead letters"),
        ] {
            if rows > 0 {
                differences.push(format!("{rows} {what}"));
            }
        }
        differences
    }

    fn report(&self, input: &Input, expected: &Figures, shared: &Shared) -> Report {
        let Found { figures, progress, leftovers, .. } = self;
        // What another receiver got is known by what has left the outbox.
        let left_the_outbox = expected.keys.len() as i64 - leftovers.outbox - leftovers.dead_letters;
        Report {
            rows: input.rows,
            without_recipient: input.without_recipient,
            recipients: figures.aircraft.len() + figures.airports.len(),
            emitted: progress.emitted,
            resent: progress.resent,
            duplicates: progress.duplicates,
            turns: self.turns,
            events_consumed: figures.legs() + figures.cancelled() + figures.airport_events(),
            contention: shared.contention.load(Ordering::Relaxed),
            published: self.received.as_ref().map_or(left_the_outbox, |received| received.keys.len() as i64),
            ingress_duplicates: self.received.as_ref().map_or(0, |received| received.duplicates),
            dead_lettered: leftovers.dead_letters,
            legs: figures.legs(),
            cancelled: figures.cancelled(),
            delay_minutes: figures.delay_minutes(),
            airports: figures.airports.iter().map(|(code, airport)| (code.clone(), airport.events())).collect(),
            verified: false,
            seconds: 0.0,
        }
    }
}

/// What tells one input from another.
fn digest(input: &Input) -> String {
    let mut digest = Sha256::new();
    for flight in &input.flights {
        digest.update(format!("{flight:?}\n"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
