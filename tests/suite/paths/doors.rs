//! The doors into a box: a promise of one door holds for all doors.

use eventbox::dsset::{Item, Set};
use eventbox::{
    Emitted, Error, Event, Pruner, PrunerConfig, Recipient, Sender, admin,
    limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES},
    timer::cancel,
};
use futures_util::future::join_all;
use sqlx::Pool;

use super::by_every_door;
use super::reducers::{reduce, remember};
use crate::support::{CellEngine, SOON, TestDb, drain, eventually, on_every_engine};

/// A way for an event into a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// `emit` on a pool.
    Emit,
    /// `emit_all` on a pool.
    EmitAll,
    /// `emit` in a transaction of the caller, which commits.
    Transaction,
    /// A `Sender`.
    Sender,
    /// `Set::add`: the event has a name.
    Set,
}

const DOORS: [Door; 5] = [Door::Emit, Door::EmitAll, Door::Transaction, Door::Sender, Door::Set];

/// Reason why an event was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    is_misuse: bool,
    text: String,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal { is_misuse: matches!(error, Error::Misuse { .. }), text: error.to_string() }
    }
}

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

impl Door {
    /// Sends an event under a name.
    pub(super) async fn send<B: CellEngine>(
        self,
        pool: &Pool<B>,
        to: &Recipient,
        name: &str,
        value: &[u8],
    ) -> Result<Emitted, Refusal> {
        let event = Event::new(value.to_vec()).named(name);
        Ok(match self {
            Door::Emit => B::emit_on(pool, to, event).await?.emitted(),
            Door::EmitAll => B::emit_all_on(pool, &[(to.clone(), event)]).await?[0],
            Door::Transaction => {
                let mut tx = eventbox::begin(pool).await?;
                let emitted = B::publish_in(&mut tx, to, event).await?.emitted();
                let committed = tx.commit().await;
                committed.map_err(|error| Refusal { is_misuse: false, text: error.to_string() })?;
                emitted
            }
            Door::Sender => Sender::new(pool.clone()).emit(to, event).await?.emitted(),
            Door::Set => B::add_on(pool, &Set::new(to.clone()), &[Item::new(name, value.to_vec())]).await?[0],
        })
    }
}

async fn values<B: CellEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<Vec<u8>> {
    drain(&db.pool, of).await.iter().map(|event| event.value().to_vec()).collect()
}

async fn prune<B: CellEngine>(db: &TestDb<B>) {
    let config = PrunerConfig::default().with_tombstone_delay(std::time::Duration::ZERO);
    Pruner::new(db.pool.clone(), config).run_once().await.unwrap();
}

