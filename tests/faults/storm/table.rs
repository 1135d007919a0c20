//! The table of a run in docs/high-availability.md.

use std::path::Path;

use super::super::report::Result;
use super::oracle::Broken;
use super::schedule::{Kind, Servers, Sizes};

/// The lines around a table.
fn markers(servers: Servers) -> (String, String) {
    let name = servers.name();
    (format!("<!-- {name}: `cargo xtask faults` writes this table -->"), format!("<!-- end of {name} -->"))
}

const HEAD: &str = "\
| Fault | How many | Until an emit, s | Until applied, s | Lost | Twice | Undelivered | Of no turn |
| --- | --- | --- | --- | --- | --- | --- | --- |
";

/// What a row says of a fault that this machine cannot make.
const NOT_RUN: &str = "not run";

/// Name of the last row.
const ALL: &str = "all";

/// The results of a kind of fault.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Number of faults, with their results; `None` when the machine cannot make the fault.
    pub(crate) results: Option<Results>,
}

/// The results of the faults of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Results {
    pub(crate) count: usize,
    /// Longest time from a fault until an emit was acknowledged, seconds.
    pub(crate) emit_s: f64,
    /// Longest time from a fault until every box had applied a new event, seconds.
    pub(crate) applied_s: f64,
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    pub(crate) undelivered: usize,
    pub(crate) of_no_turn: usize,
}

impl Results {
    /// Adds a fault.
    pub(crate) fn add(&mut self, emit_s: f64, applied_s: f64, broken: Broken) {
        let one = Results {
            count: 1,
            emit_s: tenths(emit_s),
            applied_s: tenths(applied_s),
            lost: broken.lost,
            twice: broken.twice,
            undelivered: broken.undelivered,
            of_no_turn: broken.of_no_turn,
        };
        self.merge(&one);
    }

    fn merge(&mut self, other: &Results) {
        self.count += other.count;
        self.emit_s = self.emit_s.max(other.emit_s);
        self.applied_s = self.applied_s.max(other.applied_s);
        self.lost += other.lost;
        self.twice += other.twice;
        self.undelivered += other.undelivered;
        self.of_no_turn += other.of_no_turn;
    }
}

/// Rounds up, so that a table never tells a shorter time than the measured one.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).ceil() / 10.0
}

/// The results of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) servers: Servers,
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    /// Events whose emit was acknowledged.
    pub(crate) acknowledged: usize,
    /// A line about the servers.
    pub(crate) about: Option<String>,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// Returns the text between the markers.
    pub(crate) fn render(&self) -> String {
        let about = self.about.iter().map(|about| format!("{about}\n")).collect::<String>();
        let mut text = format!("{}\n{} acknowledged events.\n{about}\n{HEAD}", self.command(), self.acknowledged);
        let mut all = Results::default();
        self.rows.iter().filter_map(|row| row.results).for_each(|results| all.merge(&results));
        let last = Row { name: ALL.to_owned(), results: Some(all) };
        for Row { name, results } in self.rows.iter().chain([&last]) {
            let cells = match results {
                None => format!("{NOT_RUN} | – | – | – | – | – | –"),
                Some(is) => format!(
                    "{} | {:.1} | {:.1} | {} | {} | {} | {}",
                    is.count, is.emit_s, is.applied_s, is.lost, is.twice, is.undelivered, is.of_no_turn
                ),
            };
            text.push_str(&format!("| {name} | {cells} |\n"));
        }
        text
    }

    /// Returns the command that repeats the run.
    fn command(&self) -> String {
        let Table { seed, sizes: Sizes { fail_overs, restarts, others }, .. } = self;
        match self.servers {
            Servers::Pair => format!(
                "`cargo xtask faults --seed {seed} --fail-overs {fail_overs} --restarts {restarts} --others {others}`:"
            ),
            Servers::Patroni => {
                format!("`cargo xtask faults patroni --seed {seed} --fail-overs {fail_overs} --others {others}`:")
            }
        }
    }

    /// Reads what `render` wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |option: &str| {
            let at = words.iter().position(|word| *word == option)?;
            words.get(at + 1)?.trim_matches(|letter: char| !letter.is_ascii_digit()).parse::<u64>().ok()
        };
        let size = |option| usize::try_from(after(option)?).ok();
        let servers = if words.contains(&"patroni") { Servers::Patroni } else { Servers::Pair };
        let restarts = if servers == Servers::Patroni { 0 } else { size("--restarts")? };
        let sizes = Sizes { fail_overs: size("--fail-overs")?, restarts, others: size("--others")? };
        let told = words.iter().position(|word| *word == "acknowledged")?;
        let acknowledged = words.get(told.checked_sub(1)?)?.parse().ok()?;
        let rows = text.lines().filter(|line| line.starts_with("| ")).skip(2).map(row).collect::<Option<Vec<_>>>()?;
        let (last, rows) = rows.split_last()?;
        let about = text.lines().nth(2).filter(|line| !line.is_empty()).map(str::to_owned);
        (last.name == ALL).then(|| Table {
            servers,
            seed: after("--seed").unwrap_or(0),
            sizes,
            acknowledged,
            about,
            rows: rows.to_vec(),
        })
    }

    /// Writes the table into a document, between its markers.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)?;
        let (begin, end) = markers(self.servers);
        let (before, rest) = text.split_once(&begin).ok_or(format!("{} has no {begin}", path.display()))?;
        let (_, after) = rest.split_once(&end).ok_or(format!("{} has no {end}", path.display()))?;
        Ok(std::fs::write(path, format!("{before}{begin}\n\n{}\n{end}{after}", self.render()))?)
    }
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [name, count, emit, applied, lost, twice, undelivered, of_no_turn] = cells.as_slice() else { return None };
    let results = match *count {
        NOT_RUN => None,
        count => Some(Results {
            count: count.parse().ok()?,
            emit_s: emit.parse().ok()?,
            applied_s: applied.parse().ok()?,
            lost: lost.parse().ok()?,
            twice: twice.parse().ok()?,
            undelivered: undelivered.parse().ok()?,
            of_no_turn: of_no_turn.parse().ok()?,
        }),
    };
    Some(Row { name: (*name).to_owned(), results })
}

/// Returns the text between the markers of a document.
pub(crate) fn table_of(document: &str, servers: Servers) -> Option<&str> {
    let (begin, end) = markers(servers);
    Some(document.split_once(&begin)?.1.split_once(&end)?.0.trim_start())
}

/// Returns the names of the rows that a table may have, in order.
pub(crate) fn names(servers: Servers) -> Vec<&'static str> {
    servers.kinds().map(Kind::name).collect()
}
