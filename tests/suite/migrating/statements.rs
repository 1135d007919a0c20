//! The statements of the released version, on the tables of today: the released version runs beside today's.

use ::eventbox::{Event, Outcome, Recipient, Reducer, reduce_batch, state};
use sqlx::{AssertSqlSafe, Pool, Postgres, Row, Sqlite};
use uuid::Uuid;

use super::released::{Statement, newest, statements};
use crate::support::source::root;
use crate::support::{TestDb, TestEngine, layout, on_every_engine};

/// What an emit of the released version was answered: added, a duplicate, or the name of an event that is gone.
const ADDED: i32 = 0;
const DUPLICATE: i32 = 1;
const TOMBSTONED: i32 = 2;

/// Returns the text of a released statement by its label.
fn sql(all: &[Statement], label: &str) -> AssertSqlSafe<String> {
    let found = all.iter().find(|statement| statement.label == label);
    AssertSqlSafe(found.unwrap_or_else(|| panic!("the released version has no statement {label}")).sql.clone())
}

/// The part of a turn that the statements have in common: which turn moves, by which attempt, and which events go.
#[derive(Clone, Copy)]
struct Move {
    turn: i64,
    token: Uuid,
    first: Uuid,
    last: Uuid,
    events: i64,
}

/// A process of the released version: its hot statements, with the arguments that it binds.
trait Old: TestEngine {
    /// Inserts an event without a name.
    async fn emit(pool: &Pool<Self>, old: &[Statement], to: &Recipient, id: Uuid);

    /// Inserts an event with a name, due after some time if one is given. Returns what became of it.
    async fn emit_named(
        pool: &Pool<Self>,
        old: &[Statement],
        to: &Recipient,
        id: Uuid,
        name: &str,
        in_us: Option<i64>,
    ) -> i32;

    /// Moves a turn and removes its events. Returns whether the turn moved and all events went.
    async fn claim(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move) -> bool;

    /// Commits a round of one recipient, with its state. Returns whether it won.
    async fn write_one(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move, state: &str) -> bool;

    /// Inserts a message that is due.
    async fn publish(pool: &Pool<Self>, old: &[Statement], id: Uuid);

    /// Claims the messages that are due. Returns their ids.
    async fn claim_messages(pool: &Pool<Self>, old: &[Statement]) -> Vec<Uuid>;

    /// Deletes a delivered message. Returns the number of deleted rows.
    async fn delete_message(pool: &Pool<Self>, old: &[Statement], id: Uuid) -> usize;
}

/// Shard of the messages.
const SHARD: i16 = 3;

fn shard(to: &Recipient) -> i16 {
    to.shard().into()
}

impl Old for Postgres {
    async fn emit(pool: &Pool<Self>, old: &[Statement], to: &Recipient, id: Uuid) {
        let query = sqlx::query(sql(old, "store/postgres/inbox/event INSERT_EVENT")).bind(shard(to)).bind(to.as_str());
        let query = query.bind(id).bind(None::<&str>).bind(None::<&str>).bind(&b"1"[..]);
        query.execute(pool).await.unwrap();
    }

    async fn emit_named(
        pool: &Pool<Self>,
        old: &[Statement],
        to: &Recipient,
        id: Uuid,
        name: &str,
        in_us: Option<i64>,
    ) -> i32 {
        let query = sqlx::query(sql(old, "store/postgres/inbox/event INSERT_EVENTS"));
        let query = query.bind(vec![shard(to)]).bind(vec![to.as_str()]).bind(vec![id]).bind(vec![name]);
        let query = query.bind(vec![None::<&str>]).bind(vec![&b"1"[..]]).bind(vec![None::<i64>]).bind(vec![in_us]);
        let row = query.bind(None::<&str>).bind(vec![None::<&str>]).fetch_one(pool).await.unwrap();
        row.get(0)
    }

