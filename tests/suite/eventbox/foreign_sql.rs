//! User code that changes its transaction or its connection.

use ::eventbox::{Error, Misuse};

use super::foreign_code::{Foreign, ForeignEngine, Place, emit_one, seen, stage, turn};
use crate::support::{SOON, TestEngine, eventually, on_every_engine};

on_every_engine! {
    async fn code_that_ends_its_transaction_changes_nothing(db) {
        stage(db).await;
        let pool = db.open(1);
        for place in [Place::Effect, Place::Alone, Place::Fetch, Place::Save] {
            for (fails, sql) in [false, true]
                .into_iter()
                .flat_map(|fails| <Engine as ForeignEngine>::ENDINGS.iter().map(move |sql| (fails, *sql)))
            {
                let case = format!("{place:?}, {sql:?}, fails: {fails}");
                let done = turn(&pool, &Foreign::new(place, sql, fails)).await;
                let error = match done {
                    // An independent step fails alone, and the later steps of its turn are not applied to the broken
                    // transaction.
                    Ok(done) if place == Place::Alone => {
                        assert_eq!((done.consumed, done.failures.len()), (0, 1), "{case}");
                        db.run("DELETE FROM note WHERE text <> 'there'").await;
                        assert_eq!(seen(db).await, (0, 0, 2), "{case}");
                        continue;
                    }
                    done => done.expect_err(&case),
                };
                let is_misuse = matches!(
                    error,
                    Error::Misuse { misuse: Misuse::EndedTransaction | Misuse::SwallowedError, .. }
                );
                assert!(is_misuse || (fails && matches!(error, Error::Processor { .. })), "{case}: {error:?}");
                assert_eq!(seen(db).await, (0, 0, 2), "{case}");
            }
        }
        let done = turn(&pool, &Foreign::new(Place::Nowhere, "", false)).await.unwrap();
        assert_eq!((done.consumed, seen(db).await), (2, (2, 2, 0)));
    }

    async fn harmless_sql_of_user_code_is_no_misuse(db) {
        stage(db).await;
        let pool = db.open(1);
        for place in [Place::Effect, Place::Alone, Place::Fetch, Place::Save] {
            for sql in <Engine as ForeignEngine>::HARMLESS {
                let done = turn(&pool, &Foreign::new(place, sql, false))
                    .await
                    .unwrap_or_else(|error| panic!("{place:?}, {sql:?}: {error:?}"));
                assert_eq!(
                    (done.consumed, done.failures.len(), seen(db).await),
                    (2, 0, (2, 2, 0)),
                    "{place:?}, {sql:?}"
                );
                db.run("DELETE FROM note WHERE text <> 'there'").await;
                db.run("UPDATE entity SET total = 0").await;
                emit_one(db).await;
                emit_one(db).await;
            }
        }
    }

    async fn a_transaction_that_loading_leaves_open_is_found(db) {
        stage(db).await;
        let pool = db.open(1);
        for fails in [false, true] {
            for sql in
                ["BEGIN", "BEGIN; INSERT INTO note VALUES ('open')", "SAVEPOINT mine", "BEGIN; SELECT * FROM not_there"]
            {
                // Postgres has no savepoint outside a transaction.
                if Engine::FOLDER == "postgres" && sql.starts_with("SAVE") {
                    continue;
                }
                let error = turn(&pool, &Foreign::new(Place::Load, sql, fails)).await.expect_err(sql);
                assert!(fails || matches!(error, Error::Misuse { misuse: Misuse::LeftOpen, .. }), "{sql}: {error:?}");
                assert_eq!(seen(db).await, (0, 0, 2), "{sql}");
            }
        }
        let done = turn(&pool, &Foreign::new(Place::Nowhere, "", false)).await.unwrap();
        assert_eq!((done.consumed, seen(db).await), (2, (2, 2, 0)));
    }

    async fn session_settings_of_user_code_end_with_the_turn(db) {
        stage(db).await;
        let pool = db.open(1);
        for place in [Place::Load, Place::Effect, Place::Save] {
            for (sql, changed) in <Engine as ForeignEngine>::SETTINGS {
                // The code may fail its own turn.
                let _ = turn(&pool, &Foreign::new(place, sql, false)).await;
                // The connection comes back clean.
                eventually(SOON, async || {
                    let mut conn = pool.acquire().await.unwrap();
                    Engine::number_on(&mut conn, changed).await.unwrap() == 0
                }).await;
                db.run("DELETE FROM note WHERE text <> 'there'").await;
                emit_one(db).await;
            }
        }
        let _ = turn(&pool, &Foreign::new(Place::Nowhere, "", false)).await.unwrap();
        assert_eq!(db.count("eventbox_event").await, 0);
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_a_pool_makes_when_it_connects_stay() {
    use sqlx::Postgres;

    use crate::support::{TestDb, with_database};

    with_database("settings_of_a_pool_stay", async |db: &TestDb<Postgres>| {
        stage(db).await;
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).after_connect(|conn, _| {
            Box::pin(async move {
                sqlx::raw_sql("SET app.tenant = 'ours'; SET statement_timeout = '2min'").execute(conn).await.map(drop)
            })
        });
        let pool = pool.connect_with(db.options()).await.unwrap();
        let ours = "SELECT (current_setting('app.tenant') = 'ours'
                            AND current_setting('statement_timeout') = '2min')::int::int8";
        for sql in ["", "SET LOCAL app.tenant = 'other'", "SET work_mem = '9MB'", "SET statement_timeout = 0"] {
            let _ = turn(&pool, &Foreign::new(Place::Effect, sql, false)).await.unwrap();
            db.run("DELETE FROM note WHERE text <> 'there'").await;
            emit_one(db).await;
            eventually(SOON, async || {
                let mut conn = pool.acquire().await.unwrap();
                let work_mem = "SELECT (current_setting('work_mem') = '9MB')::int::int8";
                let work_mem = Postgres::number_on(&mut conn, work_mem).await.unwrap();
                (work_mem, Postgres::number_on(&mut conn, ours).await.unwrap()) == (0, 1)
            })
            .await;
        }
    })
    .await;
}

/// The server has dropped the statements that the driver prepared, and the driver does not know. The pool closes the
/// connection that reports this, and work continues.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_discards_prepared_statements_harms_no_later_turn() {
    use sqlx::Postgres;

    use crate::support::{TestDb, with_database};

    with_database("forgets_prepared", async |db: &TestDb<Postgres>| {
        stage(db).await;
        let pool = db.open(1);
        for (place, sql) in [
            (Place::Effect, "DEALLOCATE ALL"),
            (Place::Load, "DEALLOCATE ALL"),
            (Place::Load, "DISCARD ALL"),
            (Place::Save, "DEALLOCATE ALL"),
        ] {
            // The turn may fail once or twice. A failed turn applies nothing.
            let _ = turn(&pool, &Foreign::new(place, sql, false)).await;
            let mut failures = 0;
            while db.count("eventbox_event").await > 0 {
                if let Err(error) = turn(&pool, &Foreign::new(Place::Nowhere, "", false)).await {
                    failures += 1;
                    assert!(failures <= 3, "{place:?}, {sql}: {error:?}");
                }
            }
            assert_eq!(seen(db).await, (2, 2, 0), "{place:?}, {sql}");
            db.run("DELETE FROM note WHERE text <> 'there'").await;
            db.run("UPDATE entity SET total = 0").await;
            emit_one(db).await;
            emit_one(db).await;
        }
    })
    .await;
}
