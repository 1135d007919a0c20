//! The two versions, each built in a folder of its own below target/upgrade.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{cargo, status_of, words_of};

/// The commit of the released version, whose schema and statements the suite keeps.
const RELEASED: &str = "tests/suite/migrating/released/commit.txt";

/// The service with a version of the library. The versions of the dependencies are those of its `Cargo.lock`.
const MANIFEST: &str = r#"[workspace]

[package]
name = "upgrade"
version = "0.0.0"
edition = "2024"
publish = false

[[bin]]
name = "upgrade"
path = PROGRAM

[dependencies]
async-trait = "0.1"
eventbox = { path = LIBRARY, default-features = false, features = ["emitter", "postgres", "runtime", "sqlite"] }
serde = { version = "1", features = ["derive"] }
serde_json = "1"
sqlx = { version = "0.9", default-features = false, features = ["runtime-tokio"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "sync", "time"] }
tonic = { version = "0.14", default-features = false }

[profile.dev]
debug = false
"#;

/// Which of the two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Old => "old",
            Side::New => "new",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Side::Old => Side::New,
            Side::New => Side::Old,
        }
    }
}

/// A built version.
pub(super) struct Version {
    /// Its commit, or what git calls the work tree.
    pub(super) commit: String,
    pub(super) program: PathBuf,
}

/// Both versions.
pub(super) struct Versions {
    pub(super) old: Version,
    pub(super) new: Version,
}

impl Versions {
    /// Builds both versions. A version that was built before is looked at by cargo only.
    pub(super) fn build(old: Option<&str>) -> Result<Self> {
        let commit = commit_of(&old.map_or_else(last_version, |old| Ok(old.to_owned()))?)?;
        let folder = root()?.join("target/upgrade").join(commit.get(..12).unwrap_or(&commit));
        let source = checked_out(&folder, &commit)?;
        let old = Version { program: program(&folder, &source)?, commit };
        let today = git(&root()?, &["describe", "--always", "--dirty", "--abbrev=12"])?;
        let new = Version { program: program(&root()?.join("target/upgrade/today"), &root()?)?, commit: today };
        Ok(Versions { old, new })
    }

    pub(super) fn of(&self, side: Side) -> &Version {
        match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        }
    }
}

/// Returns the folder of the project.
fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("find the folder of the project")
}

/// Runs git in a folder, and returns its answer.
fn git(folder: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    let done = command.args(words).current_dir(folder).output().context("start git")?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {}", words_of(&command), complaint.trim());
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Returns the last release: its tag, or the commit that the suite keeps.
fn last_version() -> Result<String> {
    let root = root()?;
    if let Ok(tag) = git(&root, &["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]) {
        return Ok(tag);
    }
    Ok(fs::read_to_string(root.join(RELEASED)).with_context(|| format!("read {RELEASED}"))?.trim().to_owned())
}

fn commit_of(reference: &str) -> Result<String> {
    git(&root()?, &["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{reference}^{{commit}}")])
        .with_context(|| format!("{reference} is no commit of this repository: name one with --old"))
}

/// Returns the folder with the files of a commit.
fn checked_out(folder: &Path, commit: &str) -> Result<PathBuf> {
    let source = folder.join("source");
    if source.is_dir() {
        return Ok(source);
    }
    let part = folder.join("source.part");
    if part.is_dir() {
        fs::remove_dir_all(&part).context("remove what an interrupted run has left")?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    // A clone and not a worktree, so that the repository keeps no record of it.
    git(&root()?, &["clone", "--quiet", "--no-checkout", "--shared", ".", &part.to_string_lossy()])?;
    git(&part, &["checkout", "--quiet", "--detach", commit])?;
    fs::rename(&part, &source).context("rename the files of the old version")?;
    Ok(source)
}

/// Builds the service with a library.
///
/// Each version has a target folder of its own. Two packages with one name and the same relative paths would share
/// their files in one folder, and with them the migrations that are built in.
fn program(folder: &Path, library: &Path) -> Result<PathBuf> {
    let (package, target) = (folder.join("program"), folder.join("target"));
    fs::create_dir_all(&package).with_context(|| format!("create {}", package.display()))?;
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    let manifest = MANIFEST.replace("LIBRARY", &quoted(library));
    let manifest = manifest.replace("PROGRAM", &quoted(&root()?.join("tests/upgrade/main.rs")));
    fs::write(package.join("Cargo.toml"), manifest).context("write a manifest")?;
    fs::copy(library.join("Cargo.lock"), package.join("Cargo.lock")).context("copy Cargo.lock")?;
    let mut build = cargo(["build"]);
    build.current_dir(&package).env("CARGO_TARGET_DIR", &target);
    eprintln!("xtask: {} with {}", words_of(&build), library.display());
    if !status_of(&mut build)?.success() {
        bail!("tests/upgrade could not be built with {}: it may use only what both versions have", library.display());
    }
    Ok(target.join("debug/upgrade"))
}
