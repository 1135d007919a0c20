//! A copy of the repository in which the mutants stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::folders::root;
use super::list::Mutant;
use super::rewrite::{Obstacle, Rewritten, rewrite};
use crate::run::words_of;

/// The module that reads the switch.
const MODULE: &str = include_str!("switch.rs.txt");

/// Lints that refuse what a mutant may do.
const LINTS: &str = "#![allow(warnings, arithmetic_overflow, unconditional_panic)] ";

/// The file of the suite that says how long a test waits for a condition, and its line.
const WAITS: (&str, &str) = ("tests/suite/support/engines.rs", "const SOON: Duration = Duration::from_secs(30);");

/// The line in the copy: most mutants are caught by such a wait, and it is paid three times.
const SHORTER: &str = "const SOON: Duration = Duration::from_secs(10);";

/// A copy of the repository.
pub(super) struct Tree {
    pub(super) folder: PathBuf,
    /// The files as they are in the repository.
    files: BTreeMap<String, Vec<u8>>,
    /// The files with mutants.
    pub(super) rewritten: BTreeMap<String, Rewritten>,
    /// Mutants that cannot be tested.
    pub(super) obstacles: BTreeMap<u32, Obstacle>,
}

impl Tree {
    /// A copy of nothing.
    #[cfg(test)]
    pub(super) fn empty(folder: PathBuf) -> Self {
        Tree { folder, files: BTreeMap::new(), rewritten: BTreeMap::new(), obstacles: BTreeMap::new() }
    }

    /// Reads the files that git tracks or would track.
    pub(super) fn read(folder: PathBuf) -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
        let listed = git.output().with_context(|| format!("start {}", words_of(&git)))?;
        ensure!(listed.status.success(), "{} ended with {}", words_of(&git), listed.status);
        let mut files = BTreeMap::new();
        for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
            // A file that was removed is still tracked.
            if let Ok(content) = fs::read(root().join(name)) {
                files.insert(name.to_owned(), content);
            }
        }
        Ok(Tree { folder, files, rewritten: BTreeMap::new(), obstacles: BTreeMap::new() })
    }

    /// Returns a number that changes with the files that a condition chooses.
    pub(super) fn digest(&self, is_chosen: impl Fn(&str) -> bool) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.iter().filter(|(name, _)| is_chosen(name)).for_each(|file| file.hash(&mut hasher));
        hasher.finish()
    }

    /// Returns whether the repository has a file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Writes the copy with all mutants that have no obstacle.
    pub(super) fn write(&mut self, mutants: &[Mutant]) -> Result<()> {
        let mut by_file = BTreeMap::<&str, Vec<&Mutant>>::new();
        for mutant in mutants.iter().filter(|mutant| !self.obstacles.contains_key(&mutant.number)) {
            by_file.entry(&mutant.file).or_default().push(mutant);
        }
        self.rewritten.clear();
        for (name, mutants) in by_file {
            let content = self.files.get(name).with_context(|| format!("{name} is not in the repository"))?;
            let rewritten = rewrite(std::str::from_utf8(content)?, &mutants).with_context(|| name.to_owned())?;
            for mutant in mutants.iter().filter(|mutant| !rewritten.numbers.contains(&mutant.number)) {
                let is_wrong = rewritten.wrong.contains(&mutant.number);
                let obstacle = if is_wrong { Obstacle::DoesNotCompile } else { Obstacle::NotExpressible };
                self.obstacles.insert(mutant.number, obstacle);
            }
            self.rewritten.insert(name.to_owned(), rewritten);
        }
        for (name, content) in &self.files {
            let rewritten = self.rewritten.get(name).map(|rewritten| rewritten.text.as_bytes());
            let content = rewritten.unwrap_or(content);
            let changed = changed(name, content)?;
            write_if_new(&self.folder.join(name), changed.as_deref().unwrap_or(content))?;
        }
        write_if_new(&self.folder.join("src/mutant.rs"), MODULE.as_bytes())?;
        self.remove_others()
    }

    /// Removes files of an earlier copy that the repository has no more.
    fn remove_others(&self) -> Result<()> {
        let mut folders = vec![self.folder.join("src"), self.folder.join("tests"), self.folder.join("migrations")];
        let expected: BTreeSet<_> = self.files.keys().map(|name| self.folder.join(name)).collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if !expected.contains(&path) && !path.ends_with("src/mutant.rs") {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the content of a file that differs in the copy.
fn changed(name: &str, content: &[u8]) -> Result<Option<Vec<u8>>> {
    if name == "src/lib.rs" {
        let module = b"\nmod mutant;\n";
        return Ok(Some([LINTS.as_bytes(), content, module].concat()));
    }
    if name == WAITS.0 {
        let text = std::str::from_utf8(content)?;
        ensure!(text.contains(WAITS.1), "{name} has no line `{}`", WAITS.1);
        return Ok(Some(text.replace(WAITS.1, SHORTER).into_bytes()));
    }
    Ok(None)
}

/// Writes a file unless it has the content already, because cargo builds anew what is written.
fn write_if_new(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_gets_the_switch() {
        let library = changed("src/lib.rs", b"//! Text.\nmod a;").unwrap().unwrap();
        let library = String::from_utf8(library).unwrap();
        assert!(library.starts_with("#![allow(") && library.contains("] //! Text.\nmod a;"), "{library}");
        assert!(library.ends_with("mod mutant;\n"));
        assert!(syn::parse_file(&library).is_ok() && syn::parse_file(MODULE).is_ok());
        assert!(changed("src/clock.rs", b"").unwrap().is_none());
    }

    #[test]
    fn tests_wait_shorter_in_the_copy() {
        let text = fs::read(root().join(WAITS.0)).unwrap();
        let changed = String::from_utf8(changed(WAITS.0, &text).unwrap().unwrap()).unwrap();
        assert!(changed.contains(SHORTER) && !changed.contains(WAITS.1));
    }
}
