//! Compares the library with a simple model: random senders, re-sends, racing processors, processes that die between
//! any two statements, and names that the pruner forgets.
//!
//! To let a process die, the test drops a future after a number of polls. What the future had sent stays sent, and its
//! transaction is rolled back. `EVENTBOX_SEED` repeats a run; `EVENTBOX_CASES` sets its length.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::Poll;

use eventbox::{
    Emitted, Event, Mutation, Pruner, PrunerConfig, Recipient, SideEffect, Transition, dsset::DEFAULT_TOMBSTONE_DELAY,
};
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::support::{CellEngine, Cells, SOON, TestDb, create_cells, eventually, noting, on_every_engine};

/// Cases on each engine.
const CASES: u32 = 1_000;

/// Boxes and names are few, so that the actions collide.
const BOXES: u8 = 2;
const NAMES: u8 = 4;

#[derive(Debug, Clone)]
enum Step {
    /// One statement with these (box, name) pairs.
    Emit(Vec<(u8, Option<u8>)>),
    /// A transaction of the caller, with its outcome.
    EmitInTransaction { to: u8, name: Option<u8>, commits: bool },
    /// A sender that dies after some polls, and then sends again.
    DyingSender { to: u8, name: u8, polls: usize },
    /// Processors that race on a box; one of them may die after some polls.
    Process { to: u8, max_events: u32, racers: usize, dies_after: Option<usize> },
    /// Passes of the pruner, before and (when the delay passes) after the tombstone delay.
    Prune { delay_passes: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let name = || proptest::option::weighted(0.6, 0..NAMES);
    prop_oneof![
        3 => vec((0..BOXES, name()), 1..6).prop_map(Step::Emit),
        1 => (0..BOXES, name(), any::<bool>())
            .prop_map(|(to, name, commits)| Step::EmitInTransaction { to, name, commits }),
        1 => (0..BOXES, 0..NAMES, 0..6usize).prop_map(|(to, name, polls)| Step::DyingSender { to, name, polls }),
        3 => (0..BOXES, 1..5u32, 1..4usize, proptest::option::weighted(0.5, 0..30usize))
            .prop_map(|(to, max_events, racers, dies_after)| Step::Process { to, max_events, racers, dies_after }),
        1 => proptest::bool::weighted(0.7).prop_map(|delay_passes| Step::Prune { delay_passes }),
    ]
}

/// Facts that must hold in a case, whatever happened in it.
#[derive(Default)]
struct Model {
    /// Names that were accepted and are still remembered, per box.
    names: BTreeSet<(u8, u8)>,
    /// Events that were accepted, per box, in the order of their emits.
    accepted: BTreeMap<u8, Vec<String>>,
    emits: usize,
}

impl Model {
    /// Number of the next event. The value of an event is its number in the order of emits.
    fn next(&mut self, name: Option<u8>) -> (String, Event) {
        self.emits += 1;
        let value = format!("{:06}", self.emits);
        let event = Event::new(value.clone());
        (value, name.iter().fold(event, |event, name| event.named(format!("name-{name}"))))
    }

    /// Checks a result, and notes the accepted events.
    fn answered(&mut self, to: u8, name: Option<u8>, value: String, answer: Emitted) -> Result<(), TestCaseError> {
        let new = name.is_none_or(|name| self.names.insert((to, name)));
        prop_assert_eq!(answer == Emitted::Added, new, "box {}, name {:?}: {:?}", to, name, answer);
        if new {
            self.accepted.entry(to).or_default().push(value);
        }
        Ok(())
    }
}

struct Case<'a, B: CellEngine> {
    db: &'a TestDb<B>,
    number: u32,
    model: Model,
}

/// Polls a future a number of times, and then drops it.
async fn dying<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Consumes all events, which must be in order, counts them, and writes a note for each event.
fn taking_all<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|to, events, population| {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        if !events.is_sorted_by_key(|event| event.value().to_vec()) {
            return Err(format!("{to} is not listed in the order of its emits").into());
        }
        let notes = events.iter().map(|event| Some(noting(format!("{to} {}", String::from_utf8_lossy(event.value())))));
        let effect = SideEffect::chain(notes);
        Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
    })
}

