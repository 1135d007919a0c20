//! The ways that commit the decisions of a reducer.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::runtime::{Runtime, RuntimeBuilder, RuntimeConfig};
use eventbox::{
    BoxError, EVersion, Error, Event, Mutation, Outcome, PoisonPolicy, Processor, Recipient, Reducer,
    ReducerAsProcessor, StateCodec, TurnOptions,
};
use sqlx::Pool;

use crate::support::running::{STOP, backoff, config};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually};

/// Largest number of turns that a test may need.
const MAX_CALLS: usize = 2_000;

/// Time for which a journal stays, longer than a test.
const JOURNAL_KEPT: Duration = Duration::from_secs(60 * 60);

/// Number of other recipients that share a round of many with the recipient of a test.
pub(super) const MATES: [&str; 3] = ["mate-1", "mate-2", "mate-3"];

/// A way of working on a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Calls that run the turns of the recipient.
    Turn,
    /// A runtime whose rounds have only the recipient.
    RoundOfOne,
    /// A runtime whose first round also has other recipients.
    RoundOfMany,
    /// The same with the reducer as a processor, whose code runs in the transaction of the round.
    RoundOfProcessor,
}

/// The work of a way.
#[derive(Debug, Default)]
pub(super) struct Worked {
    pub(super) turns: u64,
    pub(super) consumed: u64,
    pub(super) garbage: u64,
    pub(super) quarantined: u64,
    pub(super) contention: u64,
    pub(super) failures: u64,
    /// Number of rounds, or of calls.
    pub(super) rounds: u64,
}

/// Bounds of the work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) max_events: u32,
    pub(super) poison: PoisonPolicy,
    /// Whether the way keeps a journal.
    pub(super) journaled: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { max_events: 1_000, poison: PoisonPolicy::Block, journaled: false }
    }
}

impl Bounds {
    pub(super) fn of_events(max_events: u32) -> Self {
        Bounds { max_events, ..Bounds::default() }
    }

    pub(super) fn isolating(after: u32) -> Self {
        Bounds { poison: PoisonPolicy::Isolate { after: NonZeroU32::new(after).unwrap() }, ..Bounds::default() }
    }
}

/// Returns the recipient of the tests.
pub(super) fn it() -> Recipient {
    Recipient::new("cell", "it").unwrap()
}

/// Returns the number of events that wait for the recipient.
pub(super) async fn waiting<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'cell/it'").await
}

/// Returns the turn of the recipient; 0 when it never had one.
pub(super) async fn turn_of_it<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT coalesce(max(turn), 0) FROM eventbox_state WHERE recipient = 'cell/it'").await
}

/// Emits events with these values to the recipient, in one transaction.
pub(super) async fn emit<B: CellEngine>(db: &TestDb<B>, values: impl IntoIterator<Item = impl Into<String>>) {
    let events: Vec<_> = values.into_iter().map(|value| (it(), Event::new(value.into()))).collect();
    B::emit_all(&mut *db.pool.acquire().await.unwrap(), &events).await.unwrap();
}

impl Way {
    /// Works until `done` returns true. `done` is called repeatedly, with the work so far.
    pub(super) async fn work<B, R, C>(
        self,
        db: &TestDb<B>,
        reducer: R,
        bounds: Bounds,
        mut done: impl AsyncFnMut(&Worked) -> bool,
    ) -> Worked
    where
        B: CellEngine,
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        match self {
            Way::Turn => by_turns(&db.open(1), &reducer, bounds, done).await,
            Way::RoundOfOne => by_runtime(self.builder::<B, R, C>(db.open(5), reducer, bounds), done).await,
            Way::RoundOfMany | Way::RoundOfProcessor => {
                let mates = MATES.map(|key| (Recipient::new("cell", key).unwrap(), Event::new("mate")));
                B::emit_all(&mut *db.pool.acquire().await.unwrap(), &mates).await.unwrap();
                let left = "SELECT count(*) FROM eventbox_event WHERE recipient LIKE 'cell/mate-%'";
                // The runtime may find the recipient before the others, and a stop would leave the others.
                let all_done = async |worked: &Worked| done(worked).await && db.number(left).await == 0;
                by_runtime(self.builder::<B, R, C>(db.open(5), reducer, bounds), all_done).await
            }
        }
    }

    /// Works until no event waits for the recipient.
    pub(super) async fn drain<B, R, C>(self, db: &TestDb<B>, reducer: R) -> Worked
    where
        B: CellEngine,
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        self.drain_with(db, reducer, Bounds::default()).await
    }

    /// Works until no event waits for the recipient, within other bounds.
    pub(super) async fn drain_with<B, R, C>(self, db: &TestDb<B>, reducer: R, bounds: Bounds) -> Worked
    where
        B: CellEngine,
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        self.work(db, reducer, bounds, async |_| waiting(db).await == 0).await
    }

    /// Returns the number of turns of the other recipients in the round.
    pub(super) fn mates(self) -> u64 {
        if self.has_mates() { MATES.len() as u64 } else { 0 }
    }

    /// Returns whether other recipients are in the round.
    pub(super) fn has_mates(self) -> bool {
        matches!(self, Way::RoundOfMany | Way::RoundOfProcessor)
    }

    fn builder<B, R, C>(self, pool: Pool<B>, reducer: R, bounds: Bounds) -> RuntimeBuilder<B>
    where
        B: CellEngine,
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        let builder = Runtime::builder(pool);
        let builder = match self {
            Way::RoundOfProcessor => builder.processor("cell", Owned::<_, C>(Mated(reducer), PhantomData)),
            _ => builder.reducer::<_, C>("cell", Mated(reducer)),
        };
        let builder = builder.config(configured(bounds));
        if bounds.journaled { builder.journal("cell", JOURNAL_KEPT) } else { builder }
    }
}

