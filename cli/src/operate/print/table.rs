//! Tables, fit to the width of a terminal.

use std::io::IsTerminal;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};

use super::words::{NONE, plain};

/// Narrowest terminal to which a table is fit.
const MIN_WIDTH: u16 = 40;

/// Narrowest column of long texts. When less is left of a terminal, the texts follow their rows.
const MIN_LONG: u16 = 24;

/// Space between two columns.
const GAP: u16 = 2;

/// Meaning of a cell, shown as its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Note,
    Warning,
    Bad,
}

impl Tone {
    /// Returns `tone` if the condition holds, else the plain tone.
    pub(crate) fn when(condition: bool, tone: Tone) -> Tone {
        if condition { tone } else { Tone::Plain }
    }
}

/// Returns whether standard output shows colours: it is a terminal, and `NO_COLOR` is not set.
pub(crate) fn is_coloured() -> bool {
    console::colors_enabled() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns a cell. The text may be foreign.
pub(crate) fn cell(text: impl AsRef<str>, tone: Tone) -> Cell {
    let cell = Cell::new_owned(plain(text.as_ref()));
    let colour = match tone {
        Tone::Plain => return cell,
        Tone::Good => Color::Green,
        Tone::Note => Color::Cyan,
        Tone::Warning => Color::Yellow,
        Tone::Bad => Color::Red,
    };
    if is_coloured() { cell.fg(colour) } else { cell }
}

/// Returns a plain cell. The text may be foreign.
pub(crate) fn text(text: impl AsRef<str>) -> Cell {
    cell(text, Tone::Plain)
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    is_number: bool,
    is_long: bool,
    is_optional: bool,
}

impl Column {
    /// Leaves the column out if no row has anything in it.
    pub(crate) const fn if_any(self) -> Self {
        Column { is_optional: true, ..self }
    }
}

/// Returns a column of short texts, which stay on one line.
pub(crate) const fn short(title: &'static str) -> Column {
    Column { title, is_number: false, is_long: false, is_optional: false }
}

/// Returns a column of numbers, which stay on one line.
pub(crate) const fn number(title: &'static str) -> Column {
    Column { title, is_number: true, is_long: false, is_optional: false }
}

/// Returns a column of texts of any length. They share what the other columns leave of a terminal, or follow their row.
pub(crate) const fn long(title: &'static str) -> Column {
    Column { title, is_number: false, is_long: true, is_optional: false }
}

/// A table with a header.
pub(crate) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Grid {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Grid { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Returns the lines of the table, or `nothing` for a table without rows.
    pub(crate) fn or(self, nothing: &str) -> String {
        let width = std::io::stdout().is_terminal().then(|| console::Term::stdout().size().1);
        if self.rows.is_empty() { nothing.to_owned() } else { self.fitted(width.map(|width| width.max(MIN_WIDTH))) }
    }

    fn fitted(&self, width: Option<u16>) -> String {
        let mut table = self.table();
        let Some(width) = width else { return table.trim_fmt() };
        let widths = table.column_max_content_widths();
        let shown = self.columns.iter().zip(widths).enumerate().filter(|(index, _)| !self.is_hidden(*index));
        let needed = shown.map(|(_, (column, width))| if column.is_long { width.min(MIN_LONG) } else { width } + GAP);
        if needed.sum::<u16>() <= width + GAP {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width + GAP);
            return table.trim_fmt();
        }
        for (of_table, _) in table.column_iter_mut().zip(&self.columns).filter(|(_, column)| column.is_long) {
            of_table.set_constraint(ColumnConstraint::Hidden);
        }
        // Without the long columns, each row is one line.
        let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        for (line, row) in lines.iter_mut().skip(1).zip(&self.rows) {
            for (column, cell) in self.columns.iter().zip(row).filter(|(column, cell)| column.is_long && has_text(cell))
            {
                let text = format!("{}: {}", column.title, cell.content());
                line.push_str(&wrapped(&text, width.into()));
            }
        }
        lines.join("\n")
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(self.columns.iter().map(|column| {
            let cell = Cell::new(column.title);
            if is_coloured() { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        table.add_rows(self.rows.iter().cloned());
        for (index, (of_table, column)) in table.column_iter_mut().zip(&self.columns).enumerate() {
            of_table.set_padding((0, GAP));
            if column.is_number {
                of_table.set_cell_alignment(CellAlignment::Right);
            }
            if self.is_hidden(index) {
                of_table.set_constraint(ColumnConstraint::Hidden);
            } else if !column.is_long {
                of_table.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        if is_coloured() {
            table.enforce_styling();
        }
        table
    }

    /// Returns whether a column may be left out, and no row has anything in it.
    fn is_hidden(&self, index: usize) -> bool {
        let is_optional = self.columns.get(index).is_some_and(|column| column.is_optional);
        is_optional && !self.rows.iter().any(|row| row.get(index).is_some_and(has_text))
    }
}

/// Returns whether a cell says anything.
fn has_text(cell: &Cell) -> bool {
    !["", "0", NONE].contains(&cell.content().as_str())
}

/// Breaks a text between its words into lines, each after the end of a line and indented.
fn wrapped(text: &str, width: usize) -> String {
    let (mut lines, mut left) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count() + 1;
        if lines.is_empty() || length > left {
            lines.push_str("\n   ");
            left = width.saturating_sub(3);
        }
        lines.push(' ');
        lines.push_str(word);
        left = left.saturating_sub(length);
    }
    lines
}

/// Builds lines of a label and a text, the texts aligned.
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn new() -> Self {
        Facts(Vec::new())
    }

    pub(crate) fn add(&mut self, label: &'static str, text: impl Into<String>) {
        self.0.push((label, text.into()));
    }

    pub(crate) fn lines(&self) -> String {
        let width = self.0.iter().map(|(label, _)| label.len()).max().unwrap_or_default() + 2;
        let lines = self.0.iter().map(|(label, text)| {
            let label = format!("{label:<width$}");
            let text = text.replace('\n', &format!("\n{:width$}", ""));
            if is_coloured() { format!("{}{text}", console::style(label).bold()) } else { format!("{label}{text}") }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(&[short("recipient"), number("paused").if_any(), number("waiting"), long("error")]);
        grid.row([text("order/7"), text("0"), text("1,200"), text("no such seat in the whole aircraft")]);
        grid.row([text("order/8"), text("0"), text("2"), text(NONE)]);
        grid
    }

    #[test]
    fn a_pipe_gets_whole_lines() {
        let wanted = [
            "recipient  waiting  error",
            "order/7      1,200  no such seat in the whole aircraft",
            "order/8          2  –",
        ];
        assert_eq!(grid().fitted(None), wanted.join("\n"));
    }

    #[test]
    fn long_texts_share_what_is_left_of_the_terminal() {
        let wanted = [
            "recipient  waiting  error",
            "order/7      1,200  no such seat in the whole",
            "                    aircraft",
            "order/8          2  –",
        ];
        assert_eq!(grid().fitted(Some(46)), wanted.join("\n"));
    }

    #[test]
    fn long_texts_follow_their_rows_in_a_narrow_terminal() {
        let wanted = [
            "recipient  waiting",
            "order/7      1,200",
            "    error: no such seat in the whole",
            "    aircraft",
            "order/8          2",
        ];
        assert_eq!(grid().fitted(Some(40)), wanted.join("\n"));
    }
}
