//! Commands that set something up: tables, completions, pages of the manual.

mod migrate;
mod shell;

pub(super) use migrate::{MigrateArgs, migrate};
pub(super) use shell::{CompletionsArgs, ManArgs, completions, man};
