//! The configuration file `eventbox.toml`.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::print::Format;

/// File that is read when it exists and no other is named.
const DEFAULT_FILE: &str = "eventbox.toml";

/// Settings of the file. Each key is the name of an option.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) database_url: Option<String>,
    pub(crate) format: Option<Format>,
    pub(crate) yes: Option<bool>,
    pub(crate) dry_run: Option<bool>,
    pub(crate) who: Option<String>,
    pub(crate) why: Option<String>,
}

impl Config {
    /// Reads the named file, or the default file if it exists.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self> {
        let file = named.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).with_context(|| format!("the configuration {}", file.display())),
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read the configuration {}", file.display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            match before {
                Some(before) => anyhow!("line {}: {}", before.matches('\n').count() + 1, error.message()),
                None => anyhow!("{}", error.message()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_options() {
        let text =
            "database_url = 'orders.sqlite3'\nformat = 'json'\nyes = true\ndry_run = false\nwho = 'me'\nwhy = 'x'";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.database_url.as_deref(), config.format), (Some("orders.sqlite3"), Some(Format::Json)));
        assert_eq!((config.yes, config.dry_run), (Some(true), Some(false)));
        assert_eq!((config.who.as_deref(), config.why.as_deref()), (Some("me"), Some("x")));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let refused = Config::parse("yes = true\ndatabase = 'x'\n").unwrap_err().to_string();
        assert!(refused.starts_with("line 2: unknown field `database`"), "{refused}");
        let refused = Config::parse("format = 'xml'\n").unwrap_err().to_string();
        assert!(refused.contains("line 1") && refused.contains("xml"), "{refused}");
    }
}
