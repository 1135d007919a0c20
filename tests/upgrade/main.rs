//! The service of `cargo xtask upgrade`, which builds it with two versions of the library and runs both on one
//! database.
//!
//! So it uses only what both versions have. What it notes outside the database is the oracle: the
//! senders' attempts and acknowledgements, and the messages that arrived.
//!
//! ```text
//! DATABASE_URL=postgres://… | FILE  ORACLE=FOLDER  upgrade migrate | create | work NAME | send LANE FROM FRESH | count
//! ```
//!
//! A worker and a sender stop when their standard input ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the process that started it reads it")]

mod engine;
#[allow(dead_code, reason = "the command that starts this program shares the module")]
mod numbers;
mod seen;
mod send;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use eventbox::{BoxError, Recipient, pool_options, postgres_options, sqlite_options};
use sqlx::{Pool, Postgres, Sqlite};

use engine::Engine;
use numbers::{BOXES, HOP_STEP, HOPS, ROUNDS, STEP, TURNS};
use seen::Seen;
use send::Lane;

/// Exit code of a program that the database is too new for.
const REFUSED: u8 = 3;

/// Connections of a process. There are up to a dozen processes.
const CONNECTIONS: u32 = 6;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(next) = cause {
                text += &format!(": {next}");
                cause = next.source();
            }
            eprintln!("{text}");
            ExitCode::from(if text.contains("migrated by a newer eventbox") { REFUSED } else { 2 })
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let url = std::env::var("DATABASE_URL")?;
    if url.starts_with("postgres") {
        let pool = pool_options::<Postgres>().max_connections(CONNECTIONS);
        return act(pool.connect_with(postgres_options(&url)?).await?).await;
    }
    let pool = pool_options::<Sqlite>().max_connections(CONNECTIONS);
    act(pool.connect_with(sqlite_options(&url)).await?).await
}

async fn act<E: Engine>(pool: Pool<E>) -> Result<(), BoxError> {
    let oracle = PathBuf::from(std::env::var_os("ORACLE").ok_or("ORACLE is not set")?);
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["migrate"] => Ok(eventbox::migrate(&pool).await?),
        ["create"] => E::create_table(&pool).await,
        ["work", name] => work::work(pool, name, &oracle).await,
        ["send", lane, from, fresh] => {
            let lane = Lane { lane: lane.parse()?, from: from.parse()?, fresh: fresh.parse()? };
            send::send(&pool, &lane, &oracle).await
        }
        ["count"] => count(&pool).await,
        other => Err(format!("there is no {other:?}").into()),
    }
}

/// Prints what the boxes have seen: `seen FIRST LAST STEP`, the same with `hop`, and `twice NUMBER`.
async fn count<E: Engine>(pool: &Pool<E>) -> Result<(), BoxError> {
    for key in 0..BOXES {
        for kind in [ROUNDS, TURNS] {
            print("seen", STEP, &kept(pool, kind, key).await?);
        }
        print("seen", STEP, &E::load(&mut *pool.acquire().await?, &key.to_string()).await?.0);
        print("hop", HOP_STEP, &kept(pool, HOPS, key).await?);
    }
    Ok(())
}

/// Returns the state of a box that the library keeps.
async fn kept<E: Engine>(pool: &Pool<E>, kind: &str, key: u64) -> Result<Seen, BoxError> {
    let at = eventbox::state::<Seen>(pool, &Recipient::new(kind, key.to_string())?).await?;
    Ok(at.and_then(|at| at.state).unwrap_or_default())
}

fn print(what: &str, step: u64, seen: &Seen) {
    seen.ranges.iter().for_each(|(first, last)| println!("{what} {first} {last} {step}"));
    seen.twice.iter().for_each(|number| println!("twice {number}"));
}

/// Waits for the end of the standard input. It ends also when the process at its other end dies.
async fn told_to_stop() {
    let (told, end) = tokio::sync::oneshot::channel();
    // A thread of its own, because the end of the runtime would wait for one of its threads.
    std::thread::spawn(move || {
        // An input that cannot be read has ended, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = told.send(());
    });
    let _ = end.await;
}
