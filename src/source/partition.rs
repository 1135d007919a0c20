//! Reads one partition: round after round, and each round is read while the one before commits.
//!
//! A commit compares the checkpoint. While no commit is in flight, the partition compares it from time to time, so that
//! a reader that waits for events notices a move, too.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use sqlx::Pool;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::commit::{Key, checkpoint, commit};
use super::config::SourceConfig;
use super::contract::{Call, EventSource, Late, Page, Room, SourceReader, panicked};
use super::error::SourceError;
use super::status::Progress;
use crate::error::{BoxError, Error, Result};
use crate::retry::pause_after;
use crate::store::Backend;

/// A partition that this process reads.
pub(super) struct Partition<'a, B: Backend> {
    pub(super) pool: &'a Pool<B>,
    pub(super) source: &'a dyn EventSource,
    pub(super) config: &'a SourceConfig,
    pub(super) key: &'a Key,
    pub(super) progress: Arc<Progress>,
    /// Whether the partition is read to its present end only.
    pub(super) to_end: bool,
    /// Most events of a round now: fewer after the database refused a round for good, so that the good events before a
    /// bad one get through, and the bad one is alone in the end.
    pub(super) most: AtomicUsize,
}

/// Why the life of a reader ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The source ended it at a boundary of rounds.
    Boundary,
    /// The checkpoint stands elsewhere, or may: another process, an operator, or a commit without an answer moved it.
    Overtaken,
    /// There is nothing more now.
    AtEnd,
    Stopped,
}

type Read = (Box<dyn SourceReader>, Result<Page, BoxError>);
type Reading<'f> = Pin<Box<dyn Future<Output = Read> + Send + 'f>>;
type Looking<'f> = Pin<Box<dyn Future<Output = Result<bool>> + Send + 'f>>;
type Committing<'f> = Pin<Box<dyn Future<Output = Result<Option<usize>>> + Send + 'f>>;

/// A round in its commit.
struct InFlight<'f> {
    committing: Committing<'f>,
    sent: Sent,
}

/// What is known of a round in its commit.
struct Sent {
    to: String,
    events: usize,
    lag: Option<u64>,
}

/// What came first.
enum Step {
    Read(Read),
    Committed(Result<Option<usize>>),
    /// Whether the checkpoint stands where it stood.
    Looked(Result<bool>),
    Stopped,
}

/// What a partition waits for.
#[derive(Default)]
struct Waits<'f> {
    reading: Option<Reading<'f>>,
    in_flight: Option<InFlight<'f>>,
    looking: Option<Looking<'f>>,
}

