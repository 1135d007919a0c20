//! Many rows in two parameters. SQLite has no arrays, and the text of a statement should not depend on the number of
//! its rows.
//!
//! The first parameter is one JSON array of `[start, length, columns]` with the columns of the rows. The second is one
//! blob with the bytes of all rows. `substr($2, value ->> 0, value ->> 1)` is the part of a row, and `value ->>
//! '$[2][0]'` a column.

use serde::Serialize;
use uuid::Uuid;

/// Rows to pass to a statement.
pub(crate) struct Packed<C> {
    rows: Vec<(usize, usize, C)>,
    bytes: Vec<u8>,
}

impl<C: Serialize> Packed<C> {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Packed { rows: Vec::with_capacity(rows), bytes: Vec::new() }
    }

    /// Adds a row: the columns for the JSON array, and the bytes.
    pub(crate) fn push(&mut self, columns: C, bytes: &[u8]) {
        let start = self.bytes.len() + 1;
        self.bytes.extend_from_slice(bytes);
        self.rows.push((start, bytes.len(), columns));
    }

    /// Returns the two parameters.
    pub(crate) fn into_parameters(mut self) -> Result<(String, Vec<u8>), sqlx::Error> {
        if self.bytes.is_empty() {
            // `substr` of an empty blob is NULL. Rows without bytes need an empty part instead.
            self.bytes.push(0);
        }
        let json = serde_json::to_string(&self.rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok((json, self.bytes))
    }
}

/// Returns an id in hexadecimal, for JSON. `unhex` of SQLite makes bytes of it.
pub(crate) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

/// Ids as a JSON array, for `SELECT unhex(value) FROM json_each($n)`.
pub(crate) fn ids_json(ids: &[Uuid]) -> Result<String, sqlx::Error> {
    let ids: Vec<String> = ids.iter().copied().map(hex).collect();
    serde_json::to_string(&ids).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Texts as a JSON array, for `SELECT value FROM json_each($n)`.
pub(crate) fn texts_json(texts: &[&str]) -> Result<String, sqlx::Error> {
    serde_json::to_string(texts).map_err(|error| sqlx::Error::Encode(error.into()))
}
