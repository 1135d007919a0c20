//! The builder of a runtime: its kinds, settings and emitter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::attended::Attended;
use super::config::RuntimeConfig;
use super::handle::Runtime;
use super::working::lane::Lane;
use super::working::paused::PausedKinds;
use super::working::rates::KindRates;
use super::working::registry::{Handler, Handlers, Hooks, TypedHooks};
use super::working::window::Durations;
use crate::clock::micros;
#[cfg(feature = "emitter")]
use crate::emitter::DurableEmitter;
use crate::error::{Error, Result};
use crate::eventbox::{self, Processor, Reducer, RoundHooks, StateCodec, TypedReducer};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, answered, hold};

/// Builder of a [`Runtime`].
pub struct RuntimeBuilder<B: Backend> {
    pub(super) pool: Pool<B>,
    pub(super) config: RuntimeConfig,
    pub(super) handlers: Handlers<B>,
    /// How long each kind keeps its journal; zero ends a journal.
    pub(super) journals: BTreeMap<String, Duration>,
    /// How long the rounds of a kind collect events.
    pub(super) durations: BTreeMap<String, Durations>,
    pub(super) hooks: Hooks<B>,
    /// Ends when the runtime begins to stop.
    pub(super) stopping: CancellationToken,
    /// Bounds on the turns of a kind.
    pub(super) rates: BTreeMap<String, KindRates>,
    pub(super) worker: Uuid,
    pub(super) attended: Option<Arc<Attended>>,
    /// The first mistake; `start` returns it.
    wrong: Option<String>,
    #[cfg(feature = "emitter")]
    pub(super) emitter: Option<DurableEmitter<B>>,
}

impl<B: Backend> std::fmt::Debug for RuntimeBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<_> = self.handlers.keys().collect();
        f.debug_struct("RuntimeBuilder").field("kinds", &kinds).field("config", &self.config).finish_non_exhaustive()
    }
}

impl<B: Backend> RuntimeBuilder<B> {
    pub(super) fn new(pool: Pool<B>) -> Self {
        RuntimeBuilder {
            pool,
            config: RuntimeConfig::default(),
            handlers: HashMap::new(),
            journals: BTreeMap::new(),
            durations: BTreeMap::new(),
            hooks: BTreeMap::new(),
            stopping: CancellationToken::new(),
            rates: BTreeMap::new(),
            worker: Uuid::new_v4(),
            attended: None,
            wrong: None,
            #[cfg(feature = "emitter")]
            emitter: None,
        }
    }

