//! A run over the table on one engine: what it answered, and what the tables held then.

use std::collections::HashSet;
use std::fmt::{Debug, Display};

use eventbox::Recipient;
use sqlx::pool::PoolConnection;
use sqlx::{Pool, types::Uuid};

use super::engines::Twin;
use super::table::{STEP_US, Table, Value};

/// The tables with their columns and what they are: `t`ext or number, `i`d, `b`ytes, `m`oment, `f`lag.
const TABLES: [(&str, &[(&str, char)]); 8] = [
    (
        "eventbox_event",
        &[("shard", 't'), ("recipient", 't'), ("id", 'i'), ("name", 't'), ("traceparent", 't'), ("value", 'b')],
    ),
    (
        "eventbox_timer",
        &[("shard", 't'), ("recipient", 't'), ("id", 'i'), ("name", 't'), ("due_at_us", 'm'), ("value", 'b')],
    ),
    ("eventbox_tombstone", &[("shard", 't'), ("recipient", 't'), ("name", 't'), ("id", 'i'), ("gone_at_us", 'm')]),
    ("eventbox_state", &[("shard", 't'), ("recipient", 't'), ("turn", 't'), ("updated_at_us", 'm'), ("state", 'b')]),
    (
        "eventbox_failure",
        &[("recipient", 't'), ("attempts", 't'), ("next_attempt_at_us", 'm'), ("error", 't'), ("paused", 'f')],
    ),
    ("eventbox_paused_kind", &[("kind", 't'), ("paused_at_us", 'm')]),
    (
        "eventbox_outbox",
        &[
            ("shard", 't'),
            ("id", 'i'),
            ("source", 't'),
            ("type", 't'),
            ("attempts", 't'),
            ("created_at_us", 'm'),
            ("next_attempt_at_us", 'm'),
            ("delivered_at_us", 'm'),
            ("last_code", 't'),
            ("last_error", 't'),
            ("payload", 'b'),
        ],
    ),
    (
        "eventbox_dead_letter",
        &[
            ("shard", 't'),
            ("id", 'i'),
            ("recipient", 't'),
            ("name", 't'),
            ("source", 't'),
            ("type", 't'),
            ("code", 't'),
            ("reason", 't'),
            ("attempts", 't'),
            ("dead_at_us", 'm'),
            ("payload", 'b'),
        ],
    ),
];

pub(super) struct Run<'t, B: Twin> {
    pub(super) pool: Pool<B>,
    pub(super) table: &'t Table,
    /// The moment that the times of the table count from, by the engine's clock.
    pub(super) base_us: i64,
    known: HashSet<String>,
    steps: Vec<(String, Vec<String>)>,
}

impl<'t, B: Twin> Run<'t, B> {
    /// Fills the tables.
    pub(super) async fn begin(pool: Pool<B>, table: &'t Table) -> Self {
        let base_us = B::number(&pool, format!("SELECT {}", B::NOW)).await;
        let mut known = HashSet::new();
        for (columns, rows) in &table.rows {
            for rows in rows.chunks(100) {
                let literals = |row: &Vec<Value>| {
                    let row: Vec<_> = row.iter().map(|value| B::literal(value, base_us)).collect();
                    format!("({})", row.join(", "))
                };
                let values: Vec<_> = rows.iter().map(literals).collect();
                B::run(&pool, format!("INSERT INTO {columns} VALUES {}", values.join(", "))).await.unwrap();
            }
            let ids = rows.iter().flatten().filter_map(|value| match value {
                Value::Id(id) => Some(id.simple().to_string()),
                _ => None,
            });
            known.extend(ids);
        }
        let mut run = Run { pool, table, base_us, known, steps: Vec::new() };
        run.dump("the table").await;
        run
    }

    pub(super) async fn end(self) -> Vec<(String, Vec<String>)> {
        self.pool.close().await;
        self.steps
    }

    pub(super) async fn conn(&self) -> PoolConnection<B> {
        self.pool.acquire().await.unwrap()
    }

    /// Returns a moment of the table in microseconds since 1970.
    pub(super) fn at(&self, steps: i64) -> i64 {
        self.base_us + steps * STEP_US
    }

    /// Notes an answer whose order counts.
    pub(super) fn note<T: Debug>(&mut self, step: impl Display, answer: impl IntoIterator<Item = T>) {
        self.steps.push((step.to_string(), answer.into_iter().map(|line| format!("{line:?}")).collect()));
    }

    /// Notes an answer whose order does not count.
    pub(super) fn note_sorted<T: Debug>(&mut self, step: impl Display, answer: impl IntoIterator<Item = T>) {
        let mut lines: Vec<String> = answer.into_iter().map(|line| format!("{line:?}")).collect();
        lines.sort();
        self.steps.push((step.to_string(), lines));
    }

    /// Notes all rows of all tables. A time is shown in steps, because the clocks of the engines differ.
    pub(super) async fn dump(&mut self, step: impl Display) {
        for (table, columns) in TABLES {
            let shown: Vec<_> = columns.iter().map(|(column, what)| self.shown(column, *what)).collect();
            let rows = B::texts(&self.pool, format!("SELECT {} FROM {table}", shown.join(" || '|' || "))).await;
            let rows = rows.iter().map(|row| self.without_new_ids(row)).collect::<Vec<_>>();
            self.note_sorted(format!("{step}: {table}"), rows);
        }
    }

    fn shown(&self, column: &str, what: char) -> String {
        let text = match what {
            'i' => B::digits(column, true),
            'b' => B::digits(column, false),
            'f' => format!("CASE WHEN {column} THEN 'yes' ELSE 'no' END"),
            // Whole steps, rounded to the nearest, far from where a division rounds another way.
            'm' => format!(
                "CASE WHEN {column} = {} THEN 'never' WHEN {column} = 0 THEN 'zero' ELSE \
                 CAST(({column} - {} + {}) / {STEP_US} - 1000000 AS text) END",
                i64::MAX,
                self.base_us,
                STEP_US / 2 + 1_000_000 * STEP_US
            ),
            _ => format!("CAST({column} AS text)"),
        };
        format!("coalesce({text}, '-')")
    }

    /// Replaces ids that the run has made, which differ between the engines.
    fn without_new_ids(&self, row: &str) -> String {
        let is_new = |part: &&str| {
            part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit()) && !self.known.contains(*part)
        };
        let parts = row.split('|').map(|part| if is_new(&part) { "new" } else { part });
        parts.collect::<Vec<_>>().join("|")
    }

    /// Returns every `step`th recipient, from `from` on.
    pub(super) fn some(&self, from: usize, step: usize) -> Vec<Recipient> {
        self.table.recipients.iter().skip(from).step_by(step).cloned().collect()
    }

    /// Returns some ids of a recipient in a table, and one of another.
    pub(super) fn ids_of(&self, table: &str, to: &Recipient, step: usize) -> Vec<Uuid> {
        let ids = self.table.ids(table);
        let other = ids.iter().find(|(_, of, _)| of != to.as_str()).map(|(_, _, id)| *id);
        let own = ids.iter().filter(|(_, of, _)| of == to.as_str()).map(|(_, _, id)| *id);
        own.step_by(step).chain(other).collect()
    }
}
