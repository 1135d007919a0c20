//! Servers that accept no writes, and roles that cannot read the rows that they write.

use eventbox::{Error, Event, Recipient};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};

use crate::support::{TestDb, layout, with_database};

async fn refusal(pool: &PgPool) -> String {
    match eventbox::check(pool).await {
        Err(error @ Error::Setup { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// While transactions are read only, `check` reports it and the errors of emits are transient.
/// Emits succeed again as soon as the server allows writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_is_reported_and_recovers_at_once() {
    with_database("a_read_only_server_is_told", async |db: &TestDb<Postgres>| {
        let database = db.texts("SELECT current_database()::text").await.remove(0);
        let to = Recipient::new("cell", "1").unwrap();
        db.run(format_args!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
        let pool = db.open(4);
        assert!(refusal(&pool).await.contains("read only"));
        assert!(matches!(eventbox::migrate(&pool).await, Err(Error::Setup { .. })));
        let busy = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
        drop(busy);
        for _ in 0..8 {
            let error = eventbox::emit(&pool, &to, Event::new("x")).await.unwrap_err();
            assert!(error.is_transient(), "{error:?}");
        }
        let read_only = db.open(1);
        sqlx::query("SELECT 1").execute(&read_only).await.unwrap();
        db.run(format_args!("ALTER DATABASE {database} RESET default_transaction_read_only")).await;
        // The open connection stays read only; the first refusal closes it.
        assert!(eventbox::emit(&read_only, &to, Event::new("x")).await.unwrap_err().is_transient());
        for _ in 0..8 {
            eventbox::emit(&read_only, &to, Event::new("x")).await.unwrap();
            eventbox::emit(&read_only, &to, Event::new("x").named("n")).await.unwrap();
        }
        eventbox::check(&db.open(1)).await.unwrap();
    })
    .await;
}

/// `check` refuses row-level security under which a role can write rows and read none.
/// It accepts row-level security with a policy that lets the role read rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_cannot_read_its_writes_is_refused() {
    with_database("a_role_that_does_not_see", async |db: &TestDb<Postgres>| {
        let role = format!("eventbox_blind_{:.12}", uuid::Uuid::new_v4().simple());
        db.run(format_args!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
        db.run(format_args!("GRANT ALL ON ALL TABLES IN SCHEMA {} TO {role}", layout::schema())).await;
        let options = db.options().username(&role).password("x");
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
        eventbox::check(&pool).await.unwrap();
        for table in ["eventbox_event", "eventbox_state"] {
            db.run(format_args!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")).await;
            let told = refusal(&pool).await;
            assert!(told.contains(table) && told.contains("BYPASSRLS"), "{told}");
            eventbox::check(&db.pool).await.unwrap();
            db.run(format_args!("CREATE POLICY writes ON {table} FOR INSERT TO {role} WITH CHECK (true)")).await;
            assert!(refusal(&pool).await.contains(table));
            db.run(format_args!("CREATE POLICY sees ON {table} TO {role} USING (true)")).await;
            eventbox::check(&pool).await.unwrap();
        }
        pool.close().await;
        db.run(format_args!("DROP OWNED BY {role}")).await;
        db.run(format_args!("DROP ROLE {role}")).await;
    })
    .await;
}
