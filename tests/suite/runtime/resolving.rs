//! The resolver: which process works on a recipient, with waits. Two runtimes on one database play two processes.

use std::time::{Duration, Instant};

use eventbox::admin::{self, Operator, ShardChange, ShardSpec};
use eventbox::runtime::{ResolveOptions, ResolveStatus, Runtime, RuntimeConfig};
use eventbox::{Event, Receipt, Recipient, Status, testing};
use tokio::time::timeout;

use super::{STOP, config, leases, seen, tally, tallying};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Time until a timer is due that the test fires itself.
const LATER: Duration = Duration::from_secs(3_600);

/// Settings with leases that end during no test.
fn reached_at(endpoint: &str) -> RuntimeConfig {
    let mut config = config();
    let mut terms = leases();
    terms.lease_ttl = Duration::from_secs(600);
    config.leases = Some(terms);
    config.endpoint = Some(endpoint.to_owned());
    config.zone = format!("zone of {endpoint}");
    config
}

/// Starts a process that works on all shards.
async fn alone<B: TestEngine>(db: &TestDb<B>) -> Runtime<B> {
    let runtime = tallying(db.open(4)).config(reached_at("http://one:1")).start().await.unwrap();
    eventually(SOON, async || runtime.shards() == 256).await;
    runtime
}

/// Starts two processes that share the shards.
async fn two<B: TestEngine>(db: &TestDb<B>) -> (Runtime<B>, Runtime<B>) {
    let one = alone(db).await;
    let two = tallying(db.open(4)).config(reached_at("http://two:2")).start().await.unwrap();
    eventually(SOON, async || one.shards() == 128 && two.shards() == 128).await;
    (one, two)
}

async fn apply<B: TestEngine>(db: &TestDb<B>, shard: u8, is_disabled: bool) {
    let mut spec = ShardSpec::default();
    spec.is_disabled = is_disabled;
    Operator::new(db.pool.clone(), "ana").apply_shards(&[ShardChange::upsert(shard, spec)]).await.unwrap();
}

/// Starts a process that works on all shards but one.
async fn all_but<B: TestEngine>(db: &TestDb<B>, shard: u8) -> Runtime<B> {
    let runtime = alone(db).await;
    apply(db, shard, true).await;
    eventually(SOON, async || runtime.shards() == 255).await;
    runtime
}

/// Emits an event that the test itself makes due.
async fn emit_later<B: CellEngine>(db: &TestDb<B>, to: &Recipient) -> Receipt {
    B::emit_on(&db.pool, to, Event::new("later").due_in(LATER)).await.unwrap()
}

async fn fire<B: TestEngine>(db: &TestDb<B>) {
    testing::fire_timers(&db.pool, std::time::SystemTime::now() + 2 * LATER).await.unwrap();
}

fn waiting() -> ResolveOptions {
    ResolveOptions::new().wait(SOON)
}

