//! One run: sends, works and delivers at once, then compares.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Instant;

use anyhow::{Context, Result};
use eventbox::Recipient;
use eventbox::admin::{self, Audit};
use sha2::{Digest, Sha256};
use sqlx::Pool;

use super::bars::{Bars, LOOK_EVERY};
use super::crew::Crew;
use super::database::{self, Target};
use super::expected::Figures;
use super::flights::Input;
use super::publish::{Received, Receiver};
use super::report::{ProcessReport, Report, Surroundings};
use super::tables::{AirportState, DemoTables, Leftovers, Progress, Share};
use super::{Args, send, shows_progress, wait};

/// Runs the demo on an open database. Cleans up after a verified run, unless the database is kept.
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
        step_events: send::step_events(args.rate),
        ..Progress::default()
    };
    let progress = database::prepare(&pool, wanted, args.resume).await?;
    let ingress_store = PathBuf::from(&progress.ingress_store);

    let receiver = Receiver::start(args.ingress.as_deref(), &ingress_store).await?;
    let bars = Bars::new(shows_progress(args), input.flights.len(), expected.keys.len());
    let crew = Crew::new(args, &pool, &target, &receiver.endpoint(), &bars).await?;
    let worked = work_and_watch(args, input, &pool, &crew, &bars).await;
    bars.clear();
    worked?;

    let found = collect(&pool, &receiver).await?;
    receiver.stop().await;
    let differences = found.differences(&expected);
    let mut report = found.report(input, &expected, &crew);
    report.verified = differences.is_empty();

    let keep = args.keep || !report.verified;
    let tally = crew.tally();
    let around = Surroundings {
        data: keep.then(|| target.to_string()),
        messages: args.ingress.clone().or(keep.then_some(progress.ingress_store)),
        messages_checked: args.ingress.is_none(),
        differences,
        consumed_now: tally.consumed,
        turns_now: tally.turns,
        elapsed: started.elapsed(),
    };
    report.seconds = (around.elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0;
    match keep {
        true => target.keep(),
        false => database::remove(&pool, target, &ingress_store).await?,
    }
    Ok((report, around))
}

