//! Compares sources with a simple model: readers that race, die at any poll, fail, and end at boundaries of rounds, and
//! checkpoints that are moved back and forward.
//!
//! `EVENTBOX_SEED` repeats a run; `EVENTBOX_CASES` sets its length.

use std::pin::pin;
use std::task::Poll;

use eventbox::Recipient;
use eventbox::admin::Operator;
use eventbox::source::{SourceError, drain};
use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::{Item, Lists, config, values};
use crate::support::{TestDb, TestEngine, on_every_engine};

/// Cases on each engine.
const CASES: u32 = 300;

const PARTITIONS: usize = 2;

const RECIPIENTS: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    /// A partition grows.
    Grow { partition: usize, events: usize },
    /// Processes that read at once. The first ones die after some polls, and a later step reads what they left.
    Read { racers: usize, die_after: Vec<usize>, round: usize, page: usize, readers: Readers },
    /// An operator moves a checkpoint back, so that the events behind it are wanted again.
    Back { partition: usize, to: usize },
    /// A partition grows, and an operator moves its checkpoint behind the new events, which are not wanted.
    Skip { partition: usize, events: usize },
}

/// What the readers of a step do after a number of pages.
#[derive(Debug, Clone, Copy)]
enum Readers {
    ReadOn,
    /// They end at a boundary of rounds.
    End(usize),
    Fail(usize),
}

fn readers() -> impl Strategy<Value = Readers> {
    prop_oneof![
        2 => Just(Readers::ReadOn),
        1 => (1..4usize).prop_map(Readers::End),
        1 => (0..4usize).prop_map(Readers::Fail),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PARTITIONS, 1..12usize).prop_map(|(partition, events)| Step::Grow { partition, events }),
        6 => (1..4usize, vec(0..40usize, 0..3), 1..6usize, 1..4usize, readers()).prop_map(
            |(racers, die_after, round, page, readers)| Step::Read { racers, die_after, round, page, readers }
        ),
        1 => (0..PARTITIONS, 0..10usize).prop_map(|(partition, to)| Step::Back { partition, to }),
        1 => (0..PARTITIONS, 1..5usize).prop_map(|(partition, events)| Step::Skip { partition, events }),
    ]
}

struct Case<'a, B: TestEngine> {
    db: &'a TestDb<B>,
    number: u32,
    source: Lists,
    grown: Vec<usize>,
    /// Events that must be emitted, of each partition.
    wanted: Vec<Vec<Item>>,
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

impl<B: TestEngine> Case<'_, B> {
    fn name(&self) -> String {
        format!("case-{}", self.number)
    }

    fn to(&self, partition: usize, recipient: usize) -> Recipient {
        Recipient::new("case", format!("{}-{partition}-{recipient}", self.number)).unwrap()
    }

    /// Makes a partition longer. Returns its new events.
    fn grow(&mut self, partition: usize, events: usize) -> Vec<Item> {
        let first = self.grown[partition];
        self.grown[partition] += events;
        let item = |number: usize| (self.to(partition, number % RECIPIENTS), number.to_string());
        let new: Vec<Item> = (first..first + events).map(item).collect();
        self.source.append(partition, new.iter().cloned());
        new
    }

    async fn move_checkpoint(&self, partition: usize, to: usize) {
        let operator = Operator::new(self.db.pool.clone(), "model");
        let position = (to > 0).then(|| to.to_string());
        operator.move_checkpoint(&self.name(), &partition.to_string(), position.as_deref()).await.unwrap();
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Grow { partition, events } => {
                let new = self.grow(partition, events);
                self.wanted[partition].extend(new);
            }
            Step::Read { racers, die_after, round, page, readers } => {
                let (name, mut config) = (self.name(), config());
                config.max_events = round.try_into().unwrap();
                // They compare their checkpoints often, too.
                config.checkpoint_interval = std::time::Duration::from_micros(100);
                let mut source = Lists { page, ..self.source.clone() };
                match readers {
                    Readers::ReadOn => {}
                    Readers::End(pages) => source.ends_after = Some(pages),
                    Readers::Fail(pages) => source.fails_after = Some(pages),
                }
                let racers = (0..racers).map(|racer| {
                    let polls = die_after.get(racer).copied().unwrap_or(usize::MAX);
                    dying(polls, drain(&self.db.pool, &name, &source, &config))
                });
                for read in join_all(racers).await.into_iter().flatten() {
                    let is_known = matches!((&read, readers), (Err(SourceError::Read { .. }), Readers::Fail(_)));
                    prop_assert!(read.is_ok() || is_known, "{:?}", read);
                }
            }
            Step::Back { partition, to } => {
                self.finish().await;
                let to = to.min(self.grown[partition]);
                self.move_checkpoint(partition, to).await;
                let list = self.source.lists.lock().unwrap()[partition].clone();
                self.wanted[partition].extend(list.into_iter().skip(to));
            }
            Step::Skip { partition, events } => {
                self.finish().await;
                self.grow(partition, events);
                self.move_checkpoint(partition, self.grown[partition]).await;
            }
        }
        Ok(())
    }

    async fn finish(&self) {
        drain(&self.db.pool, &self.name(), &self.source, &config()).await.unwrap();
    }

    /// Every event was emitted as often as it is wanted, in the order of its partition.
    async fn verify(&self) -> Result<(), TestCaseError> {
        self.finish().await;
        for partition in 0..PARTITIONS {
            for recipient in 0..RECIPIENTS {
                let to = self.to(partition, recipient);
                let of: Vec<String> =
                    self.wanted[partition].iter().filter(|(of, _)| *of == to).map(|(_, value)| value.clone()).collect();
                prop_assert_eq!(values(self.db, &to).await, of, "{}", to);
            }
        }
        Ok(())
    }
}

on_every_engine! {
    /// Whoever dies, races or moves a checkpoint: each event is emitted once behind each position of the checkpoint.
    async fn each_event_of_a_source_is_emitted_once(db) {
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
            TestRunner::new_with_rng(config, rng).run(&vec(step(), 1..10), |steps| {
                number.set(number.get() + 1);
                let lists = Lists::new(vec![Vec::new(); PARTITIONS], 100);
                let (grown, wanted) = (vec![0; PARTITIONS], vec![Vec::new(); PARTITIONS]);
                let mut case = Case { db, number: number.get(), source: lists, grown, wanted };
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