on_every_engine! {
    /// Case 10: an unknown shard.
    async fn an_unknown_shard_is_not_found(db) {
        let runtime = alone(db).await;
        for unknown in [256, u16::MAX] {
            let found = runtime.resolver().resolve_shard(unknown, waiting()).await.unwrap();
            assert_eq!((found.status, found.shard, found.holder), (ResolveStatus::ShardNotFound, unknown, None));
        }
        assert_eq!(runtime.resolver().resolve_shard(255, waiting()).await.unwrap().status, ResolveStatus::Ok);
        runtime.stop(STOP).await;
    }

    /// Case 10: no primary; a wait for a future primary ends when there is one.
    async fn a_wait_ends_when_a_process_works_on_the_shard(db) {
        let to = tally(1);
        let runtime = all_but(db, to.shard()).await;
        let resolver = runtime.resolver();
        let none = resolver.resolve(&to, ResolveOptions::new()).await.unwrap();
        assert_eq!((none.status, none.shard, none.holder), (ResolveStatus::NoPrimary, to.shard().into(), None));
        let waited = resolver.resolve(&to, ResolveOptions::new().wait(Duration::from_millis(30))).await.unwrap();
        assert_eq!(waited.status, ResolveStatus::NoPrimary, "the wait was over");
        let (found, ()) = tokio::join!(resolver.resolve(&to, waiting()), apply(db, to.shard(), false));
        let found = found.unwrap();
        let holder = found.holder.unwrap();
        assert_eq!((found.status, holder.worker), (ResolveStatus::Ok, runtime.worker()));
        assert!(holder.is_local && found.generation > none.generation);
        runtime.stop(STOP).await;
    }

    /// Case 10: a remote primary, with what a caller needs to reach it.
    async fn each_shard_is_local_to_one_process_and_remote_to_the_other(db) {
        let (one, two) = two(db).await;
        let mut local = [0, 0];
        for shard in 0..=255 {
            let look = async |of: &Runtime<Engine>| of.resolver().resolve_shard(shard, ResolveOptions::new()).await;
            let (of_one, of_two) = (look(&one).await.unwrap(), look(&two).await.unwrap());
            let (here, there, endpoint) = match of_one.status {
                ResolveStatus::Ok => (&of_one, &of_two, "http://one:1"),
                _ => (&of_two, &of_one, "http://two:2"),
            };
            local[usize::from(endpoint.ends_with('2'))] += 1;
            assert_eq!((here.status, there.status), (ResolveStatus::Ok, ResolveStatus::NotPrimary), "{shard}");
            assert_eq!(here.generation, there.generation);
            let (mine, its) = (here.holder.as_ref().unwrap(), there.holder.as_ref().unwrap());
            assert_eq!((mine.worker, mine.endpoint.as_deref()), (its.worker, Some(endpoint)));
            assert_eq!((its.endpoint.as_deref(), &its.zone), (Some(endpoint), &format!("zone of {endpoint}")));
            assert!(mine.is_local && !its.is_local);
        }
        assert_eq!(local, [128, 128]);
        let members = admin::members(&db.pool).await.unwrap();
        let mut endpoints: Vec<_> = members.into_iter().filter_map(|member| member.endpoint).collect();
        endpoints.sort();
        assert_eq!(endpoints, ["http://one:1", "http://two:2"]);
        one.stop(STOP).await;
        two.stop(STOP).await;
    }

    /// Case 10: a call of an older generation is refused at once, and one of a future generation is waited for.
    async fn a_call_of_another_generation_is_refused(db) {
        let to = tally(1);
        let runtime = alone(db).await;
        let resolver = runtime.resolver();
        let now = resolver.resolve(&to, ResolveOptions::new()).await.unwrap().generation;
        let found = resolver.resolve(&to, ResolveOptions::new().generation(now)).await.unwrap();
        assert_eq!((found.status, found.generation), (ResolveStatus::Ok, now));
        let begun = Instant::now();
        let old = resolver.resolve(&to, waiting().generation(now - 1)).await.unwrap();
        assert_eq!((old.status, old.generation), (ResolveStatus::WrongGeneration, now));
        assert!(begun.elapsed() < SOON / 2, "it was refused at once: {:?}", begun.elapsed());
        let early = resolver.resolve(&to, ResolveOptions::new().generation(now + 2)).await.unwrap();
        assert_eq!(early.status, ResolveStatus::WrongGeneration);
        // The shard is freed and taken again: two changes.
        let ana = Operator::new(db.pool.clone(), "ana");
        let unassigned = [to.shard()];
        let (found, freed) =
            tokio::join!(resolver.resolve(&to, waiting().generation(now + 2)), ana.unassign(&unassigned, false));
        assert_eq!(freed.unwrap().shards, unassigned);
        let found = found.unwrap();
        assert_eq!((found.status, found.generation), (ResolveStatus::Ok, now + 2));
        runtime.stop(STOP).await;
    }

    /// Case 10: a read-through in the future blocks, and then succeeds. Receipts of other shards are ignored.
    async fn a_read_through_blocks_until_the_event_is_processed(db) {
        let to = tally(1);
        let other = (2..).map(tally).find(|other| other.shard() != to.shard()).unwrap();
        let runtime = alone(db).await;
        let resolver = runtime.resolver();
        let receipt = emit_later(db, &to).await;
        let unread = resolver.resolve(&to, ResolveOptions::new().read_through(receipt.clone())).await.unwrap();
        assert_eq!(unread.status, ResolveStatus::NotReadThrough);
        assert!(matches!(unread.read_through, Some(Status::Due { .. })), "{unread:?}");
        let ignored = resolver.resolve(&other, waiting().read_through(receipt.clone())).await.unwrap();
        assert_eq!((ignored.status, ignored.read_through), (ResolveStatus::Ok, None));
        let (found, ()) = tokio::join!(resolver.resolve(&to, waiting().read_through(receipt)), fire(db));
        let found = found.unwrap();
        assert_eq!((found.status, found.read_through), (ResolveStatus::Ok, Some(Status::Done { turn: 1 })));
        assert_eq!(seen(db, &to).await, ["later"]);
        // Waiting for a paused recipient does not help.
        admin::pause(&db.pool, &to).await.unwrap();
        let receipt = Engine::emit_on(&db.pool, &to, Event::new("paused")).await.unwrap();
        let paused = resolver.resolve(&to, waiting().read_through(receipt)).await.unwrap();
        assert_eq!((paused.status, paused.read_through), (ResolveStatus::NotReadThrough, Some(Status::Paused)));
        runtime.stop(STOP).await;
    }

    /// Case 10: waits that are cancelled leave nothing behind, and the pool of the process stays whole.
    async fn a_wait_may_be_cancelled(db) {
        let to = tally(1);
        let runtime = all_but(db, to.shard()).await;
        let resolver = runtime.resolver();
        for n in 0..30 {
            let wait = timeout(Duration::from_millis(n), resolver.resolve(&to, waiting()));
            assert!(wait.await.is_err(), "no process works on the shard");
        }
        apply(db, to.shard(), false).await;
        let receipt = Engine::emit_on(&db.pool, &to, Event::new("x")).await.unwrap();
        let found = resolver.resolve(&to, waiting().read_through(receipt)).await.unwrap();
        assert_eq!(found.status, ResolveStatus::Ok);
        runtime.stop(STOP).await;
    }

    /// Case 10: after a stop, remote shards are found and local ones are not served. Case 16: a read-through of a
    /// stopped shard is answered with that, and not with a timeout.
    async fn a_stopped_resolver_finds_remote_shards_only(db) {
        let to = tally(1);
        let (one, two) = two(db).await;
        one.stop(STOP).await;
        let resolver = one.resolver();
        eventually(SOON, async || two.shards() == 256).await;
        for shard in 0..=255 {
            let found = resolver.resolve_shard(shard, waiting()).await.unwrap();
            assert_eq!(found.status, ResolveStatus::NotPrimary, "{shard}");
            assert_eq!(found.holder.map(|holder| holder.worker), Some(two.worker()));
        }
        let receipt = emit_later(db, &to).await;
        // The stop ends a wait that has begun.
        let of_two = two.resolver();
        let (found, report) =
            tokio::join!(of_two.resolve(&to, waiting().read_through(receipt.clone())), two.stop(STOP));
        assert_eq!(found.unwrap().status, ResolveStatus::Stopped);
        assert!(report.complete);
        let begun = Instant::now();
        for resolver in [&resolver, &of_two] {
            let found = resolver.resolve(&to, waiting().read_through(receipt.clone())).await.unwrap();
            assert_eq!((found.status, found.holder, found.read_through), (ResolveStatus::Stopped, None, None));
            assert_eq!(found.status.to_string(), "resolver has stopped serving local shards");
        }
        assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    }

    /// A resolver keeps no runtime alive: the drop of the last handle stops it.
    async fn a_resolver_keeps_no_runtime_alive(db) {
        let runtime = alone(db).await;
        let resolver = runtime.resolver();
        drop(runtime);
        assert_eq!(resolver.resolve(&tally(1), waiting()).await.unwrap().status, ResolveStatus::Stopped);
    }

    /// Without leases every process works on every shard, until it stops.
    async fn without_leases_every_process_works_on_every_shard(db) {
        let mut config = config();
        config.leases = None;
        config.endpoint = Some("http://one:1".to_owned());
        let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
        let resolver = runtime.resolver();
        let found = resolver.resolve(&tally(1), ResolveOptions::new()).await.unwrap();
        let holder = found.holder.unwrap();
        assert_eq!((found.status, found.generation, holder.worker), (ResolveStatus::Ok, 0, runtime.worker()));
        assert_eq!((holder.endpoint.as_deref(), holder.is_local), (Some("http://one:1"), true));
        runtime.stop(STOP).await;
        let stopped = resolver.resolve(&tally(1), waiting()).await.unwrap();
        assert_eq!((stopped.status, stopped.holder), (ResolveStatus::Stopped, None));
    }
}
