//! A processor for Postgres with its own table, which other writers change too.
//!
//! `DATABASE_URL=postgres://… cargo run --example postgres_processor`; it works in a schema of its own and drops it.

#![allow(clippy::print_stdout)]

use eventbox::{BoxError, EVersion, Event, Mutation, Processor, Recipient, SideEffect, Transition};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgConnection};

/// Books payments on accounts and writes a journal.
struct Accounts;

impl Processor<sqlx::Postgres> for Accounts {
    type State = i64; // the balance, in cents

    async fn load_state(&self, conn: &mut PgConnection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        let query = sqlx::query_as("SELECT balance, eversion FROM account WHERE id = $1").bind(to.key());
        let (balance, eversion) = query.fetch_optional(conn).await?.unwrap_or_default();
        Ok((balance, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        balance: &i64,
    ) -> Result<Mutation<sqlx::Postgres, i64>, BoxError> {
        let mut mutation = Mutation::none();
        let mut balance = *balance;
        for event in events {
            let cents: i64 = event.json()?;
            balance += cents;
            let account = to.key().to_owned();
            let journal = SideEffect::new(move |tx: &mut PgConnection| {
                Box::pin(async move {
                    let query = sqlx::query("INSERT INTO journal (account, cents) VALUES ($1, $2)");
                    query.bind(account).bind(cents).execute(tx).await?;
                    Ok(())
                })
            });
            mutation = mutation.then(Transition::to(balance).consuming([event]).side_effect(journal));
        }
        Ok(mutation)
    }

    async fn fetch_eversion(&self, tx: &mut PgConnection, to: &Recipient) -> Result<EVersion, BoxError> {
        // FOR UPDATE makes other writers of the account wait until this turn has saved it.
        let query = sqlx::query_scalar("SELECT eversion FROM account WHERE id = $1 FOR UPDATE").bind(to.key());
        Ok(EVersion(query.fetch_optional(tx).await?.unwrap_or_default()))
    }

    async fn save_state(
        &self,
        tx: &mut PgConnection,
        to: &Recipient,
        balance: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        let query = sqlx::query(
            "INSERT INTO account (id, balance, eversion) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, eversion = excluded.eversion",
        );
        query.bind(to.key()).bind(balance).bind(eversion.0).execute(tx).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL=postgres://USER@HOST/DATABASE")?;
    let schema = format!("eventbox_example_{}", std::process::id());
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", schema.as_str())]);
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&pool).await?;
    let outcome = book(&pool).await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&pool).await?;
    outcome?;
    println!("done");
    Ok(())
}

async fn book(pool: &sqlx::PgPool) -> Result<(), BoxError> {
    eventbox::migrate(pool).await?;
    let tables = "CREATE TABLE account (id text PRIMARY KEY, balance int8 NOT NULL, eversion int8 NOT NULL);
                  CREATE TABLE journal (account text NOT NULL, cents int8 NOT NULL)";
    sqlx::raw_sql(tables).execute(pool).await?;

    let account = Recipient::new("account", "ada")?;
    let payments = [1_000, -250, 5].map(|cents| Event::from_json(&cents).map(|event| (account.clone(), event)));
    eventbox::emit_all(pool, &payments.into_iter().collect::<Result<Vec<_>, _>>()?).await?;
    // Two independent workers book each event once.
    let max_events = 2.try_into()?;
    let (one, other) = tokio::join!(
        eventbox::process_batch(pool, &account, &Accounts, max_events),
        eventbox::process_batch(pool, &account, &Accounts, max_events),
    );
    let booked = one?.consumed + other?.consumed;
    let (balance, eversion): (i64, i64) =
        sqlx::query_as("SELECT balance, eversion FROM account").fetch_one(pool).await?;
    let journal: i64 = sqlx::query_scalar("SELECT count(*) FROM journal").fetch_one(pool).await?;
    println!("{booked} payments booked, {journal} lines in the journal, balance {balance} at version {eversion}");
    assert_eq!((booked, journal, balance, eversion), (3, 3, 755, 2));
    Ok(())
}
