//! Round hooks: they wrap every transaction of their kind, and each begin that succeeded has exactly one end.

mod failing;
mod wrapping;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::BoxError;
use eventbox::runtime::{Round, RoundHooks, RoundResult, Runtime, RuntimeConfig};

use super::STOP;
use super::processor_rounds::{CELLS, all_but_one_have_grown, fill};
use crate::support::{CellEngine, Cells, SOON, TestDb, effects, eventually};

type BoxFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;
type Begin = dyn Fn() -> BoxFuture<'static> + Send + Sync;
type Finalize<B> = dyn for<'t> Fn(&'t mut <B as sqlx::Database>::Connection) -> BoxFuture<'t> + Send + Sync;

/// A call of a hook.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Begun(Round),
    Finalized(Round),
    Finished(Round, RoundResult),
}

/// The calls of the hooks of a test, in order. A begin is noted when it succeeds.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn add(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }

    fn all(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }

    fn finalized(&self) -> usize {
        self.all().iter().filter(|call| matches!(call, Call::Finalized(_))).count()
    }

    /// Waits until so many rounds have begun. The caller has a deadline.
    async fn until_begun(&self, count: usize) {
        while self.all().iter().filter(|call| matches!(call, Call::Begun(_))).count() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn results(&self) -> Vec<(Round, RoundResult)> {
        let result = |call| if let Call::Finished(round, result) = call { Some((round, result)) } else { None };
        self.all().into_iter().filter_map(result).collect()
    }

    fn committed(&self) -> Vec<Round> {
        let committed = |(round, result): (Round, RoundResult)| (result == RoundResult::Committed).then_some(round);
        self.results().into_iter().filter_map(committed).collect()
    }

    /// Returns the rounds that failed with this text.
    fn failed(&self, with: &str) -> Vec<Round> {
        let fails = |result: &RoundResult| matches!(result, RoundResult::Failed(text) if text.contains(with));
        self.results().into_iter().filter(|(_, result)| fails(result)).map(|(round, _)| round).collect()
    }

    /// Checks that each round has begun once, was finalized at most once, and has ended once, in this order. Returns
    /// the largest number of rounds at the same time.
    fn check(&self) -> usize {
        let (mut stages, mut open, mut most) = (BTreeMap::new(), 0_usize, 0_usize);
        for call in self.all() {
            match call {
                Call::Begun(round) => {
                    assert_eq!(stages.insert(round.number, "begun"), None, "{round:?}");
                    open += 1;
                }
                Call::Finalized(round) => {
                    assert_eq!(stages.insert(round.number, "finalized"), Some("begun"), "{round:?}");
                }
                Call::Finished(round, result) => {
                    let before = stages.insert(round.number, "finished");
                    assert!(matches!(before, Some("begun" | "finalized")), "{before:?}, {round:?}, {result:?}");
                    let commits = result == RoundResult::Committed;
                    assert!(!commits || before == Some("finalized"), "a commit without finalize: {round:?}");
                    open -= 1;
                }
            }
            most = most.max(open);
        }
        assert_eq!(open, 0, "each round has ended");
        most
    }
}

/// Hooks that note their calls. `finalize` notes its recipients in the table of side effects, too.
struct Watching<B: CellEngine> {
    calls: Calls,
    begin: Option<Box<Begin>>,
    finalize: Option<Box<Finalize<B>>>,
    finish: Option<Box<dyn Fn() + Send + Sync>>,
}

impl<B: CellEngine> Watching<B> {
    fn new(calls: &Calls) -> Self {
        Watching { calls: calls.clone(), begin: None, finalize: None, finish: None }
    }

    fn beginning<F>(self, begin: F) -> Self
    where
        F: Fn() -> BoxFuture<'static> + Send + Sync + 'static,
    {
        Watching { begin: Some(Box::new(begin)), ..self }
    }

    fn finalizing<F>(self, finalize: F) -> Self
    where
        F: for<'t> Fn(&'t mut B::Connection) -> BoxFuture<'t> + Send + Sync + 'static,
    {
        Watching { finalize: Some(Box::new(finalize)), ..self }
    }

    fn finishing(self, finish: impl Fn() + Send + Sync + 'static) -> Self {
        Watching { finish: Some(Box::new(finish)), ..self }
    }

    /// Fails in finalize while `fails`.
    fn failing_to_finalize(self, fails: &Arc<AtomicBool>, panics: bool) -> Self {
        let fails = Arc::clone(fails);
        self.finalizing(move |_| {
            let fails = fails.load(Ordering::SeqCst);
            Box::pin(async move {
                assert!(!fails || !panics, "it cannot flush");
                if fails { Err("it cannot flush".into()) } else { Ok(()) }
            })
        })
    }
}

impl<B: CellEngine> RoundHooks<B> for Watching<B> {
    async fn begin_round(&self, round: &Round) -> Result<(), BoxError> {
        if let Some(begin) = &self.begin {
            begin().await?;
        }
        self.calls.add(Call::Begun(round.clone()));
        Ok(())
    }

    async fn finalize(&self, tx: &mut B::Connection, round: &Round) -> Result<(), BoxError> {
        self.calls.add(Call::Finalized(round.clone()));
        B::note(&mut *tx, format!("final:{}", keys(round).join(","))).await?;
        match &self.finalize {
            Some(finalize) => finalize(tx).await,
            None => Ok(()),
        }
    }

    fn finish_round(&self, round: &Round, result: &RoundResult) {
        self.calls.add(Call::Finished(round.clone(), result.clone()));
        if let Some(finish) = &self.finish {
            finish();
        }
    }
}

/// Returns the keys of the recipients of a round, in order.
fn keys(of: &Round) -> Vec<String> {
    let mut keys: Vec<_> = of.recipients.iter().map(|to| to.key().to_owned()).collect();
    keys.sort();
    keys
}

async fn start<B: CellEngine>(
    db: &TestDb<B>,
    cells: Cells<B>,
    hooks: Watching<B>,
    config: RuntimeConfig,
) -> Runtime<B> {
    let builder = Runtime::builder(db.open(6)).processor("cell", cells).round_hooks("cell", hooks);
    builder.config(config).start().await.unwrap()
}

async fn stop<B: CellEngine>(runtime: &Runtime<B>) {
    let report = runtime.stop(STOP).await;
    assert!(report.complete, "{report:?}");
}

async fn health_says<B: CellEngine>(runtime: &Runtime<B>, text: &str) {
    eventually(SOON, async || runtime.health().problems.iter().any(|problem| problem.contains(text))).await;
}

/// Begins again with new tables of cells.
async fn fill_again<B: CellEngine>(db: &TestDb<B>) {
    db.run("DROP TABLE IF EXISTS cell").await;
    db.run("DROP TABLE IF EXISTS effect").await;
    db.run("DELETE FROM eventbox_state").await;
    fill(db).await;
}

/// Checks that nothing was applied, and that no event was blamed.
async fn nothing_is_applied<B: CellEngine>(db: &TestDb<B>, events: usize) {
    assert_eq!(effects(db).await, Vec::<String>::new());
    assert_eq!(db.count("eventbox_event").await, events as i64);
    assert_eq!((db.count("eventbox_dead_letter").await, db.count("eventbox_failure").await), (0, 0));
}

/// Checks that every cell has grown once. Returns the notes of finalize.
async fn all_have_grown<B: CellEngine>(db: &TestDb<B>) -> Vec<String> {
    let finals = effects(db).await.into_iter().filter(|note| note.starts_with("final:")).collect();
    db.run("DELETE FROM effect WHERE text LIKE 'final:%'").await;
    all_but_one_have_grown(db, CELLS).await;
    finals
}
