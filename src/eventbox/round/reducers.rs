//! Rounds of reducers. Their decisions are data and do not touch the database, so they run on all threads, and no code
//! of the user runs in the transaction.

use std::future::ready;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use sqlx::Pool;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::commit::{Halt, Slice};
use super::ready::{Ended, Ready};
use super::{Done, Listed, Verdict, Way};
use crate::cloudevent::CloudEvent;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::decide::reducer::{Next, Outcome, Reducer};
use crate::eventbox::decide::reducer_adapter::{ReducerAsProcessor, with_state_error};
use crate::eventbox::decide::state::StateCodec;
use crate::eventbox::decide::transition::PostProcess;
use crate::eventbox::event::Event;
use crate::eventbox::turn::decision::{Batch, give_keys};
use crate::eventbox::turn::hooked::ErasedHooks;
use crate::eventbox::turn::kept_state::Keeper;
use crate::eventbox::turn::options::TurnOptions;
use crate::eventbox::turn::{Turn, Work, process_batch_keeping};
use crate::origin::SharedOrigin;
use crate::outbox::Caused;
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture};

/// Fewest recipients for which another task saves time.
pub(super) const MIN_CHUNK: usize = 32;

/// Number of threads; asking the system takes longer than a small round.
pub(super) static THREADS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// State that a round committed. Use it only for a listing that begins after the answer to that commit.
///
/// The token identifies that commit, so no other commit of the recipient can be taken for it.
#[derive(Debug, Clone)]
pub(crate) struct KnownState {
    pub(crate) turn: i64,
    pub(crate) token: Uuid,
    pub(crate) state: Option<Bytes>,
}

/// A reducer with its types erased.
pub(crate) trait ErasedReducer<B: Backend>: Send + Sync {
    /// Decides about a batch. Returns the decision and its hooks; `None` for no turn.
    fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<Option<(Decided, Vec<PostProcess>)>>;

    /// Takes one recipient through its own turn.
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
        hooks: Option<&'a dyn ErasedHooks<B>>,
    ) -> BoxFuture<'a, Result<Turn>>;
}

/// Holds a reducer and its codec's type.
pub(crate) struct TypedReducer<R, C> {
    reducer: R,
    codec: PhantomData<fn() -> C>,
}

impl<R, C> TypedReducer<R, C> {
    pub(crate) fn new(reducer: R) -> Self {
        TypedReducer { reducer, codec: PhantomData }
    }
}

impl<B, R, C> ErasedReducer<B> for TypedReducer<R, C>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<Option<(Decided, Vec<PostProcess>)>> {
        let failed = |source: BoxError| {
            with_state_error(Error::Processor { attempt: format!("prepare a mutation of {to}"), source })
        };
        let (state, outcome) =
            ReducerAsProcessor::<R, C>::new(&self.reducer).decide(to, events, stored).map_err(failed)?;
        if matches!(state, Next::Stay) && outcome.is_nothing() {
            return Ok(None);
        }
        Decided::check(to, events, state, outcome).map(Some)
    }

    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
        hooks: Option<&'a dyn ErasedHooks<B>>,
    ) -> BoxFuture<'a, Result<Turn>> {
        Box::pin(async move {
            let reducing = ReducerAsProcessor::<R, C>::new(&self.reducer);
            let work = Work { pool, to, processor: &reducing, hooks };
            process_batch_keeping(work, options, &mut Keeper::off()).await.map_err(with_state_error)
        })
    }
}

/// A checked decision, ready to commit.
pub(crate) struct Decided {
    state: Next<Vec<u8>>,
    removed: Vec<Uuid>,
    garbage: usize,
    emitted: Vec<(Recipient, Event)>,
    published: Vec<CloudEvent>,
    /// Merged origin of the removed events.
    origin: Option<SharedOrigin>,
}

impl Decided {
    /// Returns the hooks separately: a hook must not be shared between threads, and a decision being committed is.
    fn check(
        to: &Recipient,
        listed: &[Event],
        state: Next<Vec<u8>>,
        outcome: Outcome<()>,
    ) -> Result<(Self, Vec<PostProcess>)> {
        let mut batch = Batch::new(to, listed);
        let mut removed = batch.remove(outcome.consumed)?;
        let garbage = batch.remove(outcome.garbage)?;
        removed.extend_from_slice(&garbage);
        let published = batch.publish(outcome.published)?;
        let origin = batch.origin_of(removed.iter());
        let emitted = match &origin {
            None => outcome.emitted,
            of => outcome.emitted.into_iter().map(|(to, event)| (to, event.or_origin(of.as_ref()))).collect(),
        };
        let decided = Decided { state, removed, garbage: garbage.len(), emitted, published, origin };
        Ok((decided, outcome.post_process))
    }