    async fn claim(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move) -> bool {
        let name = if moved.turn == 0 { "CLAIM_FIRST_TURN" } else { "CLAIM_NEXT_TURN" };
        let query = sqlx::query(sql(old, &format!("store/postgres/turns/turn {name}")));
        let query = query.bind(shard(to)).bind(to.as_str()).bind(moved.turn).bind(moved.token);
        let query = query.bind(None::<Vec<Uuid>>).bind(moved.first).bind(moved.last);
        let row = query.fetch_one(pool).await.unwrap();
        (row.get::<i64, _>(0), row.get::<i64, _>(1)) == (1, moved.events)
    }

    async fn write_one(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move, state: &str) -> bool {
        let query = sqlx::query(sql(old, "store/postgres/turns/round_of_one WRITE_NEXT_ONE"));
        let query = query.bind(shard(to)).bind(to.as_str()).bind(moved.turn).bind(moved.token);
        let query = query.bind(None::<Vec<Uuid>>).bind(moved.first).bind(moved.last).bind("200");
        let query = query.bind(state.as_bytes()).bind(moved.events).bind(false).bind(None::<Uuid>);
        query.fetch_one(pool).await.unwrap().get::<i64, _>(0) == 1
    }

    async fn publish(pool: &Pool<Self>, old: &[Statement], id: Uuid) {
        let query = sqlx::query(sql(old, "store/postgres/outgoing/outbox INSERT_OUTBOX"));
        let query = query.bind(vec![SHARD]).bind(vec![id]).bind(vec!["shop"]).bind(vec!["grown"]);
        let query = query.bind(vec![&b"x"[..]]).bind(0_i64).bind(vec![None::<&str>]);
        query.execute(pool).await.unwrap();
    }

    async fn claim_messages(pool: &Pool<Self>, old: &[Statement]) -> Vec<Uuid> {
        let query = sqlx::query(sql(old, "store/postgres/outgoing/outbox CLAIM_OUTBOX"));
        let query = query.bind(0_i32).bind(10_i64).bind(10_i64).bind(60_000_000_i64).bind(1_000_000_i64);
        query.fetch_all(pool).await.unwrap().iter().map(|row| row.get(1)).collect()
    }

    async fn delete_message(pool: &Pool<Self>, old: &[Statement], id: Uuid) -> usize {
        let query = sqlx::query(sql(old, "store/postgres/outgoing/outbox DELETE_OUTBOX"));
        query.bind(vec![SHARD]).bind(vec![id]).fetch_all(pool).await.unwrap().len()
    }
}

impl Old for Sqlite {
    async fn emit(pool: &Pool<Self>, old: &[Statement], to: &Recipient, id: Uuid) {
        let query = sqlx::query(sql(old, "store/sqlite/inbox/event INSERT_EVENT")).bind(shard(to)).bind(to.as_str());
        let query = query.bind(id).bind(None::<&str>).bind(None::<&str>).bind(&b"1"[..]);
        query.execute(pool).await.unwrap();
    }

    async fn emit_named(
        pool: &Pool<Self>,
        old: &[Statement],
        to: &Recipient,
        id: Uuid,
        name: &str,
        in_us: Option<i64>,
    ) -> i32 {
        let none = None::<&str>;
        let columns = (shard(to), to.as_str(), id.simple().to_string(), name, none, none, in_us, none);
        let json = serde_json::to_string(&[(1, 1, columns)]).unwrap();
        let query = sqlx::query(sql(old, "store/sqlite/inbox/event INSERT_EVENTS")).bind(json).bind(&b"1"[..]);
        let rows = query.fetch_all(pool).await.unwrap();
        // As a process reads them: the first answer for the event counts, and none is a tombstone.
        rows.first().map_or(TOMBSTONED, |row| row.get(1))
    }

    async fn claim(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move) -> bool {
        let name = if moved.turn == 0 { "CLAIM_FIRST_TURN" } else { "CLAIM_NEXT_TURN" };
        let query = sqlx::query(sql(old, &format!("store/sqlite/turns/turn {name}")));
        let query = query.bind(shard(to)).bind(to.as_str()).bind(moved.turn).bind(moved.token);
        let query = query.bind(None::<&str>).bind(moved.first).bind(moved.last);
        query.execute(pool).await.unwrap().rows_affected() == 1 + u64::try_from(moved.events).unwrap()
    }

