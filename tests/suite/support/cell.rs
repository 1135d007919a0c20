//! An entity for tests of turns: a cell with a population, stored in a table of its own.
//! A second table records the side effects.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::dsset::{Item, Set};
use eventbox::{BoxError, EVersion, Emitted, Event, Mutation, Processor, Receipt, Recipient, SideEffect};
use sqlx::{Postgres, Row, Sqlite};

use super::{TestDb, TestEngine};

type Decide<B> = dyn Fn(&Recipient, &[Event], i64) -> Result<Mutation<B, i64>, BoxError> + Send + Sync;
type Hook = dyn Fn(usize) -> BoxFuture + Send + Sync;
type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Statements on the tables of the test, for each engine.
pub(crate) trait CellEngine: TestEngine {
    /// Statement that creates the table of side effects. Its rows are numbered, because a table has no order.
    const EFFECTS: &'static str;

    fn load(conn: &mut Self::Connection, key: &str) -> impl Future<Output = Result<(i64, i64), sqlx::Error>> + Send;
    fn save(
        tx: &mut Self::Connection,
        key: &str,
        population: i64,
        eversion: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    fn note(tx: &mut Self::Connection, text: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    fn emit(
        tx: &mut Self::Connection,
        to: &Recipient,
        event: Event,
    ) -> impl Future<Output = eventbox::Result<()>> + Send;
    fn emit_all(
        tx: &mut Self::Connection,
        events: &[(Recipient, Event)],
    ) -> impl Future<Output = eventbox::Result<Vec<Emitted>>> + Send;
    fn emit_on(
        pool: &sqlx::Pool<Self>,
        to: &Recipient,
        event: Event,
    ) -> impl Future<Output = eventbox::Result<Receipt>> + Send;
    fn publish_in(
        tx: &mut Self::Connection,
        to: &Recipient,
        event: Event,
    ) -> impl Future<Output = eventbox::Result<Receipt>> + Send;
    fn emit_all_on(
        pool: &sqlx::Pool<Self>,
        events: &[(Recipient, Event)],
    ) -> impl Future<Output = eventbox::Result<Vec<Emitted>>> + Send;
    fn add_on(
        pool: &sqlx::Pool<Self>,
        set: &Set,
        items: &[Item],
    ) -> impl Future<Output = eventbox::Result<Vec<Emitted>>> + Send;
}

macro_rules! cell_engine {
    ($engine:ty, $for_update:literal, $number:literal) => {
        impl CellEngine for $engine {
            const EFFECTS: &'static str = concat!("CREATE TABLE effect (n ", $number, ", text TEXT NOT NULL)");

            async fn load(
                conn: &mut <Self as sqlx::Database>::Connection,
                key: &str,
            ) -> Result<(i64, i64), sqlx::Error> {
                let query = sqlx::query(concat!("SELECT population, eversion FROM cell WHERE key = $1", $for_update));
                let row = query.bind(key).fetch_optional(conn).await?;
                row.map_or(Ok((0, 0)), |row| Ok((row.try_get(0)?, row.try_get(1)?)))
            }

            async fn save(
                tx: &mut <Self as sqlx::Database>::Connection,
                key: &str,
                population: i64,
                eversion: i64,
            ) -> Result<(), sqlx::Error> {
                let query = sqlx::query(
                    "INSERT INTO cell (key, population, eversion) VALUES ($1, $2, $3)
                     ON CONFLICT (key) DO UPDATE SET population = excluded.population, eversion = excluded.eversion",
                );
                query.bind(key).bind(population).bind(eversion).execute(tx).await.map(drop)
            }

            async fn note(tx: &mut <Self as sqlx::Database>::Connection, text: String) -> Result<(), sqlx::Error> {
                sqlx::query("INSERT INTO effect (text) VALUES ($1)").bind(text).execute(tx).await.map(drop)
            }

            async fn emit(
                tx: &mut <Self as sqlx::Database>::Connection,
                to: &Recipient,
                event: Event,
            ) -> eventbox::Result<()> {
                eventbox::emit(tx, to, event).await.map(drop)
            }

            async fn emit_all(
                tx: &mut <Self as sqlx::Database>::Connection,
                events: &[(Recipient, Event)],
            ) -> eventbox::Result<Vec<Emitted>> {
                eventbox::emit_all(tx, events).await
            }

            async fn emit_on(pool: &sqlx::Pool<Self>, to: &Recipient, event: Event) -> eventbox::Result<Receipt> {
                eventbox::emit(pool, to, event).await
            }

            async fn publish_in(
                tx: &mut <Self as sqlx::Database>::Connection,
                to: &Recipient,
                event: Event,
            ) -> eventbox::Result<Receipt> {
                eventbox::emit(tx, to, event).await
            }

            async fn emit_all_on(
                pool: &sqlx::Pool<Self>,
                events: &[(Recipient, Event)],
            ) -> eventbox::Result<Vec<Emitted>> {
                eventbox::emit_all(pool, events).await
            }

            async fn add_on(
                pool: &sqlx::Pool<Self>,
                set: &Set,
                items: &[Item],
            ) -> eventbox::Result<Vec<Emitted>> {
                set.add(pool, items).await
            }
        }
    };
}

cell_engine!(Postgres, " FOR UPDATE", "BIGINT GENERATED ALWAYS AS IDENTITY");
cell_engine!(Sqlite, "", "INTEGER PRIMARY KEY");

/// Creates the tables of cells and of side effects.
pub(crate) async fn create_cells<B: CellEngine>(db: &TestDb<B>) {
    db.run("CREATE TABLE cell (key TEXT PRIMARY KEY, eversion BIGINT NOT NULL, population BIGINT NOT NULL)").await;
    db.run(B::EFFECTS).await;
}

/// Returns the notes of the side effects, in order.
pub(crate) async fn effects<B: TestEngine>(db: &TestDb<B>) -> Vec<String> {
    db.texts("SELECT text FROM effect ORDER BY n").await
}

/// Returns a side effect that writes a note.
pub(crate) fn noting<B: CellEngine>(text: impl Into<String>) -> SideEffect<B> {
    let text = text.into();
    SideEffect::new(move |tx| Box::pin(async move { Ok(B::note(tx, text).await?) }))
}

/// Returns a side effect that fails.
pub(crate) fn failing<B: CellEngine>(with: &'static str) -> SideEffect<B> {
    SideEffect::new(move |_tx| Box::pin(async move { Err(with.into()) }))
}

/// The processor of cells, whose state is the population. The test gives the decision and hooks for the steps.
pub(crate) struct Cells<B: CellEngine> {
    decide: Box<Decide<B>>,
    after_load: Option<Box<Hook>>,
    before_deciding: Option<Box<Hook>>,
    fail_fetch: bool,
    fail_save: bool,
    is_alone: bool,
    pub(crate) loads: AtomicUsize,
    pub(crate) fetches: AtomicUsize,
    pub(crate) saves: AtomicUsize,
}

impl<B: CellEngine> Cells<B> {
    pub(crate) fn deciding<F>(decide: F) -> Self
    where
        F: Fn(&Recipient, &[Event], i64) -> Result<Mutation<B, i64>, BoxError> + Send + Sync + 'static,
    {
        Cells {
            decide: Box::new(decide),
            after_load: None,
            before_deciding: None,
            fail_fetch: false,
            fail_save: false,
            is_alone: false,
            loads: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
            saves: AtomicUsize::new(0),
        }
    }

    /// Gives each cell turns of its own.
    pub(crate) fn alone(self) -> Self {
        Cells { is_alone: true, ..self }
    }

    pub(crate) fn failing_to_fetch(self) -> Self {
        Cells { fail_fetch: true, ..self }
    }

    pub(crate) fn failing_to_save(self) -> Self {
        Cells { fail_save: true, ..self }
    }

    /// Runs a hook between the load of the state and the listing of the events. The hook gets the attempt, from 1.
    pub(crate) fn after_load<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.after_load = Some(Box::new(move |attempt| Box::pin(hook(attempt))));
        self
    }

    /// Runs a hook between the listing and the transaction. The hook gets the attempt, from 1.
    pub(crate) fn before_deciding<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.before_deciding = Some(Box::new(move |attempt| Box::pin(hook(attempt))));
        self
    }
}

impl<B: CellEngine> Processor<B> for Cells<B> {
    type State = i64;

    fn commits_alone(&self) -> bool {
        self.is_alone
    }

    /// A cell grows by itself.
    fn runs_without_events(&self) -> bool {
        true
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        let (population, eversion) = B::load(conn, to.as_str()).await?;
        let attempt = self.loads.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(hook) = &self.after_load {
            hook(attempt).await;
        }
        Ok((population, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        state: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        if let Some(hook) = &self.before_deciding {
            hook(self.loads.load(Ordering::SeqCst)).await;
        }
        (self.decide)(to, events, *state)
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if self.fail_fetch {
            return Err("fetch_eversion fails".into());
        }
        Ok(EVersion(B::load(tx, to.as_str()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        state: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        self.saves.fetch_add(1, Ordering::SeqCst);
        if self.fail_save {
            return Err("save_state fails".into());
        }
        Ok(B::save(tx, to.as_str(), *state, eversion.0).await?)
    }
}
