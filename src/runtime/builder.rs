//! The builder of a runtime: its kinds, settings and emitter.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Pool;

use super::config::RuntimeConfig;
use super::handle::Runtime;
use super::working::paused::PausedKinds;
use super::working::registry::{Handler, Handlers};
#[cfg(feature = "emitter")]
use crate::emitter::DurableEmitter;
use crate::error::{Error, Result};
use crate::eventbox::{self, Processor, Reducer, StateCodec, TypedReducer};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, answered, hold};

/// Builder of a [`Runtime`].
pub struct RuntimeBuilder<B: Backend> {
    pub(super) pool: Pool<B>,
    pub(super) config: RuntimeConfig,
    pub(super) handlers: Handlers<B>,
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
            wrong: None,
            #[cfg(feature = "emitter")]
            emitter: None,
        }
    }

    /// Registers a processor for a kind of recipients: `"order"` for `order/4711`.
    pub fn processor<P: Processor<B> + 'static>(self, kind: &str, processor: P) -> Self {
        self.register(kind, Handler::Processor(Arc::new(processor)))
    }

    /// Registers a reducer for a kind of recipients; its recipients are processed in rounds.
    pub fn reducer<R, C>(self, kind: &str, reducer: R) -> Self
    where
        R: Reducer<C> + 'static,
        C: StateCodec<R::State> + 'static,
    {
        self.register(kind, Handler::Reducer(Arc::new(TypedReducer::<R, C>::new(reducer))))
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

    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] with the name of the wrong setting, kind or migration, and what to do; transient and database
    /// errors. Then nothing is started.
    pub async fn start(self) -> Result<Runtime<B>> {
        let setup = |problem: &str| Error::setup("start the runtime", problem);
        if let Some(wrong) = &self.wrong {
            return Err(setup(wrong));
        }
        if self.handlers.is_empty() {
            return Err(setup("no kind is registered: add a processor or a reducer"));
        }
        self.config.check(self.pool.options().get_max_connections())?;
        eventbox::check(&self.pool).await?;
        eventbox::check_migrated(&self.pool).await?;
        let paused = answered(&self.pool, async { B::list_paused_kinds(&mut *hold(&self.pool).await?).await });
        let paused = paused.await.map_err(|fault: Fault| fault.during("start the runtime"))?;
        let held = PausedKinds { paused: paused.into_iter().map(|(kind, _)| kind).collect(), ..PausedKinds::default() };
        let runtime = Runtime::run(self, held);
        tracing::info!(worker = %runtime.worker(), engine = B::NAME, "runtime started");
        Ok(runtime)
    }
}
