//! `cargo xtask mutants`: small changes of the code, each of which a test should notice.
//!
//! A build of the tests takes minutes. So all mutants are built into one copy of the repository, each behind a switch
//! that is read at run time, and a mutant costs the tests that run its code.

mod compile;
mod folders;
mod hunt;
mod journal;
mod list;
mod options;
mod reach;
mod report;
mod rewrite;
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use self::compile::Known;
use self::folders::{Folder, root};
use self::hunt::Hunt;
use self::journal::Found;
use self::list::Mutant;
use self::options::{HELP, Options};
use self::reach::Reach;
use self::report::Figures;
use self::tests::{Stage, Test};
use self::tree::Tree;
use crate::postgres::{self, Server};

/// Mutants after which the databases of killed tests are dropped.
const CLEAN_EVERY: usize = 20;

/// Everything that a run works with.
struct Session {
    options: Options,
    /// Folder of the journals.
    folder: PathBuf,
    mutants: Vec<Mutant>,
    tree: Tree,
    tests: Vec<Test>,
    stage: Stage,
    server: Server,
    /// Digests of the source and of the tests.
    digests: (u64, u64),
}

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let Some(options) = Options::parse(args)? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    let session = Session::prepare(options)?;
    let mut all = Vec::new();
    for folder in &session.options.folders {
        let figures = session.figures(folder)?;
        if !session.options.json {
            print!("{figures}");
        }
        all.push(figures);
    }
    if session.options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    let has_new = all.iter().any(|figures| !figures.new.is_empty());
    Ok(ExitCode::from(u8::from(has_new)))
}

impl Session {
    /// Builds the copy with its mutants, and starts the server.
    fn prepare(options: Options) -> Result<Self> {
        let folder = root().canonicalize()?.join("target/mutants");
        fs::create_dir_all(&folder)?;
        let mutants = list::list()?;
        let mut tree = Tree::read(folder.join("tree"))?;
        let source = digest(&tree, &mutants);
        let halves = options.folders.iter().flat_map(|folder| folder.halves.iter().copied()).collect();
        let programs = compile::build(&mut tree, &mutants, &halves, &Known::new(&folder, source))?;
        let mut tests = Vec::new();
        for program in &programs {
            tests.extend(tests::list(program)?);
        }
        let server = postgres::server()?;
        let stage = Stage {
            tree: tree.folder.clone(),
            temporary: folder.join("temporary"),
            url: server.url(),
            width: options.jobs.unwrap_or_else(crate::tests_at_a_time),
        };
        let digests = (source, tree.digest(|name| name.starts_with("tests/suite/")));
        Ok(Session { options, folder, mutants, tree, tests, stage, server, digests })
    }

    /// Tries the chosen mutants of a folder.
    fn figures(&self, folder: &Folder) -> Result<Figures> {
        let known = folder.known()?;
        let of_folder: Vec<_> = self.mutants.iter().filter(|mutant| mutant.is_in(folder.files)).collect();
        let mut figures = Figures::new(folder.name, of_folder.len());
        for mutant in &of_folder {
            if let Some(obstacle) = self.tree.obstacles.get(&mutant.number) {
                figures.count_obstacle(*obstacle);
            }
        }
        let exists = |name: &&String| of_folder.iter().any(|mutant| &mutant.name == *name);
        figures.gone = known.iter().filter(|name| !exists(name)).cloned().collect();
        let can_be_tried = |mutant: &&&Mutant| !self.tree.obstacles.contains_key(&mutant.number);
        let testable: Vec<_> = of_folder.iter().copied().filter(|mutant| can_be_tried(&mutant)).collect();
        let chosen = self.options.choose(testable, |mutant| &mutant.name);
        let found = self.try_all(folder, &chosen)?;
        for mutant in &chosen {
            if let Some(found) = found.get(&mutant.name) {
                figures.count(found, &mutant.place(), &known);
            }
        }
        Ok(figures)
    }

    /// Tries mutants, and returns what became of them, now or in earlier runs.
    fn try_all(&self, folder: &Folder, mutants: &[&Mutant]) -> Result<BTreeMap<String, Found>> {
        let (source, tests) = self.digests;
        let path = self.folder.join(folder.name).with_extension("jsonl");
        let mut found = journal::current(journal::read(&path), source, tests);
        if self.options.only.is_some() {
            found.clear();
        }
        let wanted: Vec<_> = self.wanted(folder).cloned().collect();
        self.clean()?;
        let reach = Reach::of(&wanted, &self.stage, &self.tree, source, &self.folder)?;
        let mut file = journal::open(&path)?;
        let mut hunt = Hunt::new(&wanted, &reach, &self.stage);
        let left: Vec<_> = mutants.iter().filter(|mutant| !found.contains_key(&mutant.name)).collect();
        let started = Instant::now();
        for (index, mutant) in left.iter().enumerate() {
            let began = Instant::now();
            let (outcome, by) = hunt.try_on(folder, mutant)?;
            let seconds = began.elapsed().as_secs_f64();
            let one = Found { source, tests, mutant: mutant.name.clone(), outcome, by, seconds };
            journal::add(&mut file, &one)?;
            progress(folder, (index + 1, left.len()), started, &one);
            found.insert(mutant.name.clone(), one);
            if index % CLEAN_EVERY == CLEAN_EVERY - 1 {
                self.clean()?;
            }
        }
        Ok(found)
    }

    /// Returns the tests that may notice a mutant of a folder.
    fn wanted<'a>(&'a self, folder: &'a Folder) -> impl Iterator<Item = &'a Test> {
        self.tests.iter().filter(|test| test.program == "lib" || folder.wants(&test.name))
    }

    /// Removes what killed tests have left. The server of the user keeps it, as it keeps what failed tests leave.
    fn clean(&self) -> Result<()> {
        if matches!(self.server, Server::Own(_)) {
            postgres::drop_test_databases(&self.server)?;
        }
        self.stage.clean()
    }
}

/// Returns a number that changes with the code, with its mutants and with the way in which they stand in it.
fn digest(tree: &Tree, mutants: &[Mutant]) -> u64 {
    let folders = ["src/", "migrations/", "Cargo.lock", "Cargo.toml", "xtask/src/mutants/rewrite/"];
    let code = tree.digest(|name| folders.iter().any(|folder| name.starts_with(folder)));
    let mut hasher = DefaultHasher::new();
    code.hash(&mut hasher);
    mutants.iter().for_each(|mutant| mutant.name.hash(&mut hasher));
    hasher.finish()
}

/// Prints how far a folder is, and how long the rest will take.
fn progress(folder: &Folder, (done, all): (usize, usize), started: Instant, found: &Found) {
    let per_mutant = started.elapsed().as_secs_f64() / done as f64;
    let minutes = per_mutant * (all - done) as f64 / 60.0;
    let by = found.by.as_deref().map(|test| format!(" by {test}")).unwrap_or_default();
    eprintln!(
        "xtask: {}: {done} of {all}, {minutes:.0} minutes left: {:?}{by} ({:.1} s): {}",
        folder.name, found.outcome, found.seconds, found.mutant
    );
}
