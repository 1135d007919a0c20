//! The folders of `src` whose mutants are tested, with the tests that should notice, and the lists of known survivors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder of `src` with its tests.
pub(super) struct Folder {
    /// Name of the folder, and of the list of its known survivors.
    pub(super) name: &'static str,
    /// The folder, with a slash at its end.
    pub(super) files: &'static str,
    /// Halves of the suite that have the tests. Each takes minutes to build.
    pub(super) halves: &'static [&'static str],
    /// Tests of the suite that should notice, by the beginnings of their names. The unit tests run as well.
    pub(super) suite: &'static [&'static str],
}

/// The half of the suite with the inbox and the runtime.
const INNER: &str = "suite";

/// The other half of the suite.
const OUTER: &str = "around";

/// Folders to test, the quickest first.
pub(super) const FOLDERS: [Folder; 7] = [
    Folder {
        name: "round",
        files: "src/eventbox/round/",
        halves: &[INNER],
        suite: &[
            "paths::",
            "runtime::hooks",
            "runtime::processor_rounds",
            "runtime::rounds",
            "runtime::overtaken",
            "runtime::failing",
            "runtime::finding",
            "runtime::bounds",
        ],
    },
    Folder {
        name: "dsset",
        files: "src/dsset/",
        halves: &[INNER, OUTER],
        suite: &["dsset::", "paths::doors", "admin::"],
    },
    Folder { name: "runtime", files: "src/runtime/", halves: &[INNER], suite: &["runtime::", "paths::failing"] },
    Folder {
        name: "store",
        files: "src/store/",
        halves: &[INNER, OUTER],
        suite: &[
            "paths::",
            "dsset::",
            "admin::",
            "eventbox::",
            "emitter::",
            "store::",
            "runtime::rounds",
            "runtime::overtaken",
            "runtime::leases",
        ],
    },
    Folder {
        name: "emitter",
        files: "src/emitter/",
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "runtime::publishing", "paths::decisions"],
    },
    Folder {
        name: "outbox",
        files: "src/outbox/",
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "paths::decisions"],
    },
    Folder {
        name: "chip",
        files: "src/chip/",
        halves: &[INNER, OUTER],
        suite: &["emitter::", "runtime::handing", "paths::decisions"],
    },
];

impl Folder {
    /// Returns whether a test of the suite belongs to the folder.
    pub(super) fn wants(&self, test: &str) -> bool {
        self.suite.iter().any(|beginning| test.starts_with(beginning))
    }

    /// Reads the known survivors. Each has a line of its own, below a line `# …` with the reason.
    pub(super) fn known(&self) -> Result<BTreeSet<String>> {
        let path = root().join("xtask/mutants").join(self.name).with_extension("txt");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    }
}

/// Returns the folder of the repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_has_a_list_with_reasons() {
        for folder in &FOLDERS {
            let listed = folder.known().unwrap();
            assert!(listed.iter().all(|mutant| mutant.starts_with(folder.files)), "{}: {listed:?}", folder.name);
            let path = root().join("xtask/mutants").join(folder.name).with_extension("txt");
            let text = std::fs::read_to_string(path).unwrap();
            let has_reason = text.lines().zip(text.lines().skip(1)).all(|(above, line)| {
                line.is_empty() || line.starts_with('#') || above.starts_with("# ") || above.starts_with("src/")
            });
            assert!(has_reason, "{}: a mutant without a reason above it", folder.name);
        }
    }

    #[test]
    fn tests_are_chosen_by_their_beginnings() {
        let dsset = FOLDERS.iter().find(|folder| folder.name == "dsset").unwrap();
        assert!(dsset.wants("dsset::cases::a::sqlite") && dsset.wants("paths::doors::a"));
        assert!(!dsset.wants("eventbox::dsset::a") && !dsset.wants("paths::ways::a"));
    }
}
