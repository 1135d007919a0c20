//! W6: neither a growing backlog nor an old snapshot under long load may slow down the rest.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eventbox::Event;
use eventbox::runtime::Runtime;
use sqlx::Pool;

use super::HANG_GUARD;
use super::drains::until_consumed;
use super::engine::{Engine, Key};
use super::entities::Counter;
use super::load::{self, CONNECTIONS, Values, any, fill, keys};
use super::measure::{Bench, Line, Sample, median, ratio};
use super::plot::Curve;
use super::spec::{Spec, Unit};

/// Number of connections and of tasks that emit, if the engine has many writers.
const EMITTERS: u32 = 16;

/// Number of recipients of the emits.
const RECIPIENTS: usize = 1_000;

/// Maximum number of events in a timed turn.
const TURN_EVENTS: u32 = 10;

/// Number of turns before the timed ones.
const WARM_UP_TURNS: usize = 10;

/// Number of events that the soak emits at a time.
const SOAK_BATCH: usize = 500;
const SOAK_PAUSE: Duration = Duration::from_millis(250);

/// Number of pending events up to which every round starts with exactly that many.
const REFILLED: i64 = 100_000;

/// Returns the figures of each point.
fn units() -> [Unit; 5] {
    [
        Unit::high("events/s, emitted to others"),
        Unit::high("events/s, emitted into the same box"),
        Unit::high("events/s, drained beside them"),
        Unit::low("ms, one turn beside them"),
        Unit::low("ms, one turn of the same box"),
    ]
}

/// The figures of one point, one for each unit.
struct Point {
    figures: Vec<f64>,
    verified: bool,
}

/// Measures W6: the curve, then the soak.
pub(crate) async fn growth<B: Engine>(bench: &Bench<'_, B>) -> Result<(Vec<Line>, Vec<Curve>)> {
    let spec = Spec { workload: "W6", variant: None, units: units().into() };
    let mut points = Vec::new();
    for pending in &bench.scale.pending {
        bench.progress.at(&spec, B::ID, 1, &format!("{pending} pending"));
        points.push((*pending, point(bench, *pending).await?));
    }
    let curves = units().into_iter().enumerate().map(|(place, unit)| Curve {
        engine: B::ID,
        unit: unit.text,
        points: points.iter().filter_map(|(pending, point)| Some((*pending, *point.figures.get(place)?))).collect(),
    });
    let curves = curves.collect();
    let mut lines = Vec::new();
    if let Some(((_, first), rest)) = points.split_first() {
        for (pending, point) in rest {
            lines.extend(against(bench, first, point, bench.scale.rounds, &format!("{pending} pending")));
        }
    }
    bench.progress.at(&spec, B::ID, 1, "soak");
    lines.extend(soak(bench).await?);
    Ok((lines, curves))
}

fn against<B: Engine>(_: &Bench<'_, B>, first: &Point, then: &Point, rounds: usize, what: &str) -> Vec<Line> {
    let line = |(unit, (first_figure, figure)): (Unit, (&f64, &f64))| Line {
        workload: "W6",
        variant: None,
        engine: B::ID,
        unit: format!("{}, {what}", unit.text),
        ours: *figure,
        yardstick: *first_figure,
        ratio: ratio(*figure, *first_figure, unit.better),
        rounds,
        verified: first.verified && then.verified,
        cost: super::measure::Costs::default(),
    };
    units().into_iter().zip(first.figures.iter().zip(&then.figures)).map(line).collect()
}

/// Measures one point: `pending` events in other eventboxes, and as many in each of the two measured eventboxes.
async fn point<B: Engine>(bench: &Bench<'_, B>, pending: i64) -> Result<Point> {
    let mut rounds = Vec::new();
    for round in 0..bench.scale.rounds {
        // The leftovers of a round matter only next to a small backlog.
        if round == 0 || pending <= REFILLED {
            bench.clear().await?;
            B::park(&bench.admin, pending, None).await.context("fill other boxes")?;
            for full in Full::boxes()? {
                B::park(&bench.admin, pending, Some(&full)).await.context("fill one box")?;
            }
        }
        rounds.push(figures(bench).await?);
    }
    let figure = |place: usize| median(rounds.iter().filter_map(|round| round.figures.get(place).copied()));
    Ok(Point { figures: (0..units().len()).map(figure).collect(), verified: rounds.iter().all(|round| round.verified) })
}

/// The long eventboxes. One serves turns and the other serves emits, so emits do not lengthen the first.
struct Full;

impl Full {
    fn boxes() -> Result<[Key; 2]> {
        Ok([Key::new("full", 0)?, Key::new("full", 1)?])
    }
}

async fn figures<B: Engine>(bench: &Bench<'_, B>) -> Result<Point> {
    let before = B::reducer_sums(&bench.admin).await?;
    let [for_turns, for_emits] = Full::boxes()?;
    let pool = bench.open(emitters::<B>()).await?;
    bench.begin().await?;
    let same = turns(bench, &[for_turns]).await?;
    let beside = turns(bench, &keys("turn", bench.scale.growth_turns)?).await?;
    let (drained, verified) = drained(bench).await?;
    let (to_others, others) = emits(bench, &pool, keys("other", RECIPIENTS)?).await?;
    let (to_same, same_box) = emits(bench, &pool, Arc::new(vec![for_emits])).await?;
    pool.close().await;
    let left = B::reducer_sums(&bench.admin).await?.left - before.left;
    let verified = verified && usize::try_from(left) == Ok(others + same_box);
    Ok(Point { figures: vec![to_others, to_same, drained, beside, same], verified })
}

