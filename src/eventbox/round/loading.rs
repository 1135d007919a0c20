//! The loads and the decisions of a round of a processor, beside each other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::Pool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use uuid::Uuid;

use super::processors::{Part, ProcessorWay};
use super::ready::Ready;
use super::reducers::{MIN_CHUNK, THREADS, joined};
use super::{Done, Listed, Verdict};
use crate::error::{BoxError, Error, Misuse, Result};
use crate::eventbox::decide::erased::AnyState;
use crate::eventbox::decide::processor::EVersion;
use crate::eventbox::event::Event;
use crate::eventbox::event::trace::Links;
use crate::eventbox::turn::TURN_SPAN;
use crate::eventbox::turn::decision::{Decision, Step, give_keys};
use crate::eventbox::turn::guard::Guard;
use crate::eventbox::turn::kept_state::KeptState;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Held, hold_for_user, in_time};

/// Most connections on which a round loads states at the same time, one recipient after the other on each.
const LOADS_AT_ONCE: usize = 4;

/// Fewest recipients for which another connection saves time.
const MIN_LOADS: usize = 16;

/// A recipient with what its decision needs.
struct Loaded {
    listed: Listed<KeptState>,
    /// Token of the commit that made the turn, when state and turn come from memory.
    token: Option<Uuid>,
    state: AnyState,
    eversion: EVersion,
}

type Waiting = Listed<KeptState>;
pub(super) type Decided<B> = (usize, Verdict<Part<B>, KeptState>);

/// Result of the attempt to load all states in one call.
enum Together<B: Backend> {
    Loaded(Vec<Loaded>),
    /// The processor loads one by one. The connection comes back.
    OneByOne(Held<B>),
    /// Each of the recipients gets a turn of its own.
    Failed,
}

/// Returns an error when a batch method of the user has not returned one value for each recipient.
pub(super) fn require_count<T>(method: &str, values: &[T], of: usize) -> Result<()> {
    if values.len() == of {
        return Ok(());
    }
    let source = BoxError::from(format!("it returned {} values for {of} recipients", values.len()));
    Err(Error::Processor { attempt: format!("call {method}"), source })
}

fn during(fault: Fault, of: usize) -> Error {
    fault.during(format!("load the states of {of} recipients"))
}

impl<B: Backend> ProcessorWay<B> {
    /// Loads the states that are not known, and decides about all recipients.
    pub(super) async fn load_and_decide(&self, pool: &Pool<B>, listed: Vec<Waiting>) -> Vec<Decided<B>> {
        let count = listed.len();
        let (mut loaded, mut waiting) = (Vec::with_capacity(count), Vec::new());
        for mut listed in listed {
            match listed.known.take() {
                Some(kept) => loaded.push(from_memory(listed, kept)),
                None => waiting.push(listed),
            }
        }
        let mut verdicts = Vec::new();
        let mut at_hand = None;
        if !waiting.is_empty() {
            match self.load_together(pool, &mut waiting).await {
                Together::Loaded(mut its) => loaded.append(&mut its),
                Together::OneByOne(conn) => at_hand = Some(conn),
                Together::Failed => verdicts.extend(waiting.drain(..).map(|listed| own_turn(&listed))),
            }
        }
        let permits = Arc::new(Semaphore::new(self.limits.decisions_at_once.get()));
        let (per_load, per_task) =
            (share(waiting.len(), LOADS_AT_ONCE, MIN_LOADS), share(loaded.len(), *THREADS, MIN_CHUNK));
        let mut tasks = JoinSet::new();
        let (mut waiting, mut loaded) = (waiting.into_iter(), loaded.into_iter());
        loop {
            let its: Vec<_> = waiting.by_ref().take(per_load).collect();
            if its.is_empty() {
                break;
            }
            let (way, pool, permits, conn) = (self.clone(), pool.clone(), Arc::clone(&permits), at_hand.take());
            tasks.spawn(async move {
                let (loaded, mut verdicts) = way.load_singly(&pool, conn, its).await;
                verdicts.extend(way.decide_all(&permits, loaded).await);
                verdicts
            });
        }
        loop {
            let its: Vec<_> = loaded.by_ref().take(per_task).collect();
            if its.is_empty() {
                break;
            }
            let (way, permits) = (self.clone(), Arc::clone(&permits));
            tasks.spawn(async move { way.decide_all(&permits, its).await });
        }
        verdicts.extend(joined(tasks, count).await);
        verdicts
    }

