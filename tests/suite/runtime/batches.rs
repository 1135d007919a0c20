//! The methods of a processor for many recipients, the states that rounds keep, and kinds without rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, EVersion, Event, Mutation, Processor, Recipient, SideEffect, Transition};

use super::processor_rounds::{
    CELLS, all_but_one_have_grown, cell, deciding, drained, fill, growing, isolating_rounds, population, quiet, run,
};
use super::{STOP, emit_all, leases, one_round};
use crate::support::{CellEngine, Cells, SOON, create_cells, eventually, on_every_engine};

/// Counts the calls of the methods for many recipients.
#[derive(Default)]
struct Batches {
    loads: AtomicUsize,
    fetches: AtomicUsize,
    saves: AtomicUsize,
    /// Whether the loads leave out a state.
    are_short: bool,
}

impl Batches {
    fn calls(&self) -> [usize; 3] {
        [&self.loads, &self.fetches, &self.saves].map(|calls| calls.load(Ordering::SeqCst))
    }
}

/// Cells that a test looks at while a runtime has them.
struct Watched<B: CellEngine> {
    cells: Arc<Cells<B>>,
    /// Whether they have the methods for many recipients.
    batches: Option<Arc<Batches>>,
}

impl<B: CellEngine> Watched<B> {
    fn of(cells: &Arc<Cells<B>>) -> Self {
        Watched { cells: Arc::clone(cells), batches: None }
    }

    fn batched(cells: &Arc<Cells<B>>, batches: &Arc<Batches>) -> Self {
        Watched { batches: Some(Arc::clone(batches)), ..Watched::of(cells) }
    }
}

impl<B: CellEngine> Processor<B> for Watched<B> {
    type State = i64;

    fn kept_bytes(&self, _population: &i64) -> Option<usize> {
        Some(8)
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        self.cells.load_state(conn, to).await
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        self.cells.prepare_mutation(to, events, population).await
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        self.cells.fetch_eversion(tx, to).await
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        self.cells.save_state(tx, to, population, eversion).await
    }

    async fn load_states(
        &self,
        conn: &mut B::Connection,
        of: &[Recipient],
    ) -> Result<Option<Vec<(i64, EVersion)>>, BoxError> {
        let Some(batches) = &self.batches else { return Ok(None) };
        batches.loads.fetch_add(1, Ordering::SeqCst);
        let mut states = Vec::new();
        for to in of.iter().skip(usize::from(batches.are_short)) {
            let (population, eversion) = B::load(conn, to.as_str()).await?;
            states.push((population, EVersion(eversion)));
        }
        Ok(Some(states))
    }

    async fn fetch_eversions(
        &self,
        tx: &mut B::Connection,
        of: &[Recipient],
    ) -> Result<Option<Vec<EVersion>>, BoxError> {
        let Some(batches) = &self.batches else { return Ok(None) };
        batches.fetches.fetch_add(1, Ordering::SeqCst);
        let mut versions = Vec::new();
        for to in of {
            versions.push(EVersion(B::load(tx, to.as_str()).await?.1));
        }
        Ok(Some(versions))
    }

    async fn save_states(
        &self,
        tx: &mut B::Connection,
        states: &[(&Recipient, &i64, EVersion)],
    ) -> Result<bool, BoxError> {
        let Some(batches) = &self.batches else { return Ok(false) };
        batches.saves.fetch_add(1, Ordering::SeqCst);
        for (to, population, eversion) in states {
            B::save(tx, to.as_str(), **population, eversion.0).await?;
        }
        Ok(true)
    }
}

/// Cannot load one cell.
struct FailingLoad<B: CellEngine> {
    cells: Cells<B>,
    fails: Recipient,
}

impl<B: CellEngine> Processor<B> for FailingLoad<B> {
    type State = i64;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        match *to == self.fails {
            true => Err("it cannot be loaded".into()),
            false => self.cells.load_state(conn, to).await,
        }
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        self.cells.prepare_mutation(to, events, population).await
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        self.cells.fetch_eversion(tx, to).await
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        self.cells.save_state(tx, to, population, eversion).await
    }
}

/// Returns settings with a single scan, which finds all recipients that there are at the start.
pub(super) fn one_scan() -> RuntimeConfig {
    let (mut config, never) = (one_round(), Duration::from_secs(3_600));
    (config.leases, config.poll_interval, config.min_poll_interval) = (None, never, never);
    config
}