/// Returns the number of emitting tasks. With one writer, waiting tasks would hide the effect of the table's size.
fn emitters<B: Engine>() -> u32 {
    if B::WRITES_ALONE { 1 } else { EMITTERS }
}

/// Returns the rate of the emits and their number.
async fn emits<B: Engine>(bench: &Bench<'_, B>, pool: &Pool<B>, keys: Arc<Vec<Key>>) -> Result<(f64, usize)> {
    let (shared, values, since) = (pool.clone(), Values::get(), Instant::now());
    let emitted = load::repeat(emitters::<B>() as usize, bench.scale.growth_emit_for, move || {
        let (pool, keys) = (shared.clone(), Arc::clone(&keys));
        async move { Ok(B::emit(&pool, &any(&keys)?.to, Event::new(values.any().to_vec())).await?) }
    });
    let emitted = emitted.await?;
    let sample = Sample::rate(emitted, (since.elapsed().as_secs_f64(), None), true);
    Ok((median(sample.figures), emitted))
}

/// Returns the drain rate of eventboxes of another kind, and whether their sum is right.
async fn drained<B: Engine>(bench: &Bench<'_, B>) -> Result<(f64, bool)> {
    let (events, recipients) = bench.scale.growth_drained;
    let keys = keys("order", recipients)?;
    let before = B::reducer_sums(&bench.admin).await?;
    fill(&bench.admin, &keys, events).await?;
    let pool = bench.open(CONNECTIONS).await?;
    let watch = bench.begin().await?;
    let builder = Runtime::builder(pool.clone()).reducer("order", Counter);
    until_consumed(builder, events).await?;
    let measured = bench.end(watch, events, &[&pool]).await?;
    let after = B::reducer_sums(&bench.admin).await?;
    let verified = after.counted - before.counted == i64::try_from(events)? && after.left == before.left;
    let sample = Sample::rate(events, measured, verified);
    Ok((median(sample.figures), verified))
}

/// Returns the median time of a turn of these recipients in milliseconds.
async fn turns<B: Engine>(bench: &Bench<'_, B>, keys: &[Key]) -> Result<f64> {
    // One connection: the first turns prepare its statements.
    let pool = &bench.open(1).await?;
    let max = NonZeroU32::new(TURN_EVENTS).unwrap_or(NonZeroU32::MIN);
    let values = Values::get();
    let mut times = Vec::with_capacity(bench.scale.growth_turns);
    for key in keys.iter().cycle().take(WARM_UP_TURNS + bench.scale.growth_turns) {
        // Emits as many events as the turn consumes, so that the eventbox keeps its length.
        let event = || (key.to.clone(), Event::new(values.any().to_vec()));
        B::emit_all(pool, &std::iter::repeat_with(event).take(max.get() as usize).collect::<Vec<_>>()).await?;
        let since = Instant::now();
        let _ = eventbox::reduce_batch(pool, &key.to, &Counter, max).await?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    pool.close().await;
    Ok(median(times.into_iter().skip(WARM_UP_TURNS)))
}

/// Runs a steady load while an older transaction stays open. Compares the figures after the load with those before.
async fn soak<B: Engine>(bench: &Bench<'_, B>) -> Result<Vec<Line>> {
    bench.clear().await?;
    let before = figures(bench).await?;
    let reader = bench.place.open(1, false).await?;
    let mut snapshot = reader.acquire().await?;
    B::open_snapshot(&mut snapshot).await.context("open a transaction and leave it")?;
    let (keys, counted_before) = (keys("order", RECIPIENTS)?, B::reducer_sums(&bench.admin).await?.counted);
    let pool = bench.place.open(CONNECTIONS, false).await?;
    let runtime = Runtime::builder(pool.clone());
    let runtime = runtime.reducer("order", Counter).start().await?;
    let (since, mut sent) = (Instant::now(), 0);
    while since.elapsed() < bench.scale.soak_for {
        load::emit_batches(&pool, &keys, SOAK_BATCH, SOAK_BATCH, 1).await?;
        sent += SOAK_BATCH;
        let (soaked, of) = (since.elapsed().as_secs(), bench.scale.soak_for.as_secs());
        bench.progress.say(format!("W6 on {}: soaked for {soaked} s of {of} s", B::ID));
        tokio::time::sleep(SOAK_PAUSE).await;
    }
    let wanted = counted_before + i64::try_from(sent)?;
    while B::reducer_sums(&bench.admin).await?.counted < wanted && since.elapsed() < bench.scale.soak_for + HANG_GUARD {
        tokio::time::sleep(SOAK_PAUSE).await;
    }
    runtime.stop(HANG_GUARD).await;
    pool.close().await;
    let verified = B::reducer_sums(&bench.admin).await?.counted == wanted;
    let after = figures(bench).await?;
    drop(snapshot.detach());
    reader.close().await;
    let after = Point { verified: after.verified && verified, ..after };
    let soaked = match (bench.scale.soak_for.as_secs_f64(), bench.scale.soak_for.as_secs() / 60) {
        (seconds, 0) => format!("{seconds:.1} s"),
        (_, minutes) => format!("{minutes} min"),
    };
    Ok(against(bench, &before, &after, 1, &format!("after {soaked} with an open transaction")))
}
