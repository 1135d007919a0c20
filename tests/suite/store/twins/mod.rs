//! Twin statements: over the same long, mixed table both engines give the same answers, and leave the same rows.

mod boxes;
mod engines;
mod messages;
mod reads;
mod run;
mod table;

use sqlx::{Postgres, Sqlite};

use self::engines::Twin;
use self::run::Run;
use self::table::{Numbers, Table};
use crate::support::TestDb;

/// Numbers of recipients; there are twice as many messages.
const SIZES: [usize; 3] = [0, 7, 50];

/// Runs everything on a table of this size; returns each step with its answer.
async fn answers<B: Twin>(recipients: usize) -> Vec<(String, Vec<String>)> {
    let db = TestDb::<B>::empty("twins").await;
    let pool = B::pool_of(&db).await;
    eventbox::migrate(&pool).await.unwrap();
    let table = Table::new(recipients, &mut Numbers(recipients as u64));
    let mut run = Run::begin(pool, &table).await;
    reads::all(&mut run).await;
    boxes::all(&mut run).await;
    messages::all(&mut run).await;
    let steps = run.end().await;
    B::remove_pool(&db).await;
    db.remove().await;
    steps
}

/// Returns what a step answered on one engine only, or in another order.
fn difference(step: &str, postgres: &[String], sqlite: &[String]) -> String {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).take(3).cloned().collect()
    };
    format!(
        "{step}: {} lines on Postgres, {} on SQLite\n  only on Postgres: {:#?}\n  only on SQLite: {:#?}",
        postgres.len(),
        sqlite.len(),
        only(postgres, sqlite),
        only(sqlite, postgres)
    )
}

#[tokio::test]
async fn both_engines_answer_alike() {
    for size in SIZES {
        let (postgres, sqlite) = tokio::join!(answers::<Postgres>(size), answers::<Sqlite>(size));
        let names = |steps: &[(String, Vec<String>)]| steps.iter().map(|step| step.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&postgres), names(&sqlite));
        let pairs = postgres.iter().zip(&sqlite).filter(|(first, second)| first != second);
        let (other, differences): (Vec<_>, Vec<_>) =
            pairs.map(|((step, first), (_, second))| (step, difference(step, first, second))).unzip();
        let details = differences.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
        assert!(other.is_empty(), "{size} recipients, {} steps differ: {other:?}\n{details}", other.len());
    }
}
