//! The options of the command.

use std::ffi::OsString;

use anyhow::{Context, Result, bail, ensure};

use super::folders::{FOLDERS, Folder};

pub(super) const HELP: &str = "\
Changes the code in many small ways, and lists the changes that no test notices.

  cargo xtask mutants [FOLDER…] [--sample N] [--seed S] [--shard K/N] [--only TEXT] [--jobs N] [--json]

  FOLDER       round, dsset, runtime, store, emitter, outbox or chip; all when none is named
  --sample N   tests N mutants of each folder, chosen at random
  --seed S     the choice of --sample; 1 when not given
  --shard K/N  tests each Nth mutant of a folder, beginning with number K, which is 0 to N - 1
  --only TEXT  tests the mutants whose names contain the text, again, and says which tests notice them
  --jobs N     tests to run at a time; three per core when not given
  --json       prints the figures as one JSON document

All mutants of all folders are built into one copy of the repository, below target/mutants/tree, each behind a switch
that is read at run time. Each test runs once without a mutant, and notes which switches it asks for. A mutant is tried
by the tests that ask for its switch: by the unit tests, and by those of the suite that belong to the folder. It is
caught when a test fails alone with the mutant, and passes alone without it. It timed out when a test hangs so.

A mutant does not compile when the compiler refuses the change. It is not expressible when no switch can stand there, as
in a constant. What was found is kept in target/mutants/FOLDER.jsonl, and a run goes on where another one was
interrupted. After a change of src everything is tried again, after a change of the tests the survivors.

xtask/mutants/FOLDER.txt lists the known survivors, each with its reason.

Exit codes: 0 every survivor is known, 1 there is another one, 2 error, 130 interrupted.";

/// What the user asked for.
pub(super) struct Options {
    pub(super) folders: Vec<&'static Folder>,
    pub(super) sample: Option<usize>,
    pub(super) seed: u64,
    /// A part of the mutants: its number, and the number of parts.
    pub(super) shard: (usize, usize),
    pub(super) only: Option<String>,
    pub(super) jobs: Option<usize>,
    pub(super) json: bool,
}

impl Options {
    /// Reads the options; `None` when the user asks for help.
    pub(super) fn parse(args: &[OsString]) -> Result<Option<Self>> {
        let mut options =
            Options { folders: Vec::new(), sample: None, seed: 1, shard: (0, 1), only: None, jobs: None, json: false };
        let mut words = args.iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value; see `mutants --help`"));
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => options.json = true,
                "--sample" => options.sample = Some(value()?.parse().context("--sample is a whole number")?),
                "--seed" => options.seed = value()?.parse().context("--seed is a whole number")?,
                "--shard" => options.shard = shard(&value()?).context("--shard is K/N, with K below N")?,
                "--only" => options.only = Some(value()?),
                "--jobs" => options.jobs = Some(value()?.parse().context("--jobs is a whole number")?),
                option if option.starts_with('-') => bail!("there is no option {option}; see `mutants --help`"),
                name => options.folders.push(folder(name)?),
            }
        }
        ensure!(options.jobs != Some(0), "--jobs is at least 1");
        if options.folders.is_empty() {
            options.folders.extend(&FOLDERS);
        }
        Ok(Some(options))
    }

    /// Chooses from the mutants of a folder.
    pub(super) fn choose<T>(&self, mut all: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
        if let Some(text) = &self.only {
            all.retain(|one| name(one).contains(text));
        }
        if let Some(sample) = self.sample {
            fastrand::Rng::with_seed(self.seed).shuffle(&mut all);
            all.truncate(sample);
        }
        let (part, parts) = self.shard;
        all.into_iter().enumerate().filter(|(index, _)| index % parts == part).map(|(_, one)| one).collect()
    }
}

fn shard(text: &str) -> Option<(usize, usize)> {
    let (part, parts) = text.split_once('/')?;
    let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
    (part < parts).then_some((part, parts))
}

fn folder(name: &str) -> Result<&'static Folder> {
    let names = || FOLDERS.map(|folder| folder.name).join(", ");
    FOLDERS
        .iter()
        .find(|folder| folder.name == name)
        .with_context(|| format!("no folder {name}: there are {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Option<Options>> {
        Options::parse(&words.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        let options = parsed("dsset round --sample 4 --seed 7 --shard 1/8 --jobs 2 --json").unwrap().unwrap();
        assert_eq!(options.folders.iter().map(|folder| folder.name).collect::<Vec<_>>(), ["dsset", "round"]);
        assert_eq!((options.sample, options.seed, options.shard), (Some(4), 7, (1, 8)));
        assert!(options.json && options.jobs == Some(2));
        let all = parsed("").unwrap().unwrap();
        assert_eq!((all.folders.len(), all.shard), (FOLDERS.len(), (0, 1)));
    }

    #[test]
    fn wrong_options_are_refused() {
        for words in ["nowhere", "--shard 8/8", "--shard 1", "--sample x", "--jobs 0", "--jobs", "--verbose"] {
            assert!(parsed(words).is_err(), "{words}");
        }
        assert!(parsed("--help").is_ok_and(|options| options.is_none()));
    }

    #[test]
    fn a_sample_depends_on_its_seed_and_shards_share_the_work() {
        let chosen = |words: &str| {
            let all = (0..100).map(|number| number.to_string()).collect();
            parsed(words).unwrap().unwrap().choose(all, |name: &String| name.as_str())
        };
        assert_eq!(chosen("--sample 9 --seed 3"), chosen("--sample 9 --seed 3"));
        assert_ne!(chosen("--sample 9 --seed 3"), chosen("--sample 9 --seed 4"));
        let mut shared = [chosen("--shard 0/3"), chosen("--shard 1/3"), chosen("--shard 2/3")].concat();
        shared.sort_by_key(|name| name.parse::<u32>().unwrap());
        assert_eq!(shared, chosen(""));
        assert_eq!(chosen("--only 77"), ["77"]);
    }
}
