//! Each reason of `why`, brought about; and what the members tell about themselves.

use std::time::Duration;

use eventbox::admin::{self, MessageFilter, Operator, Reason};
use eventbox::runtime::{Runtime, RuntimeBuilder};
use eventbox::{Backend, BoxError, CloudEvent, Event, Outage, Outcome, Recipient, Reducer, Transition, outbox};
use sqlx::Pool;
use tokio::sync::Semaphore;

use crate::support::running::{STOP, config};
use crate::support::{Decider, SOON, TestDb, TestEngine, eventually, on_every_engine};

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

async fn reason<B: TestEngine>(db: &TestDb<B>) -> Reason {
    let why = admin::why(&db.pool, &order()).await.unwrap();
    assert!(why.sentence.ends_with('.') || why.sentence.contains("error:"), "{}", why.sentence);
    assert!(!why.advice.is_empty());
    why.reason
}

async fn sentence<B: TestEngine>(db: &TestDb<B>) -> String {
    admin::why(&db.pool, &order()).await.unwrap().sentence
}

/// Returns the report of a member.
fn report(kinds: &[&str], throttled: &[&str]) -> String {
    serde_json::json!({ "kinds": kinds, "throttled": throttled }).to_string()
}

/// Inserts a member with this report that holds all shards, with leases that end then.
async fn holder<B: TestEngine>(db: &TestDb<B>, report: &str, left: i64) -> uuid::Uuid {
    let (now, id, worker) = match B::FOLDER {
        "postgres" => ("(extract(epoch FROM statement_timestamp()) * 1000000)::int8", "'", "'"),
        _ => ("CAST(unixepoch('subsec') * 1000000 AS INTEGER)", "x'", "'"),
    };
    let uuid = uuid::Uuid::from_u128(7);
    let text = uuid.simple();
    db.run(format_args!(
        "INSERT INTO eventbox_member
             (worker, address, shard_limit, exiting, heartbeat_at_us, report)
         VALUES ({id}{text}{worker}, 'host-a', 256, false, {now} - 20000000, '{report}')"
    ))
    .await;
    db.run(format_args!(
        "UPDATE eventbox_lease SET holder = {id}{text}{worker}, expires_at_us = {now} + {left} * 1000000"
    ))
    .await;
    uuid
}

/// A runtime whose processor of orders waits for a permit for each turn.
fn waiting<B: Backend>(pool: Pool<B>, permits: &'static Semaphore) -> RuntimeBuilder<B> {
    let decide = Decider(move |events: &[Event]| {
        tokio::task::block_in_place(|| {
            let permit = tokio::runtime::Handle::current().block_on(permits.acquire()).unwrap();
            permit.forget();
        });
        Transition::stay().consuming(events).into()
    });
    Runtime::builder(pool).processor("order", decide).config(config())
}