    async fn write_one(pool: &Pool<Self>, old: &[Statement], to: &Recipient, moved: Move, state: &str) -> bool {
        let query = sqlx::query(sql(old, "store/sqlite/turns/round_of_one WRITE_ONE"));
        let query = query.bind(shard(to)).bind(to.as_str()).bind(moved.turn).bind(moved.token);
        let query = query.bind(state.as_bytes()).bind(false).bind(None::<Uuid>);
        let query = query.bind(moved.first).bind(moved.last).bind(None::<&str>).bind(moved.events);
        !query.fetch_all(pool).await.unwrap().is_empty()
    }

    async fn publish(pool: &Pool<Self>, old: &[Statement], id: Uuid) {
        // The first of two, which is for up to ten rows: what is not bound is NULL, and left out.
        let query = sqlx::query(sql(old, "store/sqlite/outgoing/outbox")).bind(0_i64);
        let query = query.bind(SHARD).bind(id).bind("shop").bind("grown").bind(None::<&str>).bind(&b"x"[..]);
        query.execute(pool).await.unwrap();
    }

    async fn claim_messages(pool: &Pool<Self>, old: &[Statement]) -> Vec<Uuid> {
        let query = sqlx::query(sql(old, "store/sqlite/outgoing/outbox CLAIM_OUTBOX"));
        let shards = format!("[{SHARD}]");
        let query = query.bind(shards).bind(10_i64).bind(10_i64).bind(60_000_000_i64).bind(1_000_000_i64);
        query.fetch_all(pool).await.unwrap().iter().map(|row| row.get(1)).collect()
    }

    async fn delete_message(pool: &Pool<Self>, old: &[Statement], id: Uuid) -> usize {
        let keys = serde_json::to_string(&[(SHARD, id.simple().to_string())]).unwrap();
        let query = sqlx::query(sql(old, "store/sqlite/outgoing/outbox DELETE_OUTBOX"));
        query.bind(keys).fetch_all(pool).await.unwrap().len()
    }
}

/// Sums up the values of events.
struct Sum;

impl Reducer for Sum {
    type State = u64;

    fn reduce(&self, _: &Recipient, events: &[Event], sum: u64) -> Result<Outcome<u64>, ::eventbox::BoxError> {
        let values = events.iter().map(|event| event.json::<u64>()).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(sum + values.iter().sum::<u64>()).consuming(events))
    }
}

/// Makes a database as the released version left it, with the record of its migrations.
async fn released_database<B: Old>(test: &str) -> TestDb<B>
where
    B::Connection: sqlx::migrate::Migrate,
{
    let db = TestDb::<B>::empty(test).await;
    let folder = root().join("migrations").join(B::FOLDER);
    let mut migrator = sqlx::migrate::Migrator::new(folder.as_path()).await.unwrap();
    migrator.dangerous_set_table_name("eventbox_migration");
    migrator.run_direct(Some(newest()), &mut *db.pool.acquire().await.unwrap(), false).await.unwrap();
    db
}

