//! A commit that waited for a standby and was interrupted: nothing of it leaves before a standby has it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::eventbox::runtime::Runtime;
use ::eventbox::{
    BoxError, CloudEvent, Emitted, Event, Outcome, PostProcess, Recipient, Reducer, Status, TurnOptions, emit,
    process_batch_with, reduce_batch, status,
};
use sqlx::PgPool;

use crate::support::cluster::Cluster;
use crate::support::receiver::{Fake, started};
use crate::support::running::{STOP, config};
use crate::support::{Decider, SOON, eventually};

/// Number of times that a waiting commit is interrupted.
const INTERRUPTIONS: usize = 3;

/// An operator's action on a waiting commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    Terminated,
    Restarted,
}

use Interruption::{Restarted, Terminated};

fn to() -> Recipient {
    Recipient::new("order", "1").unwrap()
}

/// Publishes each event, and counts its hooks.
struct Telling(Arc<AtomicUsize>);

impl Reducer for Telling {
    type State = usize;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: usize) -> Result<Outcome<usize>, BoxError> {
        let message = CloudEvent::builder("tests", "told").payload("x").build()?;
        let hooks = Arc::clone(&self.0);
        let hook = PostProcess::new(move || async move {
            hooks.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        Ok(Outcome::to(count + events.len()).consuming(events).publishing([message]).post_process(hook))
    }
}

/// Returns the number of commits that wait for the standby, and 0 while the server restarts.
async fn waiting(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or(0)
}

/// Interrupts the commits that wait, and waits until it is done.
async fn interrupt(cluster: &Cluster, watch: &PgPool, how: Interruption) {
    eventually(SOON, async || waiting(watch).await > 0).await;
    match how {
        Terminated => {
            let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let old: Vec<i32> = sqlx::query_scalar(sql).fetch_all(watch).await.unwrap();
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM unnest($1::int4[]) pid";
            let _: i64 = sqlx::query_scalar(sql).bind(&old).fetch_one(watch).await.unwrap();
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
            let left = async || sqlx::query_scalar::<_, i64>(sql).bind(&old).fetch_one(watch).await.unwrap();
            eventually(SOON, async || left().await == 0).await;
        }
        Restarted => tokio::task::block_in_place(|| cluster.restart()),
    }
}

/// Makes commits wait for a standby, and returns once they do: the checkpointer of a busy server reads the setting
/// late.
async fn wait_from_now_on(cluster: &Cluster, watch: &PgPool) {
    cluster.wants_a_standby(true);
    const PROBE: &str = "SELECT 1 FROM pg_logical_emit_message(true, 'probe', '')";
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = $1";
    eventually(SOON, async || {
        let (used, mut waits) = (watch.clone(), None);
        let probe = tokio::spawn(async move { sqlx::query(PROBE).execute(&used).await });
        eventually(SOON, async || {
            waits = sqlx::query_scalar::<_, i32>(sql).bind(PROBE).fetch_optional(watch).await.unwrap();
            waits.is_some() || probe.is_finished()
        })
        .await;
        if let Some(pid) = waits {
            let _: bool = sqlx::query_scalar("SELECT pg_cancel_backend($1)").bind(pid).fetch_one(watch).await.unwrap();
        }
        probe.await.unwrap().unwrap();
        waits.is_some()
    })
    .await;
}

/// A cluster with tables and an event, whose commits wait for a standby from now on.
async fn stage(events: usize) -> (Cluster, PgPool, PgPool) {
    let cluster = Cluster::start();
    let pool = cluster.pool(6);
    ::eventbox::migrate(&pool).await.unwrap();
    for _ in 0..events {
        emit(&pool, &to(), Event::new("x")).await.unwrap();
    }
    let watch = cluster.pool(3);
    wait_from_now_on(&cluster, &watch).await;
    (cluster, pool, watch)
}

/// Interrupts the commits of a call several times. The call returns only when its commit is acknowledged, and then it
/// succeeds.
async fn answers_late<T: Send + 'static>(
    cluster: &Cluster,
    watch: &PgPool,
    how: Interruption,
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let call = tokio::spawn(call);
    for n in 0..INTERRUPTIONS {
        interrupt(cluster, watch, how).await;
        // The call handles the interruption, and then its commit waits for the standby again.
        eventually(SOON, async || waiting(watch).await > 0 || call.is_finished()).await;
        assert!(!call.is_finished(), "{how:?} {n} times: answered though no standby has it");
    }
    tokio::task::block_in_place(|| cluster.wants_a_standby(false));
    tokio::time::timeout(SOON, call).await.expect("it goes on when commits are acknowledged").unwrap()
}

const ONE: NonZeroU32 = NonZeroU32::MIN;

async fn turns(how: Interruption) {
    let (cluster, pool, watch) = stage(1).await;
    let used = pool.clone();
    let call = async move {
        let hook = || PostProcess::new(|| async { Ok(()) });
        let decide = move |events: &[Event]| {
            let message = CloudEvent::builder("tests", "told").payload("x").build().unwrap();
            let turn = ::eventbox::Transition::stay().consuming(events).publishing([message]);
            turn.post_process(hook()).into()
        };
        process_batch_with(&used, &to(), &Decider(decide), &TurnOptions::new(ONE).return_hooks()).await
    };
    let turn = answers_late(&cluster, &watch, how, call).await.unwrap();
    assert_eq!((turn.number, turn.consumed, turn.contention), (Some(1), 1, 0));
    assert_eq!((turn.published.len(), turn.post_process.len()), (1, 1));
    pool.close().await;
    watch.close().await;
}

