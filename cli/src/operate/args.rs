//! Arguments that the commands of an operator share.

use std::path::PathBuf;

use anyhow::Result;
use eventbox::{EventId, Recipient};

use super::print::Format;
use super::session::Session;
use super::{Answer, Run};

// No doc comments on the next three: clap would show them as the description of each command.

#[derive(Debug, clap::Args)]
pub(crate) struct With<T: clap::Args> {
    #[command(flatten)]
    pub(crate) args: T,
    #[command(flatten, next_help_heading = "Database and output")]
    pub(crate) common: Common,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Common {
    /// Database: postgres://…, sqlite://FILE, or the path of an SQLite file
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub(crate) database_url: Option<String>,
    /// Configuration file: its keys are the names of these options [default: eventbox.toml, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// A table for people, or one JSON document for programs [default: table]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true, global = true)]
    pub(crate) format: Option<Format>,
    /// Short form of --format json
    #[arg(long, conflicts_with = "format", global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Writing {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Show what the command would touch, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Name of the operator, for the log of operations [default: $USER, else unknown]
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Reason, for the log of operations
    #[arg(long, value_name = "TEXT")]
    pub(crate) why: Option<String>,
}

impl<T: Run> With<T> {
    /// Opens the database and runs the command.
    pub(crate) async fn run(self) -> Result<Answer> {
        let session = Session::open(&self.common, T::NEEDS_TABLES).await?;
        self.args.run(&session).await
    }
}

/// Parses a recipient. The text of the library's error begins with an attempt that a person did not make.
pub(crate) fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|error| match error {
        eventbox::Error::Misuse { misuse, .. } => misuse.to_string(),
        error => error.to_string(),
    })
}

/// Parses the id of an event.
pub(crate) fn event_id(text: &str) -> Result<EventId, String> {
    let id: uuid::Uuid = text.parse().map_err(|_| "it is not the id of an event, which is a UUID".to_owned())?;
    Ok(id.into())
}