pub(super) fn configured(bounds: Bounds) -> RuntimeConfig {
    let mut config = config();
    // All events that exist at the start are in one round.
    config.rounds = 1.try_into().unwrap();
    config.shard_metrics = true;
    config.max_events = bounds.max_events.try_into().unwrap();
    config.poison = bounds.poison;
    config.backoff = backoff(Duration::from_millis(1), Duration::from_millis(20));
    config
}

pub(super) async fn by_turns<B, R, C>(
    pool: &Pool<B>,
    reducer: &R,
    bounds: Bounds,
    mut done: impl AsyncFnMut(&Worked) -> bool,
) -> Worked
where
    B: CellEngine,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    let reducing = ReducerAsProcessor::<R, C>::new(reducer);
    let options = TurnOptions::new(bounds.max_events.try_into().unwrap()).poison(bounds.poison).shard_metrics(true);
    let options = if bounds.journaled { options.journaled() } else { options };
    let mut worked = Worked::default();
    for _ in 0..MAX_CALLS {
        match eventbox::process_batch_with(pool, &it(), &reducing, &options).await {
            Ok(turn) => {
                worked.turns += u64::from(turn.number.is_some());
                worked.consumed += turn.consumed as u64;
                worked.garbage += turn.garbage as u64;
                worked.quarantined += turn.quarantined as u64;
                worked.contention += turn.contention as u64;
                assert!(turn.hook_errors.is_none());
            }
            Err(Error::Contention { .. }) => worked.contention += 1,
            Err(Error::Transient { .. } | Error::Unknown { .. } | Error::Paused { .. }) => {}
            Err(_) => worked.failures += 1,
        }
        worked.rounds += 1;
        if done(&worked).await {
            return worked;
        }
    }
    panic!("not done after {MAX_CALLS} calls: {worked:?}");
}

pub(super) async fn by_rounds<B, R, C>(
    way: Way,
    pool: &Pool<B>,
    reducer: R,
    config: RuntimeConfig,
    done: impl AsyncFnMut(&Worked) -> bool,
) -> Worked
where
    B: CellEngine,
    R: Reducer<C> + 'static,
    C: StateCodec<R::State> + 'static,
{
    let builder = way.builder::<B, R, C>(pool.clone(), reducer, Bounds::default());
    by_runtime(builder.config(config), done).await
}

async fn by_runtime<B: CellEngine>(builder: RuntimeBuilder<B>, mut done: impl AsyncFnMut(&Worked) -> bool) -> Worked {
    let runtime = builder.start().await.unwrap();
    eventually(SOON, async || done(&so_far(&runtime)).await).await;
    assert!(runtime.stop(STOP).await.complete);
    so_far(&runtime)
}

fn so_far<B: CellEngine>(runtime: &Runtime<B>) -> Worked {
    let stats = runtime.stats();
    Worked {
        turns: stats.turns,
        consumed: stats.consumed,
        garbage: stats.garbage,
        quarantined: stats.quarantined,
        contention: stats.contention,
        failures: stats.failures,
        rounds: stats.rounds,
    }
}

/// The reducer of a test, and a consuming reducer for the other recipients of its round.
struct Mated<R>(R);

impl<R, C> Reducer<C> for Mated<R>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    type State = R::State;

    fn reduce(&self, to: &Recipient, events: &[Event], state: R::State) -> Result<Outcome<R::State>, BoxError> {
        match to.key() {
            "it" => self.0.reduce(to, events, state),
            _ => Ok(Outcome::stay().consuming(events)),
        }
    }

    fn max_state_bytes(&self) -> usize {
        self.0.max_state_bytes()
    }
}

/// A reducer as a processor that owns it.
struct Owned<R, C>(R, PhantomData<fn() -> C>);

impl<R, C> Owned<R, C>
where
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    fn adapted(&self) -> ReducerAsProcessor<'_, R, C> {
        ReducerAsProcessor::new(&self.0)
    }
}

impl<B, R, C> Processor<B> for Owned<R, C>
where
    B: CellEngine,
    R: Reducer<C> + 'static,
    C: StateCodec<R::State> + 'static,
{
    type State = <ReducerAsProcessor<'static, R, C> as Processor<B>>::State;

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(Self::State, EVersion), BoxError> {
        Processor::<B>::load_state(&self.adapted(), conn, to).await
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        state: &Self::State,
    ) -> Result<Mutation<B, Self::State>, BoxError> {
        Processor::<B>::prepare_mutation(&self.adapted(), to, events, state).await
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Processor::<B>::fetch_eversion(&self.adapted(), tx, to).await
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &Self::State,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Processor::<B>::save_state(&self.adapted(), tx, to, state, eversion).await
    }
}
