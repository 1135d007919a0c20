//! Runs the statements of both engines over the same large and mixed tables. Twins must give the same answers.
//!
//! Each engine writes a transcript: one line for each answer, and the content of the tables after each group of
//! statements. The test compares the transcripts line by line. The transcripts have times in hours from now, because
//! the engines have clocks of their own.

mod changing;
mod fixture;
mod outbox;
mod reading;
mod shards;
mod tables;

use std::fmt::Debug;

use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

use fixture::Twin;

/// One hour, in microseconds. Times of the rows are whole hours, and limits lie between two of them.
const HOUR: i64 = 3_600_000_000;

/// The lines that one engine writes.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    fn note(&mut self, call: impl Into<String>, answer: impl Debug) {
        self.0.push(format!("{}: {answer:?}", call.into()));
    }

    /// Notes rows for which no order is promised.
    fn note_unordered(&mut self, call: impl Into<String>, mut rows: Vec<String>) {
        rows.sort();
        self.note(call, rows);
    }
}

/// Returns whole hours. The test takes far less than half an hour.
fn hours(us: i64) -> i64 {
    (us + us.signum() * HOUR / 2) / HOUR
}

/// Returns a short name of an id.
fn label(id: Uuid) -> String {
    format!("{:x}", id.as_u128())
}

async fn transcript_of<B: Twin>(rows: u32) -> Vec<String> {
    let (pool, home) = B::create().await;
    let mut transcript = Transcript::default();
    B::run_all(&pool, rows, &mut transcript).await;
    pool.close().await;
    B::remove(home).await;
    transcript.0
}

/// Runs everything with few rows, and with more rows than any page of the statements has.
#[tokio::test]
async fn twins_give_the_same_answers() {
    for rows in [3, 60] {
        let on_postgres = transcript_of::<Postgres>(rows).await;
        let on_sqlite = transcript_of::<Sqlite>(rows).await;
        let differences: Vec<_> =
            on_postgres.iter().zip(&on_sqlite).filter(|(left, right)| left != right).take(5).collect();
        assert!(differences.is_empty(), "with {rows} rows a box (Postgres, SQLite): {differences:#?}");
        assert_eq!(on_postgres.len(), on_sqlite.len());
        assert!(on_postgres.len() > 300, "only {} answers", on_postgres.len());
    }
}