by_every_door! {
    /// A name is accepted once while its event exists and as long as the name is remembered, and then again. The first
    /// value stays.
    async fn a_name_is_accepted_once(db, door) {
        let send = async |value: &str| door.send(&db.pool, &order(), "n", value.as_bytes()).await.unwrap();
        assert_eq!((send("first").await, send("second").await), (Emitted::Added, Emitted::Duplicate));
        assert_eq!(values(db, &order()).await, [b"first"]);
        assert_eq!(send("third").await, Emitted::Tombstoned);
        prune(db).await;
        assert_eq!(send("third").await, Emitted::Tombstoned, "it was stamped just now");
        prune(db).await;
        assert_eq!(send("fourth").await, Emitted::Added);
        assert_eq!(values(db, &order()).await, [b"fourth"]);
    }

    /// All doors share the names of a recipient. Each recipient has names of its own.
    async fn a_name_of_one_door_is_known_at_all(db, door) {
        let other = Recipient::new("order", "8").unwrap();
        assert_eq!(door.send(&db.pool, &order(), "n", b"first").await.unwrap(), Emitted::Added);
        for again in DOORS {
            assert_eq!(again.send(&db.pool, &order(), "n", b"again").await.unwrap(), Emitted::Duplicate, "{again:?}");
        }
        assert_eq!(door.send(&db.pool, &other, "n", b"other").await.unwrap(), Emitted::Added);
        assert_eq!(
            (values(db, &order()).await, values(db, &other).await),
            (vec![b"first".to_vec()], vec![b"other".to_vec()])
        );
        for again in DOORS {
            assert_eq!(again.send(&db.pool, &order(), "n", b"again").await.unwrap(), Emitted::Tombstoned, "{again:?}");
        }
    }

    /// The names of timers and of events in quarantine are taken. The name of a cancelled timer is remembered.
    async fn a_name_is_taken_wherever_its_event_is(db, door) {
        let hour = std::time::Duration::from_secs(3_600);
        eventbox::emit(&db.pool, &order(), Event::new("timer").named("t").due_in(hour)).await.unwrap();
        let bad = eventbox::emit(&db.pool, &order(), Event::new("bad").named("q")).await.unwrap().id().unwrap();
        assert_eq!(admin::quarantine(&db.pool, &order(), &[bad], "by hand").await.unwrap(), 1);
        for name in ["t", "q"] {
            assert_eq!(door.send(&db.pool, &order(), name, b"again").await.unwrap(), Emitted::Duplicate, "{name}");
        }
        assert!(cancel(&db.pool, &order(), "t").await.unwrap());
        assert_eq!(door.send(&db.pool, &order(), "t", b"again").await.unwrap(), Emitted::Tombstoned);
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    /// Events of one sender are listed in the order of its emits, whatever their names.
    async fn the_order_of_sending_is_the_order_of_listing(db, door) {
        let wanted: Vec<_> = (0..25).map(|n| n.to_string().into_bytes()).collect();
        for (n, value) in wanted.iter().enumerate() {
            let name = format!("{:03}", (n * 7) % 25);
            assert_eq!(door.send(&db.pool, &order(), &name, value).await.unwrap(), Emitted::Added);
        }
        assert_eq!(values(db, &order()).await, wanted);
    }

    /// An event has exactly the bytes of its sender, up to the limits of value and name.
    async fn bytes_are_kept(db, door) {
        let names = ["n".to_owned(), "ü".repeat(MAX_KEY_BYTES / 2), "\u{1}\n'\"\\%".to_owned()];
        let contents: [Vec<u8>; 3] = [Vec::new(), (0..=255).collect(), vec![7; MAX_VALUE_BYTES]];
        for (name, value) in names.iter().zip(&contents) {
            assert_eq!(door.send(&db.pool, &order(), name, value).await.unwrap(), Emitted::Added);
        }
        let events = drain(&db.pool, &order()).await;
        for ((event, name), value) in events.iter().zip(&names).zip(&contents) {
            assert!(event.name() == Some(name) && event.value() == value.as_slice(), "{name}");
        }
        assert_eq!(events.len(), 3);
    }

    /// An input over a limit is refused with the name of the limit, and nothing is stored.
    async fn limits_are_refused(db, door) {
        let long = "n".repeat(MAX_KEY_BYTES + 1);
        let large = vec![0; MAX_VALUE_BYTES + 1];
        for (name, value) in [("", &b"x"[..]), ("a\0b", b"x"), (long.as_str(), b"x"), ("n", large.as_slice())] {
            let refusal = door.send(&db.pool, &order(), name, value).await.unwrap_err();
            assert!(refusal.is_misuse && refusal.text.contains("order/7"), "{refusal:?}");
        }
        for table in ["eventbox_event", "eventbox_tombstone"] {
            assert_eq!(db.count(table).await, 0, "{table}");
        }
    }

    /// Many senders send the same names at once: each name is added once, and every other sender gets a duplicate.
    async fn racing_senders_add_each_name_once(db, door) {
        const NAMES: usize = 20;
        let senders = (0..4).map(|sender| {
            let pool = db.open(1);
            async move {
                let mut added = 0;
                for n in 0..NAMES {
                    let name = if sender % 2 == 0 { n } else { NAMES - 1 - n }.to_string();
                    added += usize::from(door.send(&pool, &order(), &name, b"x").await.unwrap() == Emitted::Added);
                }
                added
            }
        });
        let added: usize = join_all(senders).await.into_iter().sum();
        assert_eq!((added, db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (20, 20, 20));
    }
}

on_every_engine! {
    /// All doors work at the same time, with the same names in different orders.
    async fn racing_doors_add_each_name_once(db) {
        const NAMES: usize = 30;
        let senders = DOORS.into_iter().enumerate().map(|(sender, door)| {
            let pool = db.open(2);
            async move {
                let mut added = 0;
                for n in 0..NAMES {
                    let name = ((n * 7 + sender * 11) % NAMES).to_string();
                    added += usize::from(door.send(&pool, &order(), &name, b"x").await.unwrap() == Emitted::Added);
                }
                added
            }
        });
        let added: usize = join_all(senders).await.into_iter().sum();
        assert_eq!((added, db.count("eventbox_event").await), (NAMES, NAMES as i64));
    }

    /// One call with many events: `emit_all` and `Set::add` return one result for each event, in the given order, also
    /// for copies among them.
    async fn lists_answer_one_by_one(db) {
        let names: Vec<String> = ["a", "b", "a", "c"].map(str::to_owned).into();
        eventbox::emit(&db.pool, &order(), Event::new("there").named("b")).await.unwrap();
        let events: Vec<_> = names.iter().map(|name| (order(), Event::new(name.clone()).named(name.clone()))).collect();
        let answers = Engine::emit_all_on(&db.pool, &events).await.unwrap();
        assert_eq!(answers, [Emitted::Added, Emitted::Duplicate, Emitted::Duplicate, Emitted::Added]);
        let items: Vec<_> = ["d", "b", "e", "d"].iter().map(|name| Item::new(*name, *name)).collect();
        let answers = Engine::add_on(&db.pool, &Set::new(order()), &items).await.unwrap();
        assert_eq!(answers, [Emitted::Added, Emitted::Duplicate, Emitted::Added, Emitted::Duplicate]);
        assert_eq!(values(db, &order()).await, [&b"there"[..], b"a", b"c", b"d", b"e"]);
    }

    /// An event wakes up the workers of the process, through any door.
    async fn an_event_of_any_door_wakes_up_the_workers(db) {
        use crate::support::running::{STOP, config};
        let mut config = config();
        let never = std::time::Duration::from_secs(3_600);
        (config.poll_interval, config.min_poll_interval, config.remote_wake_ups) = (never, never, false);
        (config.leases, config.local_wake_ups) = (None, true);
        let counting = reduce(remember);
        let runtime = eventbox::runtime::Runtime::builder(db.open(4)).reducer("order", counting).config(config);
        let runtime = runtime.start().await.unwrap();
        eventually(SOON, async || runtime.stats().turns == 0).await;
        for (n, door) in DOORS.into_iter().enumerate() {
            assert_eq!(door.send(&db.pool, &order(), &n.to_string(), b"x").await.unwrap(), Emitted::Added);
            eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        }
        runtime.stop(STOP).await;
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use sqlx::Postgres;

    use super::*;
    use crate::support::proxy::{Fate, Message, Proxy};
    use crate::support::{LOCK_WAITS, with_database};

    /// Runs a test through every door.
    macro_rules! at_every_door {
        ($($(#[$meta:meta])* async fn $name:ident($db:ident, $door:ident) $body:block)+) => {$(
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                with_database(stringify!($name), async |$db: &TestDb<Postgres>| {
                    for $door in DOORS {
                        $body
                    }
                })
                .await;
            }
        )+};
    }

    at_every_door! {
        /// A second copy of an uncommitted first copy waits, and then gets the correct result.
        async fn a_second_copy_waits_for_the_first(db, door) {
            for first_commits in [true, false] {
                let name = format!("{door:?}-{first_commits}");
                let mut tx = eventbox::begin(&db.pool).await.unwrap();
                eventbox::emit(&mut *tx, &order(), Event::new("first").named(name.as_str())).await.unwrap();
                let (pool, copy) = (db.open(2), name.clone());
                let waiting = tokio::spawn(async move { door.send(&pool, &order(), &copy, b"second").await.unwrap() });
                eventually(SOON, async || db.number(LOCK_WAITS).await >= 1).await;
                if first_commits {
                    tx.commit().await.unwrap();
                } else {
                    tx.rollback().await.unwrap();
                }
                let wanted = if first_commits { Emitted::Duplicate } else { Emitted::Added };
                assert_eq!(waiting.await.unwrap(), wanted, "{name}");
            }
        }

        /// The result is lost, before or after the commit. After a second emit under the name, the event is there once.
        async fn after_a_lost_answer_it_is_sent_again(db, door) {
            for (n, fate) in [Fate::AnswerLost, Fate::CutBefore].into_iter().enumerate() {
                let name = format!("{door:?}-{n}");
                let proxy = Proxy::start(db.options()).await;
                let pool = proxy.pool_of(2).await;
                proxy.next(if door == Door::Transaction { Message::Commit } else { Message::Execute }, fate);
                let first = door.send(&pool, &order(), &name, b"x").await;
                proxy.cut(1).await;
                assert!(
                    first.as_ref().is_ok_and(|emitted| *emitted == Emitted::Added)
                        || first.as_ref().is_err_and(|refusal| !refusal.is_misuse),
                    "{first:?}"
                );
                assert_eq!(first.is_ok(), door == Door::Sender, "a sender settles it by the name: {first:?}");
                let again = door.send(&db.pool, &order(), &name, b"x").await.unwrap();
                let was_there = n == 0 || door == Door::Sender;
                assert_eq!(again, if was_there { Emitted::Duplicate } else { Emitted::Added }, "{name}");
                assert_eq!(
                    db.number(format_args!("SELECT count(*) FROM eventbox_event WHERE name = '{name}'")).await,
                    1
                );
            }
        }
    }

    /// Two transactions of other doors hold names in opposite order, until they end: no deadlock occurs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lists_of_names_in_opposite_orders_do_not_deadlock() {
        with_database("opposite_orders", async |db: &TestDb<Postgres>| {
            let names: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
            let senders = (0..6).map(|sender| {
                let pool = db.open(1);
                let mut names = names.clone();
                if sender % 2 == 1 {
                    names.reverse();
                }
                async move {
                    if sender < 3 {
                        let items: Vec<_> = names.iter().map(|name| Item::new(name.clone(), "x")).collect();
                        let answers = Postgres::add_on(&pool, &Set::new(order()), &items).await.unwrap();
                        answers.iter().filter(|answer| **answer == Emitted::Added).count()
                    } else {
                        let event = |name: &String| (order(), Event::new("x").named(name.clone()));
                        let answers = Postgres::emit_all_on(&pool, &names.iter().map(event).collect::<Vec<_>>()).await;
                        answers.unwrap().iter().filter(|answer| **answer == Emitted::Added).count()
                    }
                }
            });
            assert_eq!(join_all(senders).await.into_iter().sum::<usize>(), 200);
            assert_eq!(drain(&db.pool, &order()).await.len(), 200);
        })
        .await;
    }
}