on_every_engine! {
    /// An old process meets no statement that the new schema refuses.
    async fn every_released_statement_is_accepted(db) {
        let old = statements::<Engine>();
        let mut faults = Vec::new();
        for statement in &old {
            if let Err(error) = Engine::prepare(&db.pool, statement.sql.clone()).await {
                faults.push(format!("{}: {error}\n{}", statement.label, statement.sql));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n\n"));
        assert!(old.len() > 150, "only {} statements are recorded", old.len());
    }

    /// The hot statements of an old process have the effect on today's tables that they had on its own.
    async fn released_statements_keep_their_effect(db) {
        let (old, to) = (statements::<Engine>(), Recipient::new("order", "1").unwrap());
        let [plain, named, again, timer, late] = std::array::from_fn(|_| Uuid::now_v7());
        let tokens: [Uuid; 3] = std::array::from_fn(|_| Uuid::new_v4());
        let count = async |table: &str| db.count(table).await;

        Engine::emit(&db.pool, &old, &to, plain).await;
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, named, "n", None).await, ADDED);
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, again, "n", None).await, DUPLICATE);
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, timer, "t", Some(3_600_000_000)).await, ADDED);
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, again, "t", None).await, DUPLICATE);
        assert_eq!((count("eventbox_event").await, count("eventbox_timer").await), (2, 1));

        let first = Move { turn: 0, token: tokens[0], first: plain, last: plain, events: 1 };
        assert!(Engine::claim(&db.pool, &old, &to, first).await);
        assert!(!Engine::claim(&db.pool, &old, &to, first).await, "the turn moved twice");
        let next = Move { turn: 1, token: tokens[1], first: named, last: named, events: 1 };
        assert!(!Engine::claim(&db.pool, &old, &to, Move { turn: 2, ..next }).await, "a turn was left out");
        assert!(Engine::claim(&db.pool, &old, &to, next).await);
        assert_eq!(count("eventbox_event").await, 0);
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, again, "n", None).await, TOMBSTONED);

        Engine::emit(&db.pool, &old, &to, late).await;
        let round = Move { turn: 2, token: tokens[2], first: late, last: late, events: 1 };
        assert!(Engine::write_one(&db.pool, &old, &to, round, "5").await);
        let late_round = Move { token: Uuid::new_v4(), ..round };
        assert!(!Engine::write_one(&db.pool, &old, &to, late_round, "6").await, "the turn moved twice");
        let at = state::<u64>(&db.pool, &to).await.unwrap().unwrap();
        assert_eq!((at.turn, at.state, count("eventbox_event").await), (3, Some(5), 0));
    }

    /// A message of an old process is delivered once, and by whichever process claims it first.
    async fn released_statements_deliver_a_message(db) {
        let (old, id) = (statements::<Engine>(), Uuid::now_v7());
        Engine::publish(&db.pool, &old, id).await;
        assert_eq!(Engine::claim_messages(&db.pool, &old).await, [id]);
        assert!(Engine::claim_messages(&db.pool, &old).await.is_empty(), "the message was claimed twice");
        assert_eq!(Engine::delete_message(&db.pool, &old, id).await, 1);
        assert_eq!(Engine::delete_message(&db.pool, &old, id).await, 0);
        assert_eq!(db.count("eventbox_outbox").await, 0);
    }

    /// Today's code goes on with what an old process left, and an old process goes on with what today's code left:
    /// events, names and turns.
    async fn both_versions_go_on_with_each_others_rows(_db) {
        if layout::is_citus() {
            return;
        }
        let db = released_database::<Engine>("both_versions_go_on").await;
        let (old, to) = (statements::<Engine>(), Recipient::new("order", "1").unwrap());
        let [before, named, again] = std::array::from_fn(|_| Uuid::now_v7());
        Engine::emit(&db.pool, &old, &to, before).await;
        assert_eq!(Engine::emit_named(&db.pool, &old, &to, named, "n", None).await, ADDED);

        ::eventbox::migrate(&db.pool).await.unwrap();
        ::eventbox::check(&db.pool).await.unwrap();
        let repeated = ::eventbox::emit(&db.pool, &to, Event::new("1").named("n")).await.unwrap();
        assert_eq!(repeated, ::eventbox::Emitted::Duplicate);
        let turn = reduce_batch(&db.pool, &to, &Sum, 100.try_into().unwrap()).await.unwrap();
        assert_eq!((turn.number, turn.consumed), (Some(1), 2));

        assert_eq!(Engine::emit_named(&db.pool, &old, &to, again, "n", None).await, TOMBSTONED);
        let theirs = ::eventbox::emit(&db.pool, &to, Event::new("7")).await.unwrap();
        let id = *theirs.id().unwrap().as_uuid();
        let next = Move { turn: 1, token: Uuid::new_v4(), first: id, last: id, events: 1 };
        assert!(Engine::write_one(&db.pool, &old, &to, next, "9").await);

        ::eventbox::emit(&db.pool, &to, Event::new("1")).await.unwrap();
        let turn = reduce_batch(&db.pool, &to, &Sum, 100.try_into().unwrap()).await.unwrap();
        let at = state::<u64>(&db.pool, &to).await.unwrap().unwrap();
        assert_eq!((turn.number, at.state, db.count("eventbox_event").await), (Some(3), Some(10), 0));
        db.remove().await;
    }
}
