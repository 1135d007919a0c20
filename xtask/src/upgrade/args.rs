//! The options of the command.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(super) const HELP: &str = "\
Two versions of the library beside each other on one database, under load and kills.

  cargo xtask upgrade [--old REF] [--minutes N] [--seed N] [--engine ENGINE] [--json]

  --old REF        the old version: a tag, a branch or a commit. Without it the last tag that begins with v, or the
                   commit that tests/suite/migrating/released/commit.txt names
  --minutes N      time of the load on Postgres, 10 when not given; SQLite gets a fifth of it
  --seed N         draws the same moments and the same processes to kill as an earlier run
  --engine ENGINE  postgres or sqlite; both when not given
  --json           prints the counts as one JSON document

The old version migrates and works. The new version migrates while the old one works, works beside it, goes away again,
and comes back. Senders and workers of both versions are killed meanwhile. At the end, nothing that was acknowledged is
lost, nothing is applied twice, and every message of a turn has arrived.

Both versions are built below target/upgrade, from tests/upgrade.

Exit codes: 0 success, 1 a promise was broken, 2 error, 130 interrupted.";

/// The engines of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Postgres,
    Sqlite,
}

impl Engine {
    pub(super) fn name(self) -> &'static str {
        match self {
            Engine::Postgres => "postgres",
            Engine::Sqlite => "sqlite",
        }
    }
}

/// What the user asked for.
pub(super) struct Options {
    pub(super) old: Option<String>,
    pub(super) minutes: f64,
    pub(super) seed: u64,
    pub(super) engines: Vec<Engine>,
    pub(super) json: bool,
}

/// A fifth of the load of Postgres.
const SHARE_OF_SQLITE: f64 = 0.2;

/// The longest load, in minutes.
const MOST_MINUTES: f64 = 24.0 * 60.0;

impl Options {
    /// Reads the options; `None` when the user asks for help.
    pub(super) fn parse(args: Vec<OsString>) -> Result<Option<Self>> {
        let mut options = Options {
            old: None,
            minutes: 10.0,
            seed: fastrand::u64(..1_000_000),
            engines: vec![Engine::Postgres, Engine::Sqlite],
            json: false,
        };
        let mut words = args.into_iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value; see `upgrade --help`"));
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => options.json = true,
                "--old" => options.old = Some(value()?),
                "--minutes" => options.minutes = value()?.parse().context("--minutes is a number of minutes")?,
                "--seed" => options.seed = value()?.parse().context("--seed is a whole number")?,
                "--engine" => {
                    options.engines = match value()?.as_str() {
                        "postgres" => vec![Engine::Postgres],
                        "sqlite" => vec![Engine::Sqlite],
                        other => bail!("--engine is postgres or sqlite, not {other}"),
                    }
                }
                other => bail!("there is no option {other}; see `cargo xtask upgrade --help`"),
            }
        }
        if !(0.0..=MOST_MINUTES).contains(&options.minutes) {
            bail!("--minutes is {}: it is between 0 and {MOST_MINUTES}", options.minutes);
        }
        Ok(Some(options))
    }

    /// Returns how long the load lasts on an engine.
    pub(super) fn time(&self, engine: Engine) -> Duration {
        let share = if engine == Engine::Sqlite { SHARE_OF_SQLITE } else { 1.0 };
        Duration::from_secs_f64(self.minutes * 60.0 * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Option<Options>> {
        Options::parse(words.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn options_are_read() {
        let options = parsed("--old v1 --minutes 5 --seed 7 --json").ok().flatten();
        let read = options.map(|options| {
            let seconds = (options.time(Engine::Postgres).as_secs(), options.time(Engine::Sqlite).as_secs());
            (options.old, options.seed, options.json, options.engines.len(), seconds)
        });
        assert_eq!(read, Some((Some("v1".to_owned()), 7, true, 2, (300, 60))));
    }

    #[test]
    fn wrong_options_are_refused() {
        for words in ["--minutes", "--minutes x", "--minutes -1", "--engine mysql", "old", "--seed 0.5"] {
            assert!(parsed(words).is_err(), "{words}");
        }
        assert!(parsed("--help").is_ok_and(|options| options.is_none()));
    }
}
