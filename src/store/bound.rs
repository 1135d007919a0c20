//! Lists that are bounded by the bytes of their values, and by the number of their rows.
//!
//! A list brings small values with their rows. Of large values it brings only the lengths, which the engine knows
//! without reading the values. A second statement reads the large values that fit into the bound. A row is never
//! changed, so a value that is read later is the value that was listed.

use std::collections::HashMap;

use uuid::Uuid;

use super::inbox::event::ListedRow;

/// The most rows of one list, whatever number its caller asks for. With this limit the size of the values that come
/// with their rows stays above zero.
pub(super) const MAX_LIST_ROWS: i64 = 100_000;

/// The bounds of a list.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    rows: i64,
    bytes: i64,
}

impl Bound {
    /// Returns the most rows, cut to [`MAX_LIST_ROWS`], and the most bytes of their values. A list always returns one
    /// value, whatever its size.
    pub fn new(rows: i64, bytes: usize) -> Self {
        Bound { rows: rows.clamp(1, MAX_LIST_ROWS), bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    pub(super) fn rows(self) -> i64 {
        self.rows
    }

    pub(super) fn bytes(self) -> i64 {
        self.bytes
    }

    /// Returns the largest size of a value that comes with its row, for this many lists at once. If all rows have
    /// values of that size, all of them fit.
    pub(super) fn small(self, lists: usize) -> i64 {
        let lists = i64::try_from(lists).unwrap_or(i64::MAX).max(1);
        self.bytes / self.rows.saturating_mul(lists)
    }
}

/// A row of a list.
pub(super) trait Heavy {
    fn id(&self) -> Uuid;

    fn value_mut(&mut self) -> &mut Vec<u8>;
}

impl Heavy for ListedRow {
    fn id(&self) -> Uuid {
        self.id
    }

    fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.value
    }
}

/// Rows of a list.
#[derive(Debug)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Whether rows were left out because of their bytes, or because of [`MAX_LIST_ROWS`].
    pub is_cut: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page { rows: Vec::new(), is_cut: false }
    }
}

/// A row, the length of its value, and whether the value is still to be read.
struct Weighed<T> {
    row: T,
    bytes: i64,
    is_missing: bool,
}

/// A list that is not read completely yet.
pub(super) struct Weighing<T> {
    rows: Vec<Weighed<T>>,
    is_cut: bool,
}

/// The values that the second statement reads.
pub(super) struct Missing {
    pub(super) first: Uuid,
    pub(super) last: Uuid,
    pub(super) rows: i64,
}

impl<T> Default for Weighing<T> {
    fn default() -> Self {
        Weighing { rows: Vec::new(), is_cut: false }
    }
}

impl<T: Heavy> Weighing<T> {
    /// Adds a row with its value, if that came with it, and the value's length.
    pub(super) fn push(&mut self, mut row: T, value: Option<Vec<u8>>, bytes: i64) {
        let is_missing = value.is_none();
        *row.value_mut() = value.unwrap_or_default();
        self.rows.push(Weighed { row, bytes, is_missing });
    }

    /// Sorts by id, as the statement did unless the engine joins in another order.
    pub(super) fn sort(&mut self) {
        self.rows.sort_by_key(|weighed| weighed.row.id());
    }

