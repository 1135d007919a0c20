//! Runs killed with -9 at random moments and resumed reach the same verified totals.

use std::time::Instant;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{demo, finish, some_flights};
use crate::support::{TestDb, on_every_engine};

/// Number of runs on each engine. Each run is killed at least once.
const RUNS: u32 = 10;

/// Number of concurrent runs. A killed process holds its claims for ten seconds, in which other runs can work.
const AT_ONCE: usize = 5;

/// Number of flights of a run, enough for about a second.
const FLIGHTS: usize = 2_000;

/// Figures that do not depend on the number of resumes.
const TOTALS: [&str; 11] = [
    "rows",
    "recipients",
    "emitted",
    "resent",
    "duplicates",
    "events_consumed",
    "published",
    "legs",
    "cancelled",
    "delay_minutes",
    "airports",
];

on_every_engine! {
    async fn a_killed_run_is_resumed_to_the_same_totals(db) {
        let _ = db;
        let seed = std::env::var("EVENTBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        println!("EVENTBOX_SEED={seed} repeats the moments");
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let input = some_flights(directory.path(), FLIGHTS);

        let undisturbed = TestDb::<Engine>::empty("undisturbed").await;
        let file = input.to_str().unwrap();
        let args = |url: &str| ["--json", "--keep", "--input", file, "--database-url", url].map(str::to_owned);
        let run = |args: Vec<String>| async move {
            finish(&args.iter().map(String::as_str).collect::<Vec<_>>()).await.verified()
        };
        let started = Instant::now();
        let wanted = run(args(&undisturbed.url()).to_vec()).await;
        let whole_run = started.elapsed();
        undisturbed.remove().await;

        let plans: Vec<Vec<f64>> = (0..RUNS)
            .map(|_| (0..random.random_range(1..=3)).map(|_| random.random_range(0.0..0.9)).collect())
            .collect();
        let killed = plans.into_iter().map(|moments| async {
            let database = TestDb::<Engine>::empty("killed").await;
            let mut args = args(&database.url()).to_vec();
            for moment in moments {
                let borrowed: Vec<&str> = args.iter().map(String::as_str).collect();
                let mut process = demo(&borrowed).spawn().unwrap();
                tokio::select! {
                    _ = process.wait() => {}
                    () = tokio::time::sleep(whole_run.mul_f64(moment)) => process.kill().await.unwrap(),
                }
                if !args.contains(&"--resume".to_owned()) {
                    args.push("--resume".to_owned());
                }
            }
            let report = run(args).await;
            for name in TOTALS {
                assert_eq!(report[name], wanted[name], "{name}: {report}, with EVENTBOX_SEED={seed}");
            }
            database.remove().await;
        });
        futures_util::stream::iter(killed).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
}
