//! A change of a table, as a source gives it.

use std::time::SystemTime;

use serde::Serialize;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// All rows of the table were removed.
    Truncate,
}

/// A committed change of a published table.
///
/// Values are texts, as Postgres prints them; `None` is NULL.
///
/// # Examples
///
/// See [`PostgresChanges`](crate::source::PostgresChanges).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub table: String,
    /// What happened.
    pub kind: ChangeKind,
    /// Columns and values of the row after the change; empty after a deletion. A large value that an update left alone
    /// is missing.
    pub row: Vec<(String, Option<String>)>,
    /// Columns and values of the row before an update or a deletion, as far as the table's `REPLICA IDENTITY` has them.
    pub old: Vec<(String, Option<String>)>,
    /// Time of the commit, by the server's clock.
    pub committed_at: SystemTime,
    /// Number of the transaction on the server.
    pub transaction: u32,
    /// Number of the change in its transaction, from 0 on. With `transaction` it names the change.
    pub number: u64,
}

impl Change {
    /// Returns the text of a column: of the row after the change, or of the deleted row. `None` when the column is NULL
    /// or missing.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<&str> {
        let row = if self.kind == ChangeKind::Delete { &self.old } else { &self.row };
        row.iter().find(|(name, _)| name == column)?.1.as_deref()
    }

    /// Returns the change as JSON: `{"schema":…,"table":…,"kind":"insert","row":{…},"old":{…}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let object = |row: &[(String, Option<String>)]| {
            let members = row.iter().map(|(name, value)| (name.clone(), serde_json::Value::from(value.clone())));
            serde_json::Value::Object(members.collect())
        };
        let (row, old) = (object(&self.row), object(&self.old));
        let (schema, table, kind) = (&self.schema, &self.table, self.kind);
        serde_json::json!({"schema": schema, "table": table, "kind": kind, "row": row, "old": old}).to_string()
    }
}
