//! Turns and emits whose connection is lost at the worst moment. Only Postgres is reached over a network.

use std::num::NonZeroU32;

use ::eventbox::{
    Emitted, Error, Event, Mutation, PostProcess, Processor, Recipient, SideEffect, Transition, Turn, TurnOptions,
    emit, process_batch_with,
};
use sqlx::{PgPool, Postgres};
use tokio::sync::oneshot;

use crate::support::proxy::{Fate, Message, Orphan, Proxy};
use crate::support::{Decider, LOCK_WAITS, SOON, TestDb, eventually, with_database};

type Result<T> = std::result::Result<T, Error>;

fn aircraft() -> Recipient {
    Recipient::new("aircraft", "N14228").unwrap()
}

/// The side effect of a turn emits one event to this recipient for each consumed event, so their number says how often
/// events were consumed.
fn airport() -> Recipient {
    Recipient::new("airport", "EWR").unwrap()
}

fn processor() -> impl Processor<Postgres, State = ()> {
    Decider(|events: &[Event]| -> Mutation<Postgres, ()> {
        if events.is_empty() {
            return Mutation::none();
        }
        let effects: Vec<_> = events.iter().map(|_| (airport(), Event::new("consumed"))).collect();
        let effect = SideEffect::new(move |tx| {
            Box::pin(async move {
                ::eventbox::emit_all(&mut *tx, &effects).await?;
                Ok(())
            })
        });
        let hook = PostProcess::new(|| async { Ok(()) });
        Transition::stay().consuming(events).side_effect(effect).post_process(hook).into()
    })
}

async fn turn(pool: &PgPool) -> Result<Turn> {
    let options = TurnOptions::new(NonZeroU32::new(10).unwrap()).return_hooks();
    process_batch_with(pool, &aircraft(), &processor(), &options).await
}

/// Emits an event and processes it, past the proxy.
async fn overtake(db: &TestDb<Postgres>) {
    emit(&db.pool, &aircraft(), Event::new("next")).await.unwrap();
    turn(&db.pool).await.unwrap().number.expect("the other processor makes a turn");
}

async fn consumed(db: &TestDb<Postgres>) -> i64 {
    db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'airport/EWR'").await
}

async fn waiting(db: &TestDb<Postgres>) -> i64 {
    db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'aircraft/N14228'").await
}

/// Waits until a backend waits for another backend.
async fn someone_waits_for_a_lock(db: &TestDb<Postgres>) {
    eventually(SOON, async || db.number(LOCK_WAITS).await > 0).await;
}

/// A box with one event, at a recipient that has had this number of turns, and a pool that goes through a proxy.
async fn stage(db: &TestDb<Postgres>, turns: i64) -> (Proxy, PgPool) {
    for _ in 0..turns {
        overtake(db).await;
    }
    emit(&db.pool, &aircraft(), Event::new("the one")).await.unwrap();
    let proxy = Proxy::start(db.options()).await;
    let pool = proxy.pool().await;
    (proxy, pool)
}