    /// Lets the user's code load all states in one call. Takes the recipients that it loads.
    async fn load_together(&self, pool: &Pool<B>, waiting: &mut Vec<Waiting>) -> Together<B> {
        let of: Vec<Recipient> = waiting.iter().map(|listed| listed.to.clone()).collect();
        match self.states_of(pool, &of).await {
            Ok((Some(states), _)) => {
                let loaded = |(listed, (state, eversion))| Loaded { listed, token: None, state, eversion };
                Together::Loaded(waiting.drain(..).zip(states).map(loaded).collect())
            }
            Ok((None, conn)) => Together::OneByOne(conn),
            Err(error) => {
                tracing::warn!(%error, recipients = of.len(), "states are loaded one by one, because a batch failed");
                Together::Failed
            }
        }
    }

    async fn states_of(
        &self,
        pool: &Pool<B>,
        of: &[Recipient],
    ) -> Result<(Option<Vec<(AnyState, EVersion)>>, Held<B>)> {
        let Some(first) = of.first() else { return Err(Error::contention("load the states of no recipient")) };
        let guard = Guard::new(first, self.limits.longest());
        let mut conn = hold_for_user(pool).await.map_err(|fault| during(fault, of.len()))?;
        let session = self.lend(&mut conn, of.len()).await?;
        let states = self.processor.load_states(&mut conn, of);
        let states = match guard.run_on("load the states", pool, session, states).await {
            Ok(states) => states,
            Err(error) => {
                conn.close_if_left_unfit(&error);
                return Err(error);
            }
        };
        if let Some(states) = &states {
            self.require_given_back(&mut conn, of.len()).await?;
            require_count("load_states", states, of.len())?;
        }
        Ok((states, conn))
    }

    /// Notes that the user's code gets the connection. Returns the number of its session.
    async fn lend(&self, conn: &mut Held<B>, of: usize) -> Result<Option<i32>> {
        let session = in_time::<B, _>(conn.session_id()).await.map_err(|fault| during(fault, of))?;
        conn.lend();
        Ok(session)
    }

    /// Refuses a transaction that the user's code has left open.
    async fn require_given_back(&self, conn: &mut Held<B>, of: usize) -> Result<()> {
        match in_time::<B, _>(conn.was_left_open()).await.map_err(|fault| during(fault, of))? {
            true => Err(Error::misuse(format!("load the states of {of} recipients"), Misuse::LeftOpen)),
            false => Ok(()),
        }
    }

    /// Loads the states one after the other, on one connection. Returns verdicts on the recipients without a state, too.
    async fn load_singly(
        &self,
        pool: &Pool<B>,
        at_hand: Option<Held<B>>,
        waiting: Vec<Waiting>,
    ) -> (Vec<Loaded>, Vec<Decided<B>>) {
        let (count, mut loaded) = (waiting.len(), Vec::with_capacity(waiting.len()));
        let mut verdicts = Vec::new();
        let given_back = self.load_each(pool, at_hand, waiting, &mut loaded, &mut verdicts).await;
        if let Err(error) = given_back {
            tracing::debug!(%error, recipients = count, "loads of a round failed: its recipients get their own turns");
            verdicts.extend(loaded.drain(..).map(|loaded: Loaded| own_turn(&loaded.listed)));
        }
        (loaded, verdicts)
    }