impl<B: Backend> Partition<'_, B> {
    /// Reads until `stopping`. Failures are shown and tried again after a pause.
    pub(super) async fn run(&self, stopping: &CancellationToken) {
        let mut overtaken = 0_u32;
        while !stopping.is_cancelled() {
            let before = self.progress.rounds();
            let ended = self.live(stopping).await;
            let went_on = self.progress.rounds() > before;
            let pause = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Boundary) if went_on => continue,
                Ok(Ended::Boundary | Ended::AtEnd) => self.config.poll_interval,
                Ok(Ended::Overtaken) => {
                    overtaken = if went_on { 0 } else { overtaken.saturating_add(1) };
                    pause_after(overtaken, self.config.retry_base / 16, self.config.retry_base)
                }
                Err(error) => {
                    let failures = self.progress.failed(&error);
                    pause_after(failures.saturating_sub(1), self.config.retry_base, self.config.retry_cap)
                }
            };
            if stopping.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Opens the partition at its checkpoint, and reads it until the reader ends.
    pub(super) async fn live(&self, stopping: &CancellationToken) -> Result<Ended, SourceError> {
        let position = checkpoint(self.pool, self.key).await.map_err(|error| self.store(error))?;
        self.progress.stands_at(position.as_deref());
        let opening = self.source.open(&self.key.partition, position.as_deref());
        let opening = Call::Open.within(self.config.open_limit, opening);
        let Some(opened) = stopping.run_until_cancelled(opening).await else { return Ok(Ended::Stopped) };
        let reader = opened.map_err(|source| self.unreadable(position.as_deref(), source))?;
        self.read_on(reader, position, stopping).await
    }

    async fn read_on(
        &self,
        reader: Box<dyn SourceReader>,
        mut position: Option<String>,
        stopping: &CancellationToken,
    ) -> Result<Ended, SourceError> {
        let mut round = Page::new();
        let mut idle_reader = Some(reader);
        let mut waits = Waits::default();
        let mut failure: Option<BoxError> = None;
        let (mut is_idle, mut is_stopping) = (false, false);
        loop {
            if waits.in_flight.is_none() && !is_stopping {
                waits.in_flight = self.begin(&mut round, position.as_deref());
            }
            if waits.in_flight.is_some() || is_stopping {
                waits.looking = None;
            } else if waits.looking.is_none() {
                waits.looking = Some(self.looking(position.clone()));
            }
            let is_over = round.ends || failure.is_some() || is_stopping || is_idle && self.to_end;
            if !is_over
                && let Some(left) = round.room_left(self.room())
                && let Some(reader) = idle_reader.take()
            {
                waits.reading = Some(self.reading(reader, left, is_idle));
            }
            if waits.reading.is_none() && waits.in_flight.is_none() {
                return match failure {
                    Some(source) => Err(self.unreadable(position.as_deref(), source)),
                    None if is_stopping => Ok(Ended::Stopped),
                    None if round.ends => Ok(Ended::Boundary),
                    None => Ok(Ended::AtEnd),
                };
            }
            match next(&mut waits, stopping, is_stopping).await {
                Step::Stopped => {
                    is_stopping = true;
                    waits.reading = None;
                }
                Step::Looked(looked) => {
                    waits.looking = None;
                    if !looked.map_err(|error| self.store(error))? {
                        self.progress.overtaken();
                        return Ok(Ended::Overtaken);
                    }
                }
                Step::Read((reader, page)) => {
                    (waits.reading, idle_reader) = (None, Some(reader));
                    let in_flight = waits.in_flight.as_ref().map(|its| its.sent.to.as_str());
                    let known = round.position.as_deref().or(in_flight).or(position.as_deref());
                    match page.and_then(|page| page.problem(known).map_or(Ok(page), |problem| Err(problem.into()))) {
                        Ok(page) => {
                            // A page may repeat the position that is known.
                            is_idle = page.is_empty() && page.position.as_deref().is_none_or(|to| Some(to) == known);
                            if is_idle && waits.in_flight.is_none() {
                                self.progress.behind(page.lag);
                                self.progress.is_well();
                            }
                            round.append(page);
                        }
                        Err(error) => failure = Some(error),
                    }
                }
                Step::Committed(outcome) => {
                    let Some(InFlight { sent, .. }) = waits.in_flight.take() else { continue };
                    match self.committed(outcome, &sent).await? {
                        true => position = Some(sent.to),
                        false => return Ok(Ended::Overtaken),
                    }
                }
            }
        }
    }

    /// Begins the commit of a round, if there is something to commit.
    fn begin<'f>(&'f self, round: &mut Page, from: Option<&str>) -> Option<InFlight<'f>> {
        let to = round.position.take()?;
        let (events, lag) = (std::mem::take(&mut round.events), round.lag.take());
        round.bytes = 0;
        if events.is_empty() && from == Some(to.as_str()) {
            return None;
        }
        let (count, from, moves_to) = (events.len(), from.map(str::to_owned), to.clone());
        let committing =
            Box::pin(async move { commit(self.pool, self.key, from.as_deref(), &moves_to, &events).await });
        Some(InFlight { committing, sent: Sent { to, events: count, lag } })
    }

    /// Notes the outcome of a commit. Returns whether the checkpoint is known to have moved.
    async fn committed(&self, outcome: Result<Option<usize>>, done: &Sent) -> Result<bool, SourceError> {
        let duplicates = match outcome {
            Ok(Some(duplicates)) => duplicates,
            Ok(None) => {
                self.progress.overtaken();
                return Ok(false);
            }
            // The checkpoint itself says what became of the commit.
            Err(Error::Unknown { .. }) => return Ok(false),
            Err(error) => {
                if !error.is_transient() {
                    self.most.store((done.events / 2).max(1), Ordering::Relaxed);
                }
                return Err(self.store(error));
            }
        };
        let most = self.most.load(Ordering::Relaxed).saturating_mul(2).min(self.config.max_events.get());
        self.most.store(most, Ordering::Relaxed);
        self.progress.committed(&done.to, done.events, duplicates, done.lag);
        let telling = self.source.committed(&self.key.partition, &done.to);
        if let Err(error) = Call::Committed.within(self.config.committed_limit, telling).await {
            let Key { name, partition } = self.key;
            if error.is::<Late>() {
                let (name, partition, position) = (name.clone(), partition.clone(), done.to.clone());
                return Err(SourceError::Tell { name, partition, position, source: error });
            }
            tracing::warn!(source = name, partition, error = %*error, "a source was not told of its checkpoint");
        }
        self.progress.is_well();
        Ok(true)
    }

    /// Waits, and compares the checkpoint. Returns whether it stands at `position`.
    fn looking<'f>(&'f self, position: Option<String>) -> Looking<'f> {
        Box::pin(async move {
            sleep(self.config.checkpoint_interval).await;
            Ok(checkpoint(self.pool, self.key).await? == position)
        })
    }

    fn room(&self) -> Room {
        Room { events: self.most.load(Ordering::Relaxed), ..self.config.room() }
    }

    fn reading<'f>(&'f self, mut reader: Box<dyn SourceReader>, room: Room, waits: bool) -> Reading<'f> {
        Box::pin(async move {
            if waits {
                sleep(self.config.poll_interval).await;
            }
            let read = AssertUnwindSafe(reader.read(room)).catch_unwind().await;
            (reader, read.unwrap_or_else(|_| Err(panicked())))
        })
    }

    fn unreadable(&self, position: Option<&str>, source: BoxError) -> SourceError {
        SourceError::Read {
            name: self.key.name.clone(),
            partition: self.key.partition.clone(),
            position: position.unwrap_or_default().to_owned(),
            source,
        }
    }

    fn store(&self, source: Error) -> SourceError {
        SourceError::Store {
            name: self.key.name.clone(),
            partition: self.key.partition.clone(),
            source: Box::new(source),
        }
    }
}

/// Waits for the first of the read, the commit, the look and the stop. A commit that has begun is waited for after the
/// stop, too.
async fn next(waits: &mut Waits<'_>, stopping: &CancellationToken, is_stopping: bool) -> Step {
    let Waits { reading, in_flight, looking } = waits;
    tokio::select! {
        biased;
        outcome = if_any(in_flight.as_mut().map(|round| &mut round.committing)) => Step::Committed(outcome),
        () = stopping.cancelled(), if !is_stopping => Step::Stopped,
        looked = if_any(looking.as_mut()) => Step::Looked(looked),
        read = if_any(reading.as_mut()) => Step::Read(read),
    }
}

/// Waits for a future; for ever when there is none.
async fn if_any<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
