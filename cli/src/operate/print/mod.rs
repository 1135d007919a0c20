//! Output: data on standard output, as tables or as JSON; notes on standard error.

pub(super) mod table;
pub(super) mod words;

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Form of the data on standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// The standard output of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Output { format }
    }

    /// Prints a value: as a JSON document, or as the text.
    pub(crate) fn show<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self.format {
            Format::Json => line(&document(value)?),
            Format::Table => line(&text()),
        }
    }
}

/// Prints a text and the end of its line.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Prints a note for a person on standard error. A closed standard error is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns the JSON of a value: on several lines for a terminal, else on one.
fn document<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    let text = match io::stdout().is_terminal() {
        true => serde_json::to_string_pretty(value)?,
        false => serde_json::to_string(value)?,
    };
    // JSON escapes only the control characters below 0x20. Others can control a terminal too. They occur in strings
    // only.
    Ok(words::escaped(&text, &['\n'], |c| format!("\\u{:04x}", u32::from(c))))
}