impl<B: CellEngine> Case<'_, B> {
    fn to(&self, to: u8) -> Recipient {
        Recipient::new("model", format!("{}-{to}", self.number)).unwrap()
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Prune { delay_passes } => self.prune(delay_passes).await?,
            Step::Emit(list) => {
                let mut tx = eventbox::begin(&self.db.pool).await.unwrap();
                let planned: Vec<_> = list
                    .into_iter()
                    .map(|(to, name)| {
                        let (value, event) = self.model.next(name);
                        (to, name, value, (self.to(to), event))
                    })
                    .collect();
                let events: Vec<_> = planned.iter().map(|(.., event)| event.clone()).collect();
                let answers = B::emit_all(&mut tx, &events).await.unwrap();
                tx.commit().await.unwrap();
                for ((to, name, value, _), answer) in planned.into_iter().zip(answers) {
                    self.model.answered(to, name, value, answer)?;
                }
            }
            Step::EmitInTransaction { to, name, commits } => {
                let (value, event) = self.model.next(name);
                let mut tx = eventbox::begin(&self.db.pool).await.unwrap();
                let answer = B::emit_all(&mut tx, &[(self.to(to), event)]).await.unwrap()[0];
                if commits {
                    tx.commit().await.unwrap();
                    self.model.answered(to, name, value, answer)?;
                } else {
                    tx.rollback().await.unwrap();
                }
            }
            Step::DyingSender { to, name, polls } => {
                let (value, event) = self.model.next(Some(name));
                let recipient = self.to(to);
                let first = dying(polls, B::emit_on(&self.db.pool, &recipient, event.clone())).await;
                let again = B::emit_on(&self.db.pool, &recipient, event).await.unwrap();
                match first {
                    Some(answer) => self.model.answered(to, Some(name), value.clone(), answer.unwrap().emitted())?,
                    // The emit of the dead sender may have committed or not. In both cases the event is in the box
                    // once.
                    None if self.model.names.insert((to, name)) => {
                        self.model.accepted.entry(to).or_default().push(value);
                        return Ok(());
                    }
                    None => {}
                }
                prop_assert_ne!(again, Emitted::Added, "a name that is remembered was added again");
            }
            Step::Process { to, max_events, racers, dies_after } => {
                let (to, max_events) = (self.to(to), NonZeroU32::new(max_events).unwrap());
                let cells = taking_all::<B>();
                let turns = (0..racers).map(|racer| {
                    let turn = eventbox::process_batch(&self.db.pool, &to, &cells, max_events);
                    let polls = dies_after.filter(|_| racer == 0).unwrap_or(usize::MAX);
                    dying(polls, turn)
                });
                for turn in join_all(turns).await.into_iter().flatten() {
                    if let Err(error) = turn {
                        prop_assert!(error.is_contention(), "{}: {:?}", error, std::error::Error::source(&error));
                    }
                }
            }
        }
        Ok(())
    }

    /// The pruner forgets no name before the delay has passed, and after it exactly the names whose events are gone.
    async fn prune(&mut self, delay_passes: bool) -> Result<(), TestCaseError> {
        // Statements of a dead process may still run. A connection that is back in its pool runs none.
        eventually(SOON, async || self.db.pool.num_idle() as u32 == self.db.pool.size()).await;
        let pruner = Pruner::new(self.db.pool.clone(), PrunerConfig::default());
        pruner.run_once().await.unwrap();
        if delay_passes {
            let delay_us = DEFAULT_TOMBSTONE_DELAY.as_micros() + 1;
            self.db.run(format_args!("UPDATE eventbox_tombstone SET gone_at_us = gone_at_us - {delay_us}")).await;
            pruner.run_once().await.unwrap();
            let living = self.names_in("eventbox_event").await;
            self.model.names.retain(|name| living.contains(name));
        }
        prop_assert_eq!(&self.names_in("eventbox_tombstone").await, &self.model.names);
        Ok(())
    }

    /// Returns the names of this case that a table holds.
    async fn names_in(&self, table: &str) -> BTreeSet<(u8, u8)> {
        let mut names = BTreeSet::new();
        for to in 0..BOXES {
            let query = format!("SELECT name FROM {table} WHERE name IS NOT NULL AND recipient = '{}'", self.to(to));
            let found = self.db.texts(query).await;
            names.extend(found.iter().map(|name| (to, name.trim_start_matches("name-").parse::<u8>().unwrap())));
        }
        names
    }

    /// Drains the boxes and compares: every accepted event took effect once, in turns without a gap.
    async fn verify(&self) -> Result<(), TestCaseError> {
        for to in 0..BOXES {
            let recipient = self.to(to);
            let cells = taking_all::<B>();
            let seven = NonZeroU32::new(7).unwrap();
            while eventbox::process_batch(&self.db.pool, &recipient, &cells, seven).await.unwrap().more_remain {}

            let accepted = self.model.accepted.get(&to).cloned().unwrap_or_default();
            let wanted: Vec<String> = accepted.iter().map(|value| format!("{recipient} {value}")).collect();
            let mut effects =
                self.db.texts(format_args!("SELECT text FROM effect WHERE text LIKE '{recipient} %' ORDER BY n")).await;
            effects.sort();
            prop_assert_eq!(effects, wanted);
            let (population, eversion) =
                B::load(&mut *self.db.pool.acquire().await.unwrap(), recipient.as_str()).await.unwrap();
            prop_assert_eq!(population, accepted.len() as i64);
            let turn = format!("SELECT COALESCE(max(turn), 0) FROM eventbox_state WHERE recipient = '{recipient}'");
            prop_assert_eq!(self.db.number(turn).await, eversion, "a turn without a state, or a state without a turn");
        }
        Ok(())
    }
}

on_every_engine! {
    async fn the_model_holds(db) {
        create_cells(db).await;
        let seed: u64 =
            std::env::var("EVENTBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        let cases = std::env::var("EVENTBOX_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
        println!("EVENTBOX_SEED={seed} repeats this run");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let number = std::cell::Cell::new(0);
        let runtime = tokio::runtime::Handle::current();
        let outcome = tokio::task::block_in_place(|| {
            TestRunner::new_with_rng(config, rng).run(&vec(step(), 1..12), |steps| {
                number.set(number.get() + 1);
                let mut case = Case { db, number: number.get(), model: Model::default() };
                runtime.block_on(async {
                    for step in steps {
                        case.take(step).await?;
                    }
                    case.verify().await
                })
            })
        });
        if let Err(error) = outcome {
            panic!("EVENTBOX_SEED={seed}: {error}");
        }
    }
}