/// Runs the sender and the workers until all events are sent, processed and delivered, and the workers have ended.
async fn work_and_watch<B: DemoTables>(
    args: &Args,
    input: &Input,
    pool: &Pool<B>,
    crew: &Crew<B>,
    bars: &Bars,
) -> Result<()> {
    let watched = async {
        loop {
            let tally = crew.tally();
            bars.processed.set_position(tally.consumed);
            bars.published.set_position(tally.delivered);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let worked = async {
        crew.share_fairly().await;
        send::run(pool, &input.flights, args.rate, |sent| bars.sent.set_position(sent as u64)).await?;
        wait::until_done(pool, || crew.tally()).await
    };
    let mut running = pin!(crew.run());
    let worked = tokio::select! {
        worked = worked => worked,
        ended = &mut running => return ended,
        () = watched => Ok(()),
    };
    crew.end();
    running.await?;
    worked
}

/// The data at the end of a run.
struct Found {
    figures: Figures,
    progress: Progress,
    aircraft_turns: i64,
    airport_turns: i64,
    leftovers: Leftovers,
    /// Work of each process for the aircraft.
    shares: BTreeMap<u32, Share>,
    /// Audits of the journals of the aircraft and of the airports.
    audits: [Audit; 2],
    /// Messages that the built-in ingress received.
    received: Option<Received>,
}

async fn collect<B: DemoTables>(pool: &Pool<B>, receiver: &Receiver) -> Result<Found> {
    let mut conn = pool.acquire().await.context("read the result")?;
    let (aircraft, aircraft_turns) = B::all_aircraft(&mut conn).await.context("read the aircraft")?;
    let airports = B::airports(&mut conn).await.context("read the airports")?;
    let progress = B::load_progress(&mut conn).await.context("read the sender's progress")?.unwrap_or_default();
    let leftovers = B::leftovers(&mut conn).await.context("count the remaining rows")?;
    let shares = B::shares(&mut conn).await.context("read the shares of the processes")?;
    drop(conn);
    let (airports, airport_turns) = states_of(pool, &airports).await.context("read the airports")?;
    let figures = Figures { aircraft, airports, ..Figures::default() };
    let audits = [
        admin::audit_kind(pool, "aircraft").await.context("audit the aircraft")?,
        admin::audit_kind(pool, "airport").await.context("audit the airports")?,
    ];
    let received = receiver.received().await?;
    Ok(Found { figures, progress, aircraft_turns, airport_turns, leftovers, shares, audits, received })
}

/// Reads the airports' states that the library keeps, and the sum of their turns.
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
    /// Describes the differences to the input.
    fn differences(&self, expected: &Figures) -> Vec<String> {
        let mut differences = self.figures.entity_differences(expected);
        if let Some(received) = &self.received {
            differences.extend(received.differences(&expected.keys));
        }
        let consumed = self.figures.legs() + self.figures.cancelled();
        let (events, turns) = self.shares.values().fold((0, 0), |(e, t), share| (e + share.events, t + share.turns));
        if (events, turns) != (consumed, self.aircraft_turns) {
            differences.push(format!(
                "the shares of the processes are {events} events in {turns} turns, \
                 the aircraft consumed {consumed} in {}",
                self.aircraft_turns
            ));
        }
        let [aircraft, airports] = &self.audits;
        differences.extend(audit_difference("aircraft", aircraft, consumed));
        differences.extend(audit_difference("airports", airports, self.figures.airport_events()));
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

    fn report<B: DemoTables>(&self, input: &Input, expected: &Figures, crew: &Crew<B>) -> Report {
        let Found { figures, progress, leftovers, .. } = self;
        // Another receiver's messages are counted as those that left the outbox.
        let left_the_outbox = expected.keys.len() as i64 - leftovers.outbox - leftovers.dead_letters;
        Report {
            rows: input.rows,
            without_recipient: input.without_recipient,
            recipients: figures.aircraft.len() + figures.airports.len(),
            emitted: progress.emitted,
            resent: progress.resent,
            duplicates: progress.duplicates,
            turns: self.aircraft_turns + self.airport_turns,
            events_consumed: figures.legs() + figures.cancelled() + figures.airport_events(),
            contention: i64::try_from(crew.tally().contention).unwrap_or(i64::MAX),
            published: self.received.as_ref().map_or(left_the_outbox, |received| received.keys.len() as i64),
            ingress_duplicates: self.received.as_ref().map_or(0, |received| received.duplicates),
            dead_lettered: leftovers.dead_letters,
            legs: figures.legs(),
            cancelled: figures.cancelled(),
            delay_minutes: figures.delay_minutes(),
            airports: figures.airports.iter().map(|(code, airport)| (code.clone(), airport.events())).collect(),
            verified: false,
            seconds: 0.0,
            processes: self.processes(&crew.restarts()),
        }
    }

    /// Returns the processes of this run, and those of earlier runs on the same database.
    fn processes(&self, restarts: &[u32]) -> Vec<ProcessReport> {
        let mut restarted: BTreeMap<u32, u32> = self.shares.keys().map(|process| (*process, 0)).collect();
        restarted.extend((1..).zip(restarts.iter().copied()));
        let report = |(process, restarts)| {
            let Share { events, turns } = self.shares.get(&process).copied().unwrap_or_default();
            ProcessReport { process, events, turns, restarts }
        };
        restarted.into_iter().map(report).collect()
    }
}

/// Describes the difference between a journal and the number of events that were consumed by the sums.
fn audit_difference(of: &str, audit: &Audit, consumed: i64) -> Option<String> {
    let is_right = audit.is_conserved() && i64::try_from(audit.consumed) == Ok(consumed);
    (!is_right).then(|| {
        format!(
            "the journal says that the {of} consumed {} events, and their sums say {consumed}; {} events are unknown, \
             {} are in two places",
            audit.consumed, audit.unknown, audit.twice
        )
    })
}

/// Returns a digest that identifies the input.
fn digest(input: &Input) -> String {
    let mut digest = Sha256::new();
    for flight in &input.flights {
        digest.update(format!("{flight:?}\n"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