    /// Registers a processor for a kind of recipients: `"order"` for `order/4711`. Under load its recipients are
    /// processed in rounds, unless it [commits alone](Processor::commits_alone).
    pub fn processor<P: Processor<B> + 'static>(self, kind: &str, processor: P) -> Self {
        let lane = if processor.commits_alone() { Lane::Turns } else { Lane::of_kind(self.handlers.len()) };
        self.register(kind, Handler::Processor(Arc::new(processor), lane))
    }

    /// Registers a reducer for a kind of recipients; its recipients are processed in rounds.
    pub fn reducer<R, C>(self, kind: &str, reducer: R) -> Self
    where
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        self.register(kind, Handler::Reducer(Arc::new(TypedReducer::<R, C>::new(reducer)), Lane::REDUCERS))
    }

    /// Lets the rounds of a kind collect events: a round waits while it is younger than `min`, and begins at `max`,
    /// even though an earlier round of the kind has not committed. Both are zero for a kind that was not given any.
    ///
    /// Use it where many small writes are worse than some delay: readings of a second become one write. The time counts
    /// from the first recipient that is ready. A round that is as large as rounds get does not wait. Rounds of the kind
    /// commit one after the other: the next one lists and decides meanwhile, and then stalls. A recipient that fails
    /// gets turns of its own, without a wait.
    ///
    /// # Errors
    ///
    /// [`start`](RuntimeBuilder::start) refuses durations of a kind that is not registered, of one that [commits
    /// alone](Processor::commits_alone), and a `min` above `max`.
    ///
    /// # Examples
    ///
    /// See `examples/seconds.rs`.
    pub fn round_durations(mut self, kind: &str, min: Duration, max: Duration) -> Self {
        self.durations.insert(kind.to_owned(), Durations { min, max });
        self
    }

    /// Wraps each transaction in which turns of a kind commit, of rounds and of single recipients: [`RoundHooks`] has
    /// the methods and the order of their calls. A kind has none by default. A second call for a kind replaces its
    /// hooks.
    ///
    /// Use it to bound how many heavy rounds run at the same time, or to write with one statement what many turns have
    /// put into a cache. The rounds of the kind take recipients of no other kind. A kind that [commits
    /// alone](Processor::commits_alone) may have hooks, too.
    ///
    /// # Errors
    ///
    /// [`start`](RuntimeBuilder::start) refuses hooks of a kind that is not registered.
    ///
    /// # Examples
    ///
    /// See [`RoundHooks`], and `examples/aggregate.rs`.
    pub fn round_hooks<H: RoundHooks<B> + 'static>(mut self, kind: &str, hooks: H) -> Self {
        self.hooks.insert(kind.to_owned(), Box::new(TypedHooks::new(hooks, self.stopping.clone())));
        self
    }

    /// Bounds the turns of a kind: the time between two turns of a recipient, the turns at the same time, and the
    /// turns in a time. A recipient that may not begin yet is held in the queue: it uses no worker, its events stay in
    /// their eventbox, and all that have come by then go into its next turn.
    ///
    /// Use it to be gentle with something that the turns call, or to make one turn of many events. Rates are no part of
    /// correctness, and cost no statement: each process keeps them in its memory, and takes of each bound the part of
    /// the 256 shards that it works on. So a bound holds over all processes, with these limits:
    ///
    /// * `max_concurrent` and the burst of a rate are rounded down, and each process has 1 at least. With more
    ///   processes than `max_concurrent`, as many turns as processes may run. For one turn at a time over all
    ///   processes, let the turns lock a row of yours.
    /// * A process leaves unused what its own recipients do not need.
    /// * A shard in hand-over counts in both processes until the new holder works on it, and turns in flight end in the
    ///   old one. Meanwhile the bounds of both add up.
    /// * The last turns of recipients, and the tokens, are in memory. After a hand-over or a restart a recipient may
    ///   begin its next turn up to one `min_interval` early, once, and a rate begins with its burst.
    /// * The last turns of 100,000 recipients of a kind are remembered. The next turns of others may begin early.
    /// * Without leases ([`RuntimeConfig::leases`] is `None`) each process keeps the whole bounds for itself.
    ///
    /// A turn that fails, or that another writer overtakes, takes a token, too. `min_interval` counts committed turns
    /// only; a failing recipient has its back-off. A probe of a held kind begins whatever the rates say.
    ///
    /// [`RuntimeStats::held_by_rates`](crate::runtime::RuntimeStats::held_by_rates), the gauge
    /// `eventbox_runtime_held_recipients` and [`admin::why`](crate::admin::why()) tell who is held.
    ///
    /// # Units and limits
    ///
    /// For tokens and slots a kind holds at most [`RuntimeConfig::max_ready`] recipients in memory. Scans find the
    /// others when half of them have begun.
    ///
    /// # Errors
    ///
    /// [`start`](RuntimeBuilder::start) refuses rates of a kind that is not registered, times of zero or over
    /// [`MAX_RATE_PERIOD`](crate::runtime::MAX_RATE_PERIOD), and too many prefixes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
    /// # use std::time::Duration;
    /// # struct Counter;
    /// # impl Reducer for Counter {
    /// #     type State = u64;
    /// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
    /// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
    /// # let directory = tempfile::tempdir()?;
    /// # let file = directory.path().join("boxes.db");
    /// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::runtime::{KindRates, Rate, Runtime};
    ///
    /// let rates = KindRates::new()
    ///     .min_interval(Duration::from_secs(1))
    ///     .max_concurrent(20.try_into()?)
    ///     .rate(Rate::new(6_000.try_into()?, Duration::from_secs(60)).burst(100.try_into()?))
    ///     .rate_of("trial-", Rate::new(1.try_into()?, Duration::from_secs(1)));
    /// let runtime = Runtime::builder(pool).reducer("airport", Counter).rates("airport", rates).start().await?;
    /// # runtime.stop(Duration::from_secs(5)).await;
    /// # Ok(()) }
    /// ```
    pub fn rates(mut self, kind: &str, rates: KindRates) -> Self {
        self.rates.insert(kind.to_owned(), rates);
        self
    }

    /// Sends the messages of turns from memory, right after their commit. Without an emitter here, a host that
    /// retransmits sends them later.
    ///
    /// The caller keeps the emitter: start it before the runtime, and stop it after the runtime.
    #[cfg(feature = "emitter")]
    pub fn emitter(mut self, emitter: DurableEmitter<B>) -> Self {
        self.emitter = Some(emitter);
        self
    }

    /// Keeps a journal of a kind: what became of each event that left its eventbox, for this time by the database's
    /// clock. No kind has a journal by default.
    ///
    /// Use it where somebody will ask what became of an event: [`admin::history`](crate::admin::history()),
    /// [`admin::fate`](crate::admin::fate()) and [`admin::audit`](crate::admin::audit()) answer. Turns and rounds write
    /// the journal in their own transactions, with one more statement each, and the runtime deletes old rows every
    /// minute. From the start on, repairs of an operator note what they remove, too.
    ///
    /// To end a journal, call it once with [`Duration::ZERO`]: nothing is written any more, and the runtime deletes
    /// what is there. The last process that starts decides for all of them how long rows stay.
    ///
    /// # Examples
    ///
    /// ```
    /// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
    /// # use std::time::Duration;
    /// # struct Counter;
    /// # impl Reducer for Counter {
    /// #     type State = u64;
    /// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
    /// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
    /// # let directory = tempfile::tempdir()?;
    /// # let file = directory.path().join("boxes.db");
    /// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::runtime::Runtime;
    ///
    /// let week = Duration::from_secs(7 * 24 * 60 * 60);
    /// let runtime = Runtime::builder(pool).reducer("airport", Counter).journal("airport", week).start().await?;
    /// # runtime.stop(Duration::from_secs(5)).await;
    /// # Ok(()) }
    /// ```
    pub fn journal(mut self, kind: &str, keep: Duration) -> Self {
        self.journals.insert(kind.to_owned(), keep);
        self
    }

    /// Works on these recipients only, whoever holds their shards, and takes no shards. `worker` is its id as a member.
    #[cfg(feature = "peer")]
    pub(crate) fn attending(mut self, attended: Arc<Attended>, worker: Uuid) -> Self {
        self.attended = Some(attended);
        self.worker = worker;
        self
    }

    /// Sets the settings instead of the defaults.
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.config = config;
        self
    }

    fn register(mut self, kind: &str, handler: Handler<B>) -> Self {
        let problem = match Recipient::new(kind, "key") {
            Err(error) => Some(error.to_string()),
            Ok(_) if self.handlers.contains_key(kind) => Some(format!("the kind {kind} is registered twice")),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            self.wrong.get_or_insert(problem);
        } else {
            self.handlers.insert(kind.into(), handler);
        }
        self
    }

    /// Gives each kind with durations or with hooks rounds of its own.
    fn separate_kinds(&mut self) -> Result<(), String> {
        let registered = self.handlers.len();
        let kinds: BTreeSet<&String> = self.durations.keys().chain(self.hooks.keys()).collect();
        for (place, kind) in kinds.into_iter().enumerate() {
            let durations = self.durations.get(kind);
            let Some(handler) = self.handlers.get_mut(kind.as_str()) else {
                let what = if durations.is_some() { "durations" } else { "hooks" };
                return Err(format!("{what} of rounds of {kind} are given, but no code for the kind is registered"));
            };
            if durations.is_some_and(|durations| durations.min > durations.max) {
                return Err(format!("the shortest duration of rounds of {kind} is longer than the longest"));
            }
            if !handler.separate(Lane::of_kind(registered + place)) && durations.is_some() {
                return Err(format!("durations of rounds of {kind} are given, but the kind commits alone"));
            }
        }
        Ok(())
    }

    fn check_rates(&self) -> Result<(), String> {
        for (kind, rates) in &self.rates {
            if !self.handlers.contains_key(kind.as_str()) {
                return Err(format!("rates of {kind} are given, but no code for the kind is registered"));
            }
            rates.check().map_err(|problem| format!("the rates of {kind}: {problem}"))?;
        }
        Ok(())
    }

    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] with the name of the wrong setting, kind or migration, and what to do; transient and database
    /// errors. Then nothing is started.
    pub async fn start(mut self) -> Result<Runtime<B>> {
        let setup = |problem: &str| Error::setup("start the runtime", problem);
        if let Some(wrong) = &self.wrong {
            return Err(setup(wrong));
        }
        if self.handlers.is_empty() {
            return Err(setup("no kind is registered: add a processor or a reducer"));
        }
        if let Some(kind) = self.journals.keys().find(|kind| !self.handlers.contains_key(kind.as_str())) {
            return Err(setup(&format!(
                "a journal of the kind {kind} is wanted, but no code for the kind is registered"
            )));
        }
        self.separate_kinds().map_err(|problem| setup(&problem))?;
        self.check_rates().map_err(|problem| setup(&problem))?;
        self.config.check(self.pool.options().get_max_connections())?;
        eventbox::check(&self.pool).await?;
        eventbox::check_migrated(&self.pool).await?;
        if !self.journals.is_empty() {
            let noted = note_journals(&self.pool, &self.journals).await;
            noted.map_err(|fault| fault.during("start the runtime"))?;
        }
        let paused = answered(&self.pool, async { B::list_paused_kinds(&mut *hold(&self.pool).await?).await });
        let paused = paused.await.map_err(|fault: Fault| fault.during("start the runtime"))?;
        let held = PausedKinds { paused: paused.into_iter().map(|(kind, _)| kind).collect(), ..PausedKinds::default() };
        let runtime = Runtime::run(self, held);
        tracing::info!(worker = %runtime.worker(), engine = B::NAME, "runtime started");
        Ok(runtime)
    }
}

/// Writes the kinds with journals into their table, for operators.
async fn note_journals<B: Backend>(pool: &Pool<B>, journals: &BTreeMap<String, Duration>) -> Result<(), Fault> {
    let noting = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        for (kind, keep) in journals {
            B::note_journal_kind(conn, kind, micros(*keep)).await?;
        }
        Ok(())
    });
    noting.await
}