on_every_engine! {
    /// All recipients that wait have one round: one load, one version, one save for each.
    async fn recipients_share_a_round(db) {
        fill(db).await;
        let cells = Arc::new(growing::<Engine>());
        let stats = run(db, Watched::of(&cells), one_scan(), async || drained(db).await).await;
        assert_eq!((stats.rounds, stats.turns, stats.contention), (1, CELLS as u64, 0), "{stats:?}");
        let calls = [&cells.loads, &cells.fetches, &cells.saves].map(|calls| calls.load(Ordering::SeqCst));
        assert_eq!(calls, [CELLS; 3]);
        all_but_one_have_grown(db, CELLS).await;
    }

    /// As many decisions of a round run at the same time as there are workers.
    async fn decisions_of_a_round_run_beside_each_other(db) {
        fill(db).await;
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (highest, meets) = (Arc::clone(&most), Arc::new(tokio::sync::Barrier::new(3)));
        let cells = growing::<Engine>().before_deciding(move |_| {
            let (inside, highest, meets) = (Arc::clone(&now), Arc::clone(&highest), Arc::clone(&meets));
            async move {
                highest.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                meets.wait().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        });
        let mut config = one_scan();
        config.workers = 3.try_into().unwrap();
        let stats = run(db, cells, config, async || drained(db).await).await;
        assert_eq!((stats.rounds, most.load(Ordering::SeqCst)), (1, 3), "{stats:?}");
        all_but_one_have_grown(db, CELLS).await;
    }

    /// A state that cannot be loaded fails its recipient alone.
    async fn a_load_that_fails_delays_nobody(db) {
        fill(db).await;
        let failing = FailingLoad { cells: growing::<Engine>(), fails: cell(3) };
        let left = async || db.count("eventbox_event").await == 1;
        let failed = async || db.count("eventbox_failure").await == 1;
        run(db, failing, isolating_rounds(1_000), async || left().await && failed().await).await;
        all_but_one_have_grown(db, 3).await;
    }

    /// A kind that commits alone has no rounds.
    async fn a_kind_that_commits_alone_has_turns(db) {
        fill(db).await;
        let stats = run(db, growing::<Engine>().alone(), one_round(), async || drained(db).await).await;
        assert_eq!((stats.rounds, stats.turns), (0, CELLS as u64), "{stats:?}");
        all_but_one_have_grown(db, CELLS).await;
    }

    /// Each method for many recipients is called once a round. The versions are read once more behind side effects.
    async fn methods_for_many_are_called_once_a_round(db) {
        for (cells, fetches) in [(quiet::<Engine>(), 1), (growing::<Engine>(), 2)] {
            db.run("DROP TABLE IF EXISTS cell").await;
            db.run("DROP TABLE IF EXISTS effect").await;
            fill(db).await;
            let (cells, batches) = (Arc::new(cells), Arc::new(Batches::default()));
            let stats = run(db, Watched::batched(&cells, &batches), one_scan(), async || drained(db).await).await;
            assert_eq!((stats.rounds, stats.turns, stats.contention), (1, CELLS as u64, 0), "{stats:?}");
            assert_eq!(batches.calls(), [1, fetches, 1]);
            let singly = [&cells.loads, &cells.fetches, &cells.saves].map(|calls| calls.load(Ordering::SeqCst));
            assert_eq!(singly, [0; 3]);
            assert_eq!(db.number("SELECT CAST(sum(population) AS BIGINT) FROM cell").await, CELLS as i64);
            db.run("DELETE FROM eventbox_state").await;
        }
    }

    /// A side effect writes the entity of another recipient of the round, and moves its version. The write is not lost,
    /// with the methods for many recipients and without them.
    async fn a_write_on_another_entity_of_the_round_is_not_lost(db) {
        for has_batches in [false, true] {
            db.run("DROP TABLE IF EXISTS cell").await;
            db.run("DROP TABLE IF EXISTS effect").await;
            fill(db).await;
            // The rows exist, so that a transaction beside the round can lock them.
            for n in 0..CELLS {
                let key = cell(n);
                db.run(format_args!("INSERT INTO cell (key, population, eversion) VALUES ('{key}', 0, 0)")).await;
            }
            // The cells before and behind this one in the round are written.
            let meddling = deciding::<Engine, _>(|to, events, population| {
                let grown = Transition::to(population + events.len() as i64).consuming(events);
                if *to != cell(6) {
                    return Ok(grown.into());
                }
                let effect = SideEffect::new(|tx| {
                    Box::pin(async move {
                        for other in (0..CELLS).filter(|other| *other != 6) {
                            let (population, eversion) = Engine::load(&mut *tx, cell(other).as_str()).await?;
                            Engine::save(&mut *tx, cell(other).as_str(), population + 1_000, eversion + 1).await?;
                        }
                        Ok(())
                    })
                });
                Ok(grown.side_effect(effect).into())
            });
            let (cells, batches) = (Arc::new(meddling), Arc::new(Batches::default()));
            let batches = has_batches.then_some(batches);
            let watched = Watched { batches, ..Watched::of(&cells) };
            run(db, watched, one_round(), async || drained(db).await).await;
            for n in 0..CELLS {
                assert_eq!(population(db, n).await, if n == 6 { 1 } else { 1_001 }, "{n}, {has_batches}");
            }
            db.run("DELETE FROM eventbox_state").await;
        }
    }

    /// A kept state that decides nothing is loaded again, because the entity may have changed since: in a turn of one
    /// recipient and in a round of many.
    async fn a_kept_state_that_decides_nothing_is_loaded_again(db) {
        for count in [1, CELLS] {
            db.run("DROP TABLE IF EXISTS cell").await;
            db.run("DROP TABLE IF EXISTS effect").await;
            create_cells(db).await;
            let patient = deciding::<Engine, _>(|_, events, population| {
                let may_grow = population >= 10 || events.iter().all(|event| event.value() == b"x");
                let grown = Transition::to(population + events.len() as i64).consuming(events);
                Ok(if may_grow { grown.into() } else { Mutation::none() })
            });
            let watched = Watched::of(&Arc::new(patient));
            let builder = Runtime::builder(db.open(6)).processor("cell", watched).config(one_round());
            let runtime = builder.start().await.unwrap();
            let all = |value: &str| (0..count).map(|n| (cell(n), Event::new(value.to_owned()))).collect::<Vec<_>>();
            emit_all(db, &all("x")).await;
            eventually(SOON, async || drained(db).await).await;
            db.run("UPDATE cell SET population = 10, eversion = eversion + 1").await;
            emit_all(db, &all("when ready")).await;
            eventually(SOON, async || drained(db).await).await;
            for n in 0..count {
                assert_eq!(population(db, n).await, 11, "{n} of {count}");
            }
            assert!(runtime.stop(STOP).await.complete);
            db.run("DELETE FROM eventbox_state").await;
        }
    }

    /// A wrong number of states is no reason to mix them up: each recipient gets a turn of its own.
    async fn a_wrong_number_of_states_is_refused(db) {
        fill(db).await;
        let (cells, batches) = (Arc::new(growing::<Engine>()), Arc::new(Batches { are_short: true, ..Batches::default() }));
        let stats = run(db, Watched::batched(&cells, &batches), one_round(), async || drained(db).await).await;
        assert_eq!((stats.turns, stats.failures), (CELLS as u64, 0), "{stats:?}");
        all_but_one_have_grown(db, CELLS).await;
    }

    /// A round leaves states for the next round, which loads none.
    async fn states_are_kept_from_round_to_round(db) {
        create_cells(db).await;
        let mut config = one_round();
        config.leases = Some(leases());
        let cells = Arc::new(growing::<Engine>());
        let builder = Runtime::builder(db.open(6)).processor("cell", Watched::of(&cells)).config(config);
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let first: Vec<_> = (0..CELLS).map(|n| (cell(n), Event::new("x"))).collect();
        emit_all(db, &first).await;
        eventually(SOON, async || runtime.stats().turns == CELLS as u64).await;
        let loads = cells.loads.load(Ordering::SeqCst);
        let again: Vec<_> = (0..CELLS).map(|n| (cell(n), Event::new("y"))).collect();
        emit_all(db, &again).await;
        eventually(SOON, async || runtime.stats().turns == 2 * CELLS as u64).await;
        assert_eq!(cells.loads.load(Ordering::SeqCst), loads);

        // Another writer moves a version: the kept state is not used.
        let (population, eversion) = Engine::load(&mut db.pool.acquire().await.unwrap(), cell(1).as_str()).await.unwrap();
        Engine::save(&mut db.pool.acquire().await.unwrap(), cell(1).as_str(), population + 50, eversion + 1).await.unwrap();
        emit_all(db, &again).await;
        eventually(SOON, async || runtime.stats().turns == 3 * CELLS as u64).await;
        runtime.stop(STOP).await;
        for n in 0..CELLS {
            let its = db.number(format_args!("SELECT population FROM cell WHERE key = '{}'", cell(n))).await;
            assert_eq!(its, if n == 1 { 53 } else { 3 }, "{n}");
        }
    }
}