    async fn load_each(
        &self,
        pool: &Pool<B>,
        at_hand: Option<Held<B>>,
        waiting: Vec<Waiting>,
        loaded: &mut Vec<Loaded>,
        verdicts: &mut Vec<Decided<B>>,
    ) -> Result<()> {
        let count = waiting.len();
        let begun = async {
            let mut conn = match at_hand {
                Some(conn) => conn,
                None => hold_for_user(pool).await.map_err(|fault| during(fault, count))?,
            };
            let session = self.lend(&mut conn, count).await?;
            Ok((conn, session))
        };
        let (mut conn, session) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                verdicts.extend(waiting.iter().map(own_turn));
                return Err(error);
            }
        };
        let began = Instant::now();
        let mut waiting = waiting.into_iter();
        while let Some(listed) = waiting.next() {
            let guard = Guard::since(&listed.to, self.limits.longest(), began);
            let load = self.processor.load_state(&mut conn, &listed.to);
            let error = match guard.run_on("load the state", pool, session, load).await {
                Ok((state, eversion)) => {
                    loaded.push(Loaded { listed, token: None, state, eversion });
                    continue;
                }
                Err(error) => error,
            };
            tracing::debug!(recipient = %listed.to, %error, "a member of a round failed: it gets its own turn");
            verdicts.push(own_turn(&listed));
            if !matches!(error, Error::Processor { .. }) {
                // The connection may be dead, or busy with an unfinished statement.
                conn.close_if_left_unfit(&error);
                conn.close();
                verdicts.extend(waiting.map(|listed| (listed.index, Verdict::Done(Done::Deferred))));
                return Ok(());
            }
        }
        self.require_given_back(&mut conn, count).await
    }

    async fn decide_all(&self, permits: &Semaphore, loaded: Vec<Loaded>) -> Vec<Decided<B>> {
        let deadline = Instant::now() + self.limits.longest();
        join_all(loaded.into_iter().map(|loaded| self.decide_on(permits, deadline, loaded))).await
    }

    async fn decide_on(&self, permits: &Semaphore, deadline: Instant, loaded: Loaded) -> Decided<B> {
        let index = loaded.listed.index;
        let Ok(Ok(_permit)) = timeout_at(deadline, permits.acquire()).await else {
            return (index, Verdict::Done(Done::Deferred));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let span = tracing::debug_span!(TURN_SPAN, kind = loaded.listed.to.kind());
        let decided = self.decide_in(&span, left, loaded).instrument(span.clone()).await;
        (index, decided)
    }

    async fn decide_in(&self, span: &tracing::Span, left: Duration, loaded: Loaded) -> Verdict<Part<B>, KeptState> {
        let Loaded { listed, token, state, eversion } = loaded;
        let (to, events) = (&listed.to, &listed.events);
        Links::default().add(events);
        let guard = Guard::new(to, left);
        let prepared = self.processor.prepare_mutation(to, events, &state);
        let mutation = guard.run("prepare a mutation", prepared).await;
        let decision = mutation.and_then(|mutation| Decision::check(to, events, mutation));
        let mut decision = match decision {
            Ok(decision) => decision,
            Err(error) => {
                tracing::debug!(recipient = %to, %error, "a member of a round failed: it gets its own turn");
                return Verdict::Done(Done::NeedsOwnTurn);
            }
        };
        if decision.is_empty() {
            let last = events.last().map(Event::id);
            // Without a commit nothing has compared a state from memory with the database: the next round loads it.
            return Verdict::Done(Done::Nothing { last, more: listed.more_listed, left: None });
        }
        give_keys(to, listed.turn, decision.steps.iter_mut().flat_map(|step| &mut step.published));
        let mut ready = Ready::of(&listed, token, decision.removed_together(), decision.garbage.len());
        ready.bytes = decision.steps.iter().map(Step::bytes).sum();
        Verdict::Ready(ready, Part::new(decision, state, eversion, span.clone()))
    }
}

fn from_memory(mut listed: Waiting, kept: KeptState) -> Loaded {
    let (turn, token) = kept.turn();
    let (state, eversion) = kept.into_state();
    listed.turn = turn;
    Loaded { listed, token: Some(token), state, eversion }
}

fn own_turn<P, K>(listed: &Listed<K>) -> (usize, Verdict<P, K>) {
    (listed.index, Verdict::Done(Done::NeedsOwnTurn))
}

/// Returns the size of the parts of a whole that are worked on beside each other.
fn share(whole: usize, parts: usize, least: usize) -> usize {
    whole.div_ceil(parts.max(1)).max(least)
}
