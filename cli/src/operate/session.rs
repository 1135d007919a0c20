//! The settings of a command, and its open database.

use anyhow::{Context, Result};

use super::args::{Common, Writing};
use super::config::Config;
use super::connect::{Address, Database};
use super::print::{Format, Output};

/// Options, completed by the configuration file.
pub(crate) struct Settings {
    config: Config,
    database_url: Option<String>,
    pub(crate) output: Output,
}

impl Settings {
    pub(crate) fn read(common: &Common) -> Result<Self> {
        let config = Config::read(common.config.as_deref())?;
        let named = if common.json { Some(Format::Json) } else { common.format };
        let output = Output::new(named.or(config.format).unwrap_or_default());
        let database_url = common.database_url.clone().or_else(|| config.database_url.clone());
        Ok(Settings { config, database_url, output })
    }

    /// Returns the location of the database, if one is named.
    pub(crate) fn address(&self) -> Result<Option<Address>> {
        let url = self.database_url.as_deref().filter(|url| !url.is_empty());
        url.map(|url| Address::parse(url).context("the database URL")).transpose()
    }

    /// Returns the location of the database, or what to do without one.
    pub(crate) fn needed_address(&self) -> Result<Address> {
        self.address()?.context(
            "no database is named: give --database-url, set DATABASE_URL, or write database_url into eventbox.toml",
        )
    }
}

/// An open database and the settings of the command.
pub(crate) struct Session {
    settings: Settings,
    pub(crate) database: Database,
}

impl Session {
    pub(crate) async fn open(common: &Common, needs_tables: bool) -> Result<Self> {
        let settings = Settings::read(common)?;
        let database = settings.needed_address()?.open().await?;
        if needs_tables {
            database.check_migrated().await?;
        }
        Ok(Session { settings, database })
    }

    pub(crate) fn output(&self) -> &Output {
        &self.settings.output
    }

    /// Completes the options of a repair by the configuration file.
    pub(crate) fn completed(&self, writing: &Writing) -> Writing {
        let config = &self.settings.config;
        let user = || std::env::var("USER").ok().filter(|user| !user.is_empty());
        Writing {
            yes: writing.yes || config.yes.unwrap_or(false),
            dry_run: writing.dry_run || config.dry_run.unwrap_or(false),
            who: writing.who.clone().or_else(|| config.who.clone()).or_else(user),
            why: writing.why.clone().or_else(|| config.why.clone()),
        }
    }
}