    /// Returns the recipient's part of the round.
    fn ready(mut self, listed: &Listed<KnownState>, token: Option<Uuid>) -> Ready {
        let mut ready = Ready::of(listed, token, self.removed, self.garbage);
        give_keys(&listed.to, listed.turn, &mut self.published);
        let state = if let Next::To(state) = &self.state { state.len() } else { 0 };
        let emitted: usize = self.emitted.iter().map(|(_, event)| event.value().len()).sum();
        ready.bytes = state + emitted + self.published.iter().map(CloudEvent::encoded_len).sum::<usize>();
        let (writer, origin) = (ready.writer(), self.origin);
        let caused = |message| Caused { message, writer, origin: origin.clone() };
        ready.published = self.published.into_iter().map(caused).collect();
        (ready.state, ready.emitted) = (self.state, self.emitted);
        ready
    }
}

/// The way of reducers, with the reducer of each member.
pub(crate) struct ReducerWay<B>(pub(crate) Vec<Arc<dyn ErasedReducer<B>>>);

/// What a decision of a reducer brings besides its data.
pub(crate) struct ReducerPart {
    /// State that was decided on.
    before: Option<Bytes>,
    hooks: Vec<PostProcess>,
}

type Decision = (usize, Verdict<ReducerPart, KnownState>);

impl<B: Backend> Way<B> for ReducerWay<B> {
    type Left = KnownState;
    type Part = ReducerPart;
    const RUNS_CODE: bool = false;

    async fn decide(&self, _pool: &Pool<B>, listed: Vec<Listed<KnownState>>) -> Vec<Decision> {
        let count = listed.len();
        let mut listed = listed.into_iter().filter_map(|listed| Some((Arc::clone(self.0.get(listed.index)?), listed)));
        let decided = |(reducer, listed): (Arc<dyn ErasedReducer<B>>, _)| decide(&*reducer, listed);
        if count <= MIN_CHUNK {
            return listed.map(decided).collect();
        }
        let chunk = count.div_ceil(*THREADS).max(MIN_CHUNK);
        let mut tasks = JoinSet::new();
        loop {
            let its: Vec<_> = listed.by_ref().take(chunk).collect();
            if its.is_empty() {
                break;
            }
            tasks.spawn(async move { its.into_iter().map(decided).collect::<Vec<_>>() });
        }
        joined(tasks, count).await
    }

    fn run(
        &self,
        _pool: &Pool<B>,
        _tx: &mut B::SharedTx,
        _slice: &mut Slice<ReducerPart>,
        _won: &[usize],
    ) -> impl Future<Output = Result<(), Halt>> + Send {
        ready(Ok(()))
    }

    fn ended(&self, ready: &mut Ready, part: ReducerPart, token: Uuid) -> Ended<KnownState> {
        let state = match std::mem::replace(&mut ready.state, Next::Stay) {
            Next::Stay => part.before,
            Next::To(state) => Some(Bytes::from(state)),
            Next::Gone => None,
        };
        let left = KnownState { turn: ready.turn + 1, token, state };
        Ended { left: Some(left), transitions: 1, consumed_alone: Vec::new(), failures: Vec::new(), hooks: part.hooks }
    }
}

/// Returns the verdicts of all tasks. The recipients of a task that failed have none.
pub(super) async fn joined<T: 'static>(mut tasks: JoinSet<Vec<T>>, count: usize) -> Vec<T> {
    let mut verdicts = Vec::with_capacity(count);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(its) => verdicts.extend(its),
            Err(failed) => {
                tracing::error!(error = %failed, "a task of a round failed: its recipients get their own turns");
            }
        }
    }
    verdicts
}

fn decide<B: Backend>(reducer: &dyn ErasedReducer<B>, mut listed: Listed<KnownState>) -> Decision {
    let (token, before) = match listed.known.take() {
        Some(known) => {
            listed.turn = known.turn;
            (Some(known.token), known.state)
        }
        None => (None, listed.state.take().map(Bytes::from)),
    };
    let verdict = match reducer.decide(&listed.to, &listed.events, before.as_deref()) {
        Ok(Some((decided, hooks))) => Verdict::Ready(decided.ready(&listed, token), ReducerPart { before, hooks }),
        Ok(None) => {
            let last = listed.events.last().map(Event::id);
            Verdict::Done(Done::Nothing { last, more: listed.more_listed, left: None })
        }
        Err(error) => {
            tracing::debug!(recipient = %listed.to, %error, "a member of a round failed: it gets its own turn");
            Verdict::Done(Done::NeedsOwnTurn)
        }
    };
    (listed.index, verdict)
}