on_every_engine! {
    async fn nothing_is_pending(db) {
        assert_eq!(reason(db).await, Reason::NothingPending { quarantined: 0 });
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        let id = admin::events(&db.pool, &order(), None, 1).await.unwrap()[0].id();
        admin::quarantine(&db.pool, &order(), &[id], "bad").await.unwrap();
        assert_eq!(reason(db).await, Reason::NothingPending { quarantined: 1 });
        assert!(sentence(db).await.contains("1 of its events are in quarantine"));
    }

    async fn a_timer_is_not_due(db) {
        for hours in [2, 1] {
            let later = Event::new("x").due_in(Duration::from_secs(hours * 3_600));
            eventbox::emit_all(&db.pool, &[(order(), later)]).await.unwrap();
        }
        let Reason::TimerNotDue { due_at } = reason(db).await else { panic!("{:?}", reason(db).await) };
        let left = due_at.duration_since(std::time::SystemTime::now()).unwrap();
        assert!((3_500..3_605).contains(&left.as_secs()), "{left:?}");
        let sentence = sentence(db).await;
        assert!(sentence.contains("in 59m") || sentence.contains("in 1h"), "{sentence}");
    }

    /// A timer that is due and was not moved waits for a process, as an event does.
    async fn a_due_timer_waits_for_a_process(db) {
        let due = Event::new("x").due_at(std::time::SystemTime::now() + Duration::from_secs(3_600));
        eventbox::emit_all(&db.pool, &[(order(), due)]).await.unwrap();
        db.run("UPDATE eventbox_timer SET due_at_us = 1").await;
        assert_eq!(reason(db).await, Reason::NoHolder { shard: order().shard() });
        assert!(sentence(db).await.contains("a timer is due"));
    }

    async fn no_process_works_or_none_knows_the_kind(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        assert_eq!(reason(db).await, Reason::NoHolder { shard: order().shard() });
        let worker = holder(db, &report(&["run", "airport"], &[]), 60).await;
        assert_eq!(reason(db).await, Reason::NotRegistered { kind: "order".to_owned(), holder: None });
        // An older version of the library does not say its kinds.
        db.run("UPDATE eventbox_member SET report = '{}'").await;
        assert!(matches!(reason(db).await, Reason::InLine { worker: by, .. } if by == worker));
        // Another process knows the kind, and the holder does not.
        let runs = report(&["run"], &[]);
        db.run(format_args!("UPDATE eventbox_member SET report = '{runs}'")).await;
        let id = if Engine::FOLDER == "postgres" { "gen_random_uuid()" } else { "randomblob(16)" };
        db.run(format_args!(
            "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
             SELECT {id}, 'host-b', 256, false, heartbeat_at_us, '{}' FROM eventbox_member",
            report(&["order"], &[])
        )).await;
        assert_eq!(reason(db).await, Reason::NotRegistered { kind: "order".to_owned(), holder: Some(worker) });
        assert!(sentence(db).await.starts_with("host-a ("), "{}", sentence(db).await);
    }

    async fn an_operator_paused_it(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        holder(db, &report(&["order"], &[]), 60).await;
        admin::pause(&db.pool, &order()).await.unwrap();
        assert_eq!(reason(db).await, Reason::Paused { is_kind: false });
        admin::resume(&db.pool, &order()).await.unwrap();
        admin::pause_kind(&db.pool, "order").await.unwrap();
        assert_eq!(reason(db).await, Reason::Paused { is_kind: true });
    }

    /// The process tells of some of the recipients that it holds, at its last heartbeat.
    async fn a_rate_of_its_kind_holds_it(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        let told = |held: u64, recipients: serde_json::Value| {
            let rated = serde_json::json!([{ "kind": "order", "held": held, "recipients": recipients }]);
            serde_json::json!({ "kinds": ["order"], "rated": rated }).to_string()
        };
        let one = |by: &str, left_us: Option<i64>| {
            told(1, serde_json::json!([{ "recipient": "order/7", "by": by, "left_us": left_us }]))
        };
        let worker = holder(db, &one("min_interval", Some(80_000_000)), 60).await;
        let Reason::HeldByRate { by: Some(by), until: Some(until), .. } = reason(db).await else { panic!() };
        let left = until.duration_since(std::time::SystemTime::now()).unwrap();
        assert!(by == "min_interval" && (30..=60).contains(&left.as_secs()), "{by} {left:?}");
        let (said, words) = (sentence(db).await, "holds order/7 because of the min_interval of its kind, and its next");
        assert!(said.contains(words), "{said}");

        // The hold has ended since the heartbeat, 20 seconds ago.
        let over = one("min_interval", Some(10_000_000));
        db.run(format_args!("UPDATE eventbox_member SET report = '{over}'")).await;
        assert!(matches!(reason(db).await, Reason::InLine { .. }));

        let others = [
            (one("rate", None), Some("rate"), "holds order/7 because of the rate of its kind; 1 event waits"),
            (told(3, serde_json::json!([])), None, "holds recipients of order because of the rates of the kind"),
        ];
        for (report, by, says) in others {
            db.run(format_args!("UPDATE eventbox_member SET report = '{report}'")).await;
            assert_eq!(reason(db).await, Reason::HeldByRate { worker, by: by.map(str::to_owned), until: None });
            let said = sentence(db).await;
            assert!(said.contains(says), "{said}");
        }
        let rated = admin::members(&db.pool).await.unwrap().remove(0).rated;
        assert_eq!((rated[0].kind.as_str(), rated[0].held, rated[0].recipients.len()), ("order", 3, 0));
    }

    async fn it_failed_and_backs_off(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        holder(db, &report(&["order"], &[]), 60).await;
        db.run(format_args!(
            "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
             VALUES ({}, 'order/7', 3, 9000000000000000, 'no seat')", order().shard()
        )).await;
        let Reason::BackingOff { attempts: 3, error, .. } = reason(db).await else { panic!("{:?}", reason(db).await) };
        assert_eq!(error, "no seat");
        assert!(sentence(db).await.ends_with("The last error: no seat"));
        // When the retry is due, it waits in line.
        db.run("UPDATE eventbox_failure SET next_attempt_at_us = 1").await;
        assert!(matches!(reason(db).await, Reason::InLine { .. }));
    }

    /// A state that cannot be read and a service that is away are no event's fault, so no failure is stored. The
    /// process tells of them.
    async fn a_failure_that_is_no_events_fault_is_told(db) {
        struct Counter;
        impl Reducer for Counter {
            type State = u64;
            fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
                match to.key() {
                    "7" | "8" => Ok(Outcome::to(count + events.len() as u64).consuming(events)),
                    _ => Err(Outage { retry_after: Duration::from_millis(10) }.into()),
                }
            }
        }
        admin::set_state(&db.pool, &order(), 0, Some(b"no number")).await.unwrap();
        let runtime = Runtime::builder(db.open(6)).reducer("order", Counter).config(config()).start().await.unwrap();
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        eventually(SOON, async || matches!(reason(db).await, Reason::Failing { .. })).await;
        let Reason::Failing { worker, error } = reason(db).await else { panic!() };
        assert!(worker == runtime.worker() && error.contains("state"), "{error}");
        assert_eq!(admin::standing(&db.pool, &order()).await.unwrap().attempts, 0);
        let trouble = async || admin::overview(&db.pool).await.unwrap().kinds[0].trouble.clone();
        assert!(trouble().await.unwrap().starts_with("order/7: "));

        // The repaired recipient is forgotten.
        let turn = admin::standing(&db.pool, &order()).await.unwrap().turn;
        admin::set_state(&db.pool, &order(), turn, Some(b"1")).await.unwrap();
        eventually(SOON, async || matches!(reason(db).await, Reason::Processed { .. })).await;
        eventually(SOON, async || trouble().await.is_none()).await;

        // Many recipients fail alike, so their kind is held.
        for key in 100..120 {
            let away = Recipient::new("order", key.to_string()).unwrap();
            eventbox::emit(&db.pool, &away, Event::new("x")).await.unwrap();
        }
        let held = async || trouble().await.is_some_and(|trouble| trouble.starts_with("held, many recipients"));
        eventually(SOON, held).await;
        let reasons = async || {
            let mut reasons = Vec::new();
            for key in 100..120 {
                let away = Recipient::new("order", key.to_string()).unwrap();
                reasons.push(admin::why(&db.pool, &away).await.unwrap().reason);
            }
            reasons
        };
        let is_told = |reason: &Reason| matches!(reason, Reason::Held { .. } | Reason::Failing { .. });
        eventually(SOON, async || reasons().await.iter().all(is_told)).await;
        assert!(runtime.stop(STOP).await.complete);
    }

    /// An event that waits for long at a process that lives and knows its kind is overdue.
    async fn a_long_wait_is_overdue(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        let worker = holder(db, &report(&["order"], &[]), 600).await;
        assert!(matches!(reason(db).await, Reason::InLine { .. }));
        let id = if Engine::FOLDER == "postgres" { "'00000000-0000-7000-8000-000000000000'" } else { "zeroblob(16)" };
        db.run(format_args!("UPDATE eventbox_event SET id = {id}")).await;
        assert!(matches!(reason(db).await, Reason::Overdue { worker: by, .. } if by == worker));
    }

    async fn the_holder_is_silent_or_throttles(db) {
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        let worker = holder(db, &report(&["order"], &["order", "run"]), -5).await;
        let silent = reason(db).await;
        let Reason::SilentHolder { worker: by, silent_for: Some(silent_for), .. } = silent else {
            panic!("{silent:?}")
        };
        assert!(by == worker && (20..60).contains(&silent_for.as_secs()), "{silent_for:?}");
        db.run("UPDATE eventbox_lease SET expires_at_us = 9000000000000000").await;
        assert_eq!(reason(db).await, Reason::Throttled { kind: "order".to_owned(), worker });
        let others = report(&["order"], &["orders"]);
        db.run(format_args!("UPDATE eventbox_member SET report = '{others}'")).await;
        assert!(matches!(reason(db).await, Reason::InLine { .. }), "a kind is no part of another");
        // The lease of a process that left without a word.
        db.run("DELETE FROM eventbox_member").await;
        db.run("UPDATE eventbox_lease SET expires_at_us = 1").await;
        let gone = reason(db).await;
        assert!(matches!(gone, Reason::SilentHolder { silent_for: None, .. }), "{gone:?}");
    }

    async fn everything_was_processed_or_its_messages_are_stuck(db) {
        admin::set_state(&db.pool, &order(), 0, None).await.unwrap();
        let Reason::Processed { turn: 1, at } = reason(db).await else { panic!("{:?}", reason(db).await) };
        assert!(at.elapsed().unwrap() < SOON);
        let event = CloudEvent::builder("flights", "departed").payload("x").build().unwrap();
        drop(outbox::publish_in(&db.pool, event).await.unwrap());
        assert!(matches!(reason(db).await, Reason::Processed { .. }), "it was sent once only");
        db.run("UPDATE eventbox_outbox SET attempts = 3, last_error = 'connection refused'").await;
        let Reason::OutboxStuck { struggling, last_error } = reason(db).await else { panic!() };
        assert_eq!((struggling.number, last_error.as_str()), (1, "connection refused"));
        Operator::new(db.pool.clone(), "ana").bury_messages(&MessageFilter::new(), "x", |_| ()).await.unwrap();
        assert!(matches!(reason(db).await, Reason::Processed { .. }));
    }

    /// A runtime tells which kinds it registered, and which recipients its turns have been working on for long.
    async fn a_runtime_tells_what_it_is_busy_with(db) {
        static PERMITS: [Semaphore; 2] = [Semaphore::const_new(0), Semaphore::const_new(0)];
        let permits = &PERMITS[usize::from(Engine::FOLDER == "sqlite")];
        let runtime = waiting(db.open(6), permits).start().await.unwrap();
        eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        eventually(SOON, async || matches!(reason(db).await, Reason::BeingWorkedOn { .. })).await;
        let Reason::BeingWorkedOn { worker, since } = reason(db).await else { panic!() };
        assert!(worker == runtime.worker() && since >= Duration::from_secs(1), "{since:?}");
        let members = admin::members(&db.pool).await.unwrap();
        assert_eq!((members[0].kinds.as_slice(), members[0].shards), (&["order".to_owned()][..], 256));
        assert_eq!(members[0].busy[0].recipient, order());
        permits.add_permits(1);
        eventually(SOON, async || matches!(reason(db).await, Reason::Processed { turn: 1, .. })).await;
        eventually(SOON, async || admin::members(&db.pool).await.unwrap()[0].busy.is_empty()).await;
        assert_eq!(admin::overview(&db.pool).await.unwrap().kinds[0].workers, 1);
        assert!(runtime.stop(STOP).await.complete);
    }

    /// A shard that an operator moves stays with its member, until it is released.
    async fn a_moved_shard_stays_with_its_member(db) {
        static PERMITS: Semaphore = Semaphore::const_new(0);
        let first = waiting(db.open(6), &PERMITS).start().await.unwrap();
        let second = waiting(db.open(6), &PERMITS).start().await.unwrap();
        let members = async || {
            let members = admin::members(&db.pool).await.unwrap();
            members.iter().map(|member| member.shards).collect::<Vec<_>>()
        };
        eventually(SOON, async || members().await.len() == 2 && members().await.iter().all(|held| *held > 64)).await;
        let holder = async |shard: u8| admin::shards(&db.pool).await.unwrap()[usize::from(shard)].holder.unwrap();
        let operator = Operator::new(db.pool.clone(), "ana");
        let other = |worker| if worker == first.worker() { second.worker() } else { first.worker() };
        let home = holder(7).await;
        let rehearsed = operator.clone().rehearsing(true).move_shard(7, other(home)).await.unwrap();
        assert_eq!((rehearsed.touched, holder(7).await), (1, home));
        operator.move_shard(7, other(home)).await.unwrap();
        assert_eq!(operator.move_shard(7, other(home)).await.unwrap().touched, 0, "it is there already");
        // Both members check their shards several times meanwhile.
        let generation = async || db.number("SELECT min(expires_at_us) FROM eventbox_lease").await;
        for _ in 0..3 {
            let before = generation().await;
            eventually(SOON, async || generation().await > before).await;
            assert_eq!(holder(7).await, other(home));
        }
        operator.release_shard(7).await.unwrap();
        eventually(SOON, async || admin::shards(&db.pool).await.unwrap()[7].holder == Some(home)).await;
        assert!(first.stop(STOP).await.complete && second.stop(STOP).await.complete);
    }
}

/// On Postgres a transaction that was begun long ago is a reason, after every other.
#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use crate::support::with_database;

    #[tokio::test]
    async fn an_old_transaction_is_in_the_way() {
        with_database("why_old", async |db: &TestDb<sqlx::Postgres>| {
            eventbox::emit(&db.pool, &order(), Event::new("x")).await.unwrap();
            // The event has waited for longer than a worker needs.
            db.run("UPDATE eventbox_event SET id = '00000000-0000-7000-8000-000000000000'").await;
            holder(db, &report(&["order"], &[]), 600).await;
            assert!(matches!(reason(db).await, Reason::Overdue { .. }));
            let mut tx = db.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
            sqlx::query("SELECT count(*) FROM eventbox_event").execute(&mut *tx).await.unwrap();
            eventually(SOON, async || matches!(reason(db).await, Reason::OldTransaction { .. })).await;
            let Reason::OldTransaction { transaction } = reason(db).await else { panic!() };
            assert!(transaction.contains("session"), "{transaction}");
            tx.rollback().await.unwrap();
            eventually(SOON, async || matches!(reason(db).await, Reason::Overdue { .. })).await;
        })
        .await;
    }
}