    /// Leaves out the rows that do not fit into the bytes that are `left`. Without an event before it, the first row
    /// always fits.
    pub(super) fn cut(&mut self, left: &mut i64, is_first: bool) {
        let mut fits = 0;
        for weighed in &self.rows {
            if weighed.bytes > *left && (fits > 0 || !is_first) {
                break;
            }
            *left = left.saturating_sub(weighed.bytes);
            fits += 1;
        }
        self.is_cut |= fits < self.rows.len() || i64::try_from(self.rows.len()).unwrap_or(i64::MAX) >= MAX_LIST_ROWS;
        self.rows.truncate(fits);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the values that are still to be read.
    pub(super) fn missing(&self) -> Option<Missing> {
        let mut missing = self.rows.iter().filter(|weighed| weighed.is_missing).map(|weighed| weighed.row.id());
        let first = missing.next()?;
        let rows = i64::try_from(missing.clone().count()).unwrap_or(i64::MAX).saturating_add(1);
        Some(Missing { first, last: missing.last().unwrap_or(first), rows })
    }

    /// Puts values in their rows. When a value is not there any more, another transaction has removed its row: the list
    /// ends before this row, or begins behind it.
    pub(super) fn filled(mut self, mut values: HashMap<Uuid, Vec<u8>>) -> Page<T> {
        for weighed in self.rows.iter_mut().filter(|weighed| weighed.is_missing) {
            if let Some(value) = values.remove(&weighed.row.id()) {
                *weighed.row.value_mut() = value;
                weighed.is_missing = false;
            }
        }
        let listed = self.rows.len();
        let there = self.rows.into_iter().skip_while(|weighed| weighed.is_missing);
        let rows: Vec<T> = there.take_while(|weighed| !weighed.is_missing).map(|weighed| weighed.row).collect();
        Page { is_cut: self.is_cut || rows.len() < listed, rows }
    }
}

/// Reads the rows of a query as they arrive, so that a value is in memory once. `row` makes a row of the list, `value`
/// is the column of the value, and the next column is its length.
macro_rules! weigh {
    ($rows:expr, $value:literal, |$row:ident| $make:expr) => {{
        use futures_util::TryStreamExt as _;
        let mut weighing = $crate::store::bound::Weighing::default();
        let mut rows = $rows;
        while let Some($row) = rows.try_next().await? {
            let (value, bytes) = ($row.try_get($value)?, $row.try_get::<i64, _>($value + 1)?);
            weighing.push($make, value, bytes);
        }
        weighing
    }};
}
pub(super) use weigh;

/// Cuts a list at its bound and reads the missing values. `query` gets the missing rows, and returns ids and values.
macro_rules! fill {
    ($weighing:expr, $bound:expr, $conn:expr, |$missing:ident| $query:expr) => {{
        use futures_util::TryStreamExt as _;
        let (mut weighing, mut values) = ($weighing, std::collections::HashMap::new());
        weighing.cut(&mut $bound.bytes(), true);
        if let Some($missing) = weighing.missing() {
            let mut rows = $query.fetch($conn);
            while let Some(row) = rows.try_next().await? {
                values.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        weighing.filled(values)
    }};
}
pub(super) use fill;

#[cfg(test)]
mod tests {
    use super::*;

    fn weighing(lengths: &[i64], small: i64) -> (Weighing<ListedRow>, Vec<Uuid>) {
        let mut weighing = Weighing::default();
        let mut ids = Vec::new();
        for length in lengths {
            let id = Uuid::from_u128(ids.len() as u128);
            ids.push(id);
            let value = (*length <= small).then(|| vec![0; usize::try_from(*length).unwrap()]);
            weighing.push(
                ListedRow { id, name: None, traceparent: None, origin: None, value: Vec::new() },
                value,
                *length,
            );
        }
        (weighing, ids)
    }

    #[test]
    fn a_list_ends_where_its_bytes_end_but_never_before_its_first_row() {
        for (lengths, left, fits) in
            [(&[5, 5, 5][..], 10, 2), (&[50, 1], 10, 1), (&[1, 50, 1], 10, 1), (&[0, 0], 0, 2), (&[], 10, 0)]
        {
            let (mut weighing, _) = weighing(lengths, 100);
            weighing.cut(&mut left.clone(), true);
            let page = weighing.filled(HashMap::new());
            assert_eq!((page.rows.len(), page.is_cut), (fits, fits < lengths.len()), "{lengths:?}");
        }
        let (mut second, _) = weighing(&[50], 100);
        second.cut(&mut 10, false);
        assert!(second.is_empty(), "another list had the first row");
    }

    #[test]
    fn a_row_removed_during_a_listing_is_no_gap() {
        for (found, first, listed) in [(&[0, 2][..], 0, 1), (&[2], 2, 1), (&[0, 1, 2], 0, 3), (&[], 0, 0)] {
            let (weighing, ids) = weighing(&[20, 20, 20], 10);
            let missing = weighing.missing().unwrap();
            assert_eq!((missing.first, missing.last, missing.rows), (ids[0], ids[2], 3));
            let page = weighing.filled(found.iter().map(|place| (ids[*place], vec![1; 20])).collect());
            assert_eq!((page.rows.len(), page.is_cut), (listed, listed < 3), "{found:?}");
            assert!(page.rows.first().is_none_or(|row| row.id == ids[first] && row.value.len() == 20), "{found:?}");
        }
    }

    #[test]
    fn small_values_of_as_many_rows_as_there_may_be_fit() {
        assert_eq!(Bound::new(101, 1 << 20).small(1), 10_381);
        assert_eq!(Bound::new(101, 1 << 20).small(500), 20);
        assert_eq!(Bound::new(i64::MAX, 1 << 20).small(1), 10);
    }
}
