//! Several runtimes on one database: leases, hand-over, fail-over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use super::{STOP, config, emit_all, idle, seen, tally, tallying};
use crate::support::{SOON, TestEngine, eventually, on_every_engine};

/// Counts the batches of one process.
struct Counting(Arc<AtomicUsize>);

impl Reducer for Counting {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        self.0.fetch_add(events.len(), Ordering::Relaxed);
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

fn events(recipients: usize, each: usize) -> Vec<(Recipient, Event)> {
    (0..each).flat_map(|n| (0..recipients).map(move |to| (tally(to), Event::new(n.to_string())))).collect()
}

async fn sum<B: TestEngine>(db: &crate::support::TestDb<B>, recipients: usize) -> u64 {
    let mut sum = 0;
    for to in 0..recipients {
        sum += eventbox::state::<u64>(&db.pool, &tally(to)).await.unwrap().and_then(|at| at.state).unwrap_or_default();
    }
    sum
}

on_every_engine! {
    /// Three runtimes share all shards fairly, and each event is processed once.
    async fn shards_are_shared_fairly(db) {
        let counts: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let mut runtimes = Vec::new();
        for count in &counts {
            let runtime = Runtime::builder(db.open(4)).reducer("tally", Counting(Arc::clone(count))).config(config());
            runtimes.push(runtime.start().await.unwrap());
        }
        eventually(SOON, async || {
            let held: Vec<_> = runtimes.iter().map(Runtime::shards).collect();
            held.iter().sum::<usize>() == 256 && held.iter().all(|held| *held <= 86)
        })
        .await;
        emit_all(db, &events(300, 20)).await;
        idle(db).await;
        for runtime in &runtimes {
            assert!(runtime.stop(STOP).await.complete);
        }
        assert_eq!(sum(db, 300).await, 6_000);
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 600), "{counts:?}");
    }

    /// Without leases every process works on every shard, and each event is still processed once.
    async fn without_leases_nothing_happens_twice(db) {
        let mut config = config();
        config.leases = None;
        emit_all(db, &events(100, 50)).await;
        let mut runtimes = Vec::new();
        for _ in 0..3 {
            let runtime =
                Runtime::builder(db.open(4)).reducer("tally", Counting(Arc::default())).config(config.clone());
            runtimes.push(runtime.start().await.unwrap());
        }
        emit_all(db, &events(100, 50)).await;
        idle(db).await;
        for runtime in &runtimes {
            runtime.stop(STOP).await;
        }
        assert_eq!((sum(db, 100).await, db.count("eventbox_lease").await), (10_000, 256));
        assert_eq!(db.count("eventbox_member").await, 0, "no process is a member without leases");
    }

    /// A process that stops hands over its shards at once. The other process holds all of them without waiting for a
    /// term to end.
    async fn a_stop_hands_over(db) {
        let mut config = config();
        if let Some(leases) = &mut config.leases {
            leases.lease_ttl = std::time::Duration::from_secs(600);
        }
        let start = async || tallying(db.open(4)).config(config.clone()).start().await.unwrap();
        let (one, other) = (start().await, start().await);
        eventually(SOON, async || one.shards() == 128 && other.shards() == 128).await;
        assert!(one.stop(STOP).await.complete);
        eventually(SOON, async || other.shards() == 256).await;
        emit_all(db, &events(50, 2)).await;
        idle(db).await;
        assert_eq!(seen(db, &tally(7)).await, ["0", "1"]);
        assert_eq!(db.count("eventbox_member").await, 1);
        assert!(other.stop(STOP).await.complete);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_lease WHERE holder IS NOT NULL").await, 0);
        assert_eq!(db.count("eventbox_member").await, 0);
    }

    /// Case 15 of the acceptance cases: when a stop returns, the other process works on all shards already. So a stop
    /// waits for the other process, which looks every 2 s only.
    async fn a_stop_waits_until_the_other_process_works(db) {
        let mut config = config();
        if let Some(leases) = &mut config.leases {
            (leases.check_interval, leases.renew_interval) =
                (std::time::Duration::from_secs(2), std::time::Duration::from_secs(2));
            leases.lease_ttl = std::time::Duration::from_secs(600);
        } else {
            return;
        }
        let start = async || tallying(db.open(4)).config(config.clone()).start().await.unwrap();
        let (one, other) = (start().await, start().await);
        eventually(SOON, async || one.shards() == 128 && other.shards() == 128).await;
        let before = eventbox::admin::shards(&db.pool).await.unwrap();
        assert!(one.stop(STOP).await.complete);
        assert_eq!((one.shards(), other.shards()), (0, 256));
        let after = eventbox::admin::shards(&db.pool).await.unwrap();
        for (before, after) in before.iter().zip(&after) {
            let moved = i64::from(before.holder == Some(one.worker()));
            assert_eq!((after.holder, after.generation), (Some(other.worker()), before.generation + moved));
        }
        other.stop(STOP).await;
    }

    /// The shards of a process that vanished are worked on again when its leases have run out.
    async fn a_process_that_vanishes_is_replaced(db) {
        // A member that will never send a heartbeat again, with all shards.
        let dead = tallying(db.open(4)).start().await.unwrap();
        eventually(SOON, async || dead.shards() == 256).await;
        let worker = dead.worker();
        drop(dead);
        emit_all(db, &events(50, 1)).await;
        let alive = tallying(db.open(4)).start().await.unwrap();
        idle(db).await;
        eventually(SOON, async || alive.shards() == 256).await;
        let resolved = alive.resolve(&tally(1)).await.unwrap();
        assert!(resolved.is_here && resolved.worker == Some(alive.worker()) && resolved.worker != Some(worker));
        alive.stop(STOP).await;
    }

    /// Two runtimes return the same process and address for a recipient.
    async fn a_recipient_is_resolved(db) {
        let mut runtimes = Vec::new();
        for address in ["one:1", "other:2"] {
            let mut config = config();
            config.address = address.to_owned();
            runtimes.push(tallying(db.open(4)).config(config).start().await.unwrap());
        }
        eventually(SOON, async || runtimes.iter().map(Runtime::shards).eq([128, 128])).await;
        for n in 0..10 {
            let (here, there) =
                (runtimes[0].resolve(&tally(n)).await.unwrap(), runtimes[1].resolve(&tally(n)).await.unwrap());
            assert_eq!((here.worker, &here.address, here.is_here), (there.worker, &there.address, !there.is_here));
            let address = if here.is_here { "one:1" } else { "other:2" };
            assert_eq!((here.shard, here.address.as_deref()), (tally(n).shard(), Some(address)));
        }
        for runtime in &runtimes {
            runtime.stop(STOP).await;
        }
    }
}