/// A turn of a processor whose COMMIT is interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_whose_backend_is_terminated_waits_for_the_standby() {
    turns(Terminated).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_a_restart_interrupts_waits_for_the_standby() {
    turns(Restarted).await;
}

/// A turn of a reducer, and what its receipt says meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_not_done_before_the_standby_has_it() {
    let (cluster, pool, watch) = stage(0).await;
    cluster.wants_a_standby(false);
    let off = async || waiting(&watch).await == 0;
    eventually(SOON, off).await;
    let receipt = emit(&pool, &to(), Event::new("x")).await.unwrap();
    wait_from_now_on(&cluster, &watch).await;
    let hooks = Arc::new(AtomicUsize::new(0));
    let (used, reducer) = (pool.clone(), Telling(Arc::clone(&hooks)));
    let turn = tokio::spawn(async move { reduce_batch(&used, &to(), &reducer, ONE).await });
    interrupt(&cluster, &watch, Terminated).await;
    eventually(SOON, async || waiting(&watch).await > 0 || turn.is_finished()).await;
    assert!(!turn.is_finished(), "answered though no standby has it");
    let (used, asked) = (pool.clone(), receipt.clone());
    let asking = tokio::spawn(async move { status(&used, &asked).await });
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'WITH sought%'";
    let asks = async || sqlx::query_scalar::<_, i64>(sql).fetch_one(&watch).await.unwrap() > 0;
    eventually(SOON, async || asks().await || asking.is_finished()).await;
    assert!(!asking.is_finished(), "said to be done though no standby has it");
    cluster.wants_a_standby(false);
    assert_eq!(asking.await.unwrap().unwrap(), Status::Done { turn: 1 });
    assert_eq!(turn.await.unwrap().unwrap().consumed, 1);
    pool.close().await;
    watch.close().await;
}

/// The commit of a named emit is interrupted. Its second copy becomes a duplicate only when the standby has the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_waits_for_the_standby() {
    let (cluster, pool, watch) = stage(0).await;
    let used = pool.clone();
    let emitting = move || {
        let used = used.clone();
        async move { emit(&used, &to(), Event::new("x").named("n")).await }
    };
    let first = tokio::spawn(emitting.clone()());
    interrupt(&cluster, &watch, Terminated).await;
    assert!(first.await.unwrap().is_err());
    let again = answers_late(&cluster, &watch, Terminated, async move {
        loop {
            match emitting().await {
                Ok(receipt) => return receipt,
                Err(error) => assert!(matches!(error, ::eventbox::Error::Unknown { .. }), "{error:?}"),
            }
        }
    });
    assert_eq!(again.await, Emitted::Duplicate);
    pool.close().await;
    watch.close().await;
}

async fn rounds(how: Interruption) {
    let (cluster, pool, watch) = stage(1).await;
    let (hooks, fake) = (Arc::new(AtomicUsize::new(0)), Fake::ok());
    cluster.wants_a_standby(false);
    let emitter = started(&cluster.pool(4), &fake, |config| config.claim_ttl = Duration::from_secs(6)).await;
    let runtime = Runtime::builder(cluster.pool(6)).reducer("order", Telling(Arc::clone(&hooks)));
    let runtime = runtime.emitter(emitter.clone()).config(config()).start().await.unwrap();
    eventually(SOON, async || hooks.load(Ordering::SeqCst) == 1 && fake.events().len() == 1).await;
    // Written in a session that does not wait, so that the work alone waits.
    let mut unsure = watch.acquire().await.unwrap();
    sqlx::query("SET synchronous_commit = local").execute(&mut *unsure).await.unwrap();
    wait_from_now_on(&cluster, &watch).await;
    emit(&mut *unsure, &to(), Event::new("y")).await.unwrap();
    drop(unsure);
    let gone = async || {
        let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM eventbox_event").fetch_one(&watch).await;
        left.is_ok_and(|left| left == 0)
    };
    eventually(2 * SOON, async || {
        interrupt(&cluster, &watch, how).await;
        gone().await
    })
    .await;
    for n in 0..INTERRUPTIONS {
        interrupt(&cluster, &watch, how).await;
        let left = (hooks.load(Ordering::SeqCst), fake.events().len());
        assert_eq!(left, (1, 1), "{how:?} {n} times: left though no standby has it");
    }
    tokio::task::block_in_place(|| cluster.wants_a_standby(false));
    eventually(2 * SOON, async || fake.events().len() == 2).await;
    runtime.stop(STOP).await;
    emitter.stop(STOP).await;
    assert!(hooks.load(Ordering::SeqCst) <= 2);
    assert_eq!(fake.events().len(), 2);
    pool.close().await;
    watch.close().await;
}

/// Rounds of a runtime, with their hooks and messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_whose_backends_are_terminated_wait_for_the_standby() {
    rounds(Terminated).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_that_a_restart_interrupts_wait_for_the_standby() {
    rounds(Restarted).await;
}