/// Runs a test at a recipient's first turn, and at one that has had some.
macro_rules! at_turns_0_and_3 {
    ($($(#[$meta:meta])* async fn $name:ident($db:ident, $turns:ident) $body:block)+) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            async fn at($turns: i64) {
                with_database(stringify!($name), async |$db: &TestDb<Postgres>| $body).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn at_turn_0() {
                at(0).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn at_turn_3() {
                at(3).await;
            }
        }
    )+};
}

at_turns_0_and_3! {
    async fn a_commit_whose_answer_was_lost_is_ours(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        proxy.next(Message::Commit, Fate::AnswerLost);
        let turn = turn(&pool).await.unwrap();
        proxy.cut(1).await;
        assert_eq!(turn.number, Some(turns + 1));
        assert_eq!((turn.consumed, turn.contention), (1, 0));
        assert_eq!(turn.post_process.len(), 1, "the hooks of a turn that happened are returned");
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 1, 0));
    }

    async fn a_commit_that_did_not_arrive_is_tried_again(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        proxy.next(Message::Commit, Fate::CutBefore);
        let turn = turn(&pool).await.unwrap();
        proxy.cut(1).await;
        assert_eq!(turn.number, Some(turns + 1));
        assert_eq!((turn.consumed, turn.contention), (1, 1));
        assert_eq!(turn.post_process.len(), 1);
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 1, 0));
    }

    async fn a_commit_that_never_arrives_is_contention(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        for _ in 0..=::eventbox::limits::MAX_CONTENTION_RETRIES {
            proxy.next(Message::Commit, Fate::CutBefore);
        }
        let error = turn(&pool).await.unwrap_err();
        assert!(error.is_contention(), "{error:?}");
        assert_eq!((consumed(db).await, waiting(db).await), (turns, 1));
    }

    /// The network to the old backend is lost, and its COMMIT takes effect while the library reads back.
    async fn reading_back_waits_for_a_commit_that_arrives_late(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        let (end, how) = oneshot::channel();
        proxy.next(Message::Commit, Fate::Orphaned(how));
        let (turn, ()) = tokio::join!(turn(&pool), async {
            proxy.cut(1).await;
            someone_waits_for_a_lock(db).await;
            end.send(Orphan::Delivered).unwrap();
        });
        let turn = turn.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(turns + 1), 1, 0));
        assert_eq!(turn.post_process.len(), 1);
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 1, 0));
    }

    /// The network is lost in the same way, and the old backend rolls back.
    async fn reading_back_waits_for_a_rollback(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        let (end, how) = oneshot::channel();
        proxy.next(Message::Commit, Fate::Orphaned(how));
        let (turn, ()) = tokio::join!(turn(&pool), async {
            proxy.cut(1).await;
            someone_waits_for_a_lock(db).await;
            end.send(Orphan::Cut).unwrap();
        });
        let turn = turn.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(turns + 1), 1, 1));
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 1, 0));
    }

    /// The commit did not arrive, and another processor made the wanted turn. That is contention, and no event is left.
    async fn another_processor_took_the_turn(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        proxy.hold_new_connections(true);
        proxy.next(Message::Commit, Fate::CutBefore);
        let (ours, ()) = tokio::join!(turn(&pool), async {
            proxy.cut(1).await;
            let theirs = turn(&db.pool).await.unwrap();
            assert_eq!(theirs.number, Some(turns + 1));
            proxy.hold_new_connections(false);
        });
        let ours = ours.unwrap();
        assert_eq!((ours.number, ours.consumed, ours.contention), (None, 0, 1));
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 1, 0));
    }

    /// The commit took effect, and the next turn has overwritten its token. The outcome can no longer be found out.
    async fn a_commit_that_was_overtaken_is_unknown(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        proxy.hold_new_connections(true);
        proxy.next(Message::Commit, Fate::AnswerLost);
        let (ours, ()) = tokio::join!(turn(&pool), async {
            proxy.cut(1).await;
            overtake(db).await;
            proxy.hold_new_connections(false);
        });
        let error = ours.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        assert!(!error.is_transient() && !error.is_contention());
        assert!(error.to_string().contains("aircraft/N14228"), "{error}");
        // The turn took effect once.
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 2, 0));
    }

    /// The commit did not take effect, and another processor has made two turns since.
    async fn overtaken_twice_is_unknown(db, turns) {
        let (proxy, pool) = stage(db, turns).await;
        proxy.hold_new_connections(true);
        proxy.next(Message::Commit, Fate::CutBefore);
        let (ours, ()) = tokio::join!(turn(&pool), async {
            proxy.cut(1).await;
            let _ = turn(&db.pool).await.unwrap();
            overtake(db).await;
            proxy.hold_new_connections(false);
        });
        let error = ours.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        assert_eq!((consumed(db).await, waiting(db).await), (turns + 2, 0));
    }
}

/// The reply is lost on the wire. An event sent again under its name is in the box once. The library does not retry an
/// event without a name, and returns `Unknown`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emit_whose_answer_was_lost_is_unknown() {
    with_database("an_emit_whose_answer_was_lost_is_unknown", async |db: &TestDb<Postgres>| {
        let proxy = Proxy::start(db.options()).await;
        let events = [Event::new("unnamed"), Event::new("named").named("n")];
        for (number, event) in events.into_iter().enumerate() {
            let pool = proxy.pool().await;
            proxy.next(Message::Execute, Fate::AnswerLost);
            let error = emit(&pool, &aircraft(), event).await.unwrap_err();
            assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
            assert!(error.to_string().contains("aircraft/N14228"), "{error}");
            assert_eq!(waiting(db).await, number as i64 + 1, "it was committed");
        }
        // The named one may be emitted again.
        let again = emit(&db.pool, &aircraft(), Event::new("named").named("n")).await.unwrap();
        assert_eq!(again, Emitted::Duplicate);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emit_that_did_not_arrive_is_unknown_too() {
    with_database("an_emit_that_did_not_arrive_is_unknown", async |db: &TestDb<Postgres>| {
        let proxy = Proxy::start(db.options()).await;
        let pool = proxy.pool().await;
        proxy.next(Message::Execute, Fate::CutBefore);
        let error = emit(&pool, &aircraft(), Event::new("")).await.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
        assert_eq!(waiting(db).await, 0);
        assert_eq!(emit(&pool, &aircraft(), Event::new("")).await.unwrap(), Emitted::Added, "the pool goes on");
    })
    .await;
}
