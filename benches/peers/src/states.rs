//! The effect of an event, the same for each peer: the row of its recipient counts, and detects a wrong order.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgPool};

use crate::event::Event;

const CREATE: &str = r#"
CREATE TABLE bench_state (
    recipient text COLLATE "C" PRIMARY KEY, count int8 NOT NULL, last int8 NOT NULL, disorder int8 NOT NULL
) WITH (fillfactor = 70)"#;

const CLEAR: &str = "TRUNCATE bench_state";

const FILL: &str = "INSERT INTO bench_state (recipient, count, last, disorder) 
    SELECT recipient, 0, -1, 0 FROM unnest($1::text[]) recipient";

const SUMS: &str = "SELECT coalesce(sum(count), 0)::int8, coalesce(sum(disorder), 0)::int8 FROM bench_state";

/// Adds one event: its recipient and its number.
pub(crate) const ADD: &str = "
UPDATE bench_state SET count = count + 1, disorder = disorder + (last > $2)::int, last = greatest(last, $2)
WHERE recipient = $1";

/// Adds many events, as [`Additions`]. The rows are locked in one order, so that two transactions cannot deadlock.
pub(crate) const ADD_MANY: &str = r#"
WITH locked AS MATERIALIZED (
    SELECT recipient FROM bench_state WHERE recipient = ANY ($1::text[]) ORDER BY recipient FOR UPDATE
)
UPDATE bench_state s
SET count = s.count + u.count, disorder = s.disorder + u.disorder + (s.last > u.first)::int,
    last = greatest(s.last, u.last)
FROM locked,
    unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::int8[]) AS u (recipient, count, first, last, disorder)
WHERE u.recipient = locked.recipient AND s.recipient = locked.recipient"#;

/// Counts one event in the transaction of a handler. `$sqlx` is the peer's version of sqlx.
macro_rules! add {
    ($sqlx:ident, $connection:expr, $event:expr) => {
        $sqlx::query($crate::states::ADD).bind(&$event.to).bind($event.number).execute(&mut *$connection)
    };
}
pub(crate) use add;

/// The sums of a batch of events by column, one entry for each recipient.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Additions {
    pub(crate) recipients: Vec<String>,
    pub(crate) counts: Vec<i64>,
    pub(crate) firsts: Vec<i64>,
    pub(crate) lasts: Vec<i64>,
    pub(crate) disorders: Vec<i64>,
}

impl Additions {
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut by_recipient: Vec<&Event> = events.iter().collect();
        // A stable sort keeps the order of the events of a recipient.
        by_recipient.sort_by(|a, b| a.to.cmp(&b.to));
        let mut sums = Additions::default();
        for group in by_recipient.chunk_by(|a, b| a.to == b.to) {
            let (Some(first), Some(greatest)) = (group.first(), group.iter().map(|event| event.number).max()) else {
                continue;
            };
            let disorder = group.windows(2).filter(|pair| matches!(pair, [a, b] if a.number > b.number)).count();
            sums.recipients.push(first.to.clone());
            sums.counts.push(i64::try_from(group.len()).unwrap_or(i64::MAX));
            sums.firsts.push(first.number);
            sums.lasts.push(greatest);
            sums.disorders.push(i64::try_from(disorder).unwrap_or(i64::MAX));
        }
        sums
    }
}

/// The sums over all recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) counted: i64,
    /// Number of events that came after a later event of their recipient.
    pub(crate) disorder: i64,
}

pub(crate) async fn create(pool: &PgPool) -> Result<()> {
    sqlx::query(CREATE).execute(pool).await.context("create the table of states")?;
    Ok(())
}

/// Creates a new row for each recipient.
pub(crate) async fn reset(pool: &PgPool, recipients: &[String]) -> Result<()> {
    sqlx::query(CLEAR).execute(pool).await.context("empty the table of states")?;
    sqlx::query(FILL).bind(recipients).execute(pool).await.context("fill the table of states")?;
    Ok(())
}

/// Settles filled tables, as an autovacuum would.
pub(crate) async fn settle(pool: &PgPool) -> Result<()> {
    sqlx::query("VACUUM (ANALYZE)").execute(pool).await.context("settle the tables")?;
    Ok(())
}

pub(crate) async fn sums(pool: &PgPool) -> Result<Sums> {
    let (counted, disorder) = sqlx::query_as(SUMS).fetch_one(pool).await.context("read the sums")?;
    Ok(Sums { counted, disorder })
}

/// Empties the tables of a peer without a call for it.
pub(crate) async fn truncate(pool: &PgPool, tables: &'static str) -> Result<()> {
    let sql = AssertSqlSafe(format!("TRUNCATE {tables} CASCADE"));
    sqlx::query(sql).execute(pool).await.with_context(|| format!("empty {tables}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_adds_up_by_recipient() {
        let event = |to: &str, number| Event { to: to.to_owned(), number, value: Vec::new() };
        let sums = Additions::of(&[event("b", 1), event("a", 2), event("b", 5), event("b", 4)]);
        assert_eq!(sums.recipients, ["a", "b"]);
        assert_eq!((sums.counts, sums.firsts), (vec![1, 3], vec![2, 1]));
        assert_eq!((sums.lasts, sums.disorders), (vec![2, 5], vec![0, 1]));
    }
}
