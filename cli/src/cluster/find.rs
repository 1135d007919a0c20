//! Finds the programs of a server.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::Account;

/// Oldest server version that eventbox supports.
const OLDEST: Version = Version { major: 14, minor: 0 };

/// Directories of the packages: parent, start of the folder's name, and the path from there.
const PLACES: [(&str, &str, &str); 11] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/usr/lib", "postgresql", "bin"),
    ("/usr/local", "pgsql", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/opt/local/lib", "postgresql", "bin"),
    ("/Library/PostgreSQL", "", "bin"),
];

/// The version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The programs `initdb` and `postgres` of one version.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) version: Version,
    pub(crate) directory: PathBuf,
}

/// Returns the newest programs on this machine that the account can run.
pub(crate) fn newest(account: &Account) -> Option<Programs> {
    directories().into_iter().filter_map(|directory| programs_in(account, directory)).max_by_key(|found| found.version)
}

fn programs_in(account: &Account, directory: PathBuf) -> Option<Programs> {
    if !directory.join("initdb").exists() {
        return None;
    }
    let answer = account.command(directory.join("postgres")).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&answer.stdout))?;
    (version >= OLDEST).then_some(Programs { version, directory })
}

fn directories() -> BTreeSet<PathBuf> {
    let on_path = which::which_all("postgres").into_iter().flatten();
    // A link in the PATH leads to the directory of the other programs and their files.
    let on_path = on_path.filter_map(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()));
    let answer = Command::new("pg_config").arg("--bindir").output().ok();
    let answer = answer.map(|answer| PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    let usual = PLACES.iter().flat_map(|(parent, start, rest)| in_place(Path::new(parent), start, rest));
    on_path.chain(answer).chain(usual).filter_map(|directory| directory.canonicalize().ok()).collect()
}

fn in_place(parent: &Path, start: &str, rest: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    named.map(|entry| entry.path().join(rest)).filter(|directory| directory.join("postgres").exists()).collect()
}

/// Parses `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also `17beta1` and `18devel`.
fn parse_version(text: &str) -> Option<Version> {
    let (_, text) = text.split_once("(PostgreSQL) ")?;
    let mut parts = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
    Some(Version { major, minor })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = |text| parse_version(text).map(|version| version.to_string());
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap(), "15.18");
        assert_eq!(read("postgres (PostgreSQL) 17beta1\n").unwrap(), "17.0");
        assert_eq!(read("postgres (PostgreSQL) 18devel\n").unwrap(), "18.0");
        assert_eq!(read("command not found"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |major, minor| Version { major, minor };
        assert!(version(9, 6) < OLDEST);
        assert!(version(14, 0) >= OLDEST);
        assert!(version(16, 10) > version(16, 9));
    }

    #[test]
    fn programs_are_found_in_versioned_folders() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["postgresql15/bin", "postgresql16/bin", "postgresql16/share", "other/bin"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for program in ["postgresql15/bin/postgres", "other/bin/postgres"] {
            std::fs::write(root.path().join(program), "").unwrap();
        }
        assert_eq!(in_place(root.path(), "postgresql", "bin"), [root.path().join("postgresql15/bin")]);
    }
}
