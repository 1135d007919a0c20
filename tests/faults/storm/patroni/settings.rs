//! The version of Patroni, and what follows from it.

use std::process::Command;

use super::super::super::report::Result;

/// Environment variable that names another program than the `patroni` of the PATH.
const PROGRAM: &str = "PATRONI";

/// What to install.
const ADVICE: &str = "install the packages patroni, python3-etcd and etcd-server \
(Debian, Ubuntu: sudo apt-get install --no-install-recommends patroni python3-etcd etcd-server)";

/// The first version that takes over no lease of another node. An older one that was frozen writes its name over that
/// of the new leader, when it speaks with etcd by the protocol of version 3 (Patroni's pull request 2689).
const COMPARES: [u32; 3] = [3, 0, 3];

/// The first version that refuses a `ttl` below 20 s.
const SLOW: [u32; 3] = [3, 2, 0];

/// Settings of Patroni, seconds. They are its shortest ones, and its rule is `loop_wait + 2 * retry_timeout <= ttl`.
const LOOP_WAIT_S: u64 = 2;
const RETRY_TIMEOUT_S: u64 = 3;

/// Patroni, and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) program: String,
    version: [u32; 3],
    pub(crate) ttl_s: u64,
    pub(crate) loop_wait_s: u64,
    pub(crate) retry_timeout_s: u64,
}

impl Settings {
    /// Looks for Patroni and etcd.
    pub(crate) fn find() -> Result<Self> {
        version_of("etcd")?;
        let program = std::env::var(PROGRAM).unwrap_or_else(|_| "patroni".to_owned());
        let version = version_of(&program)?;
        Ok(Self::of(program, version))
    }

    /// Returns the settings for a version.
    pub(crate) fn of(program: String, version: [u32; 3]) -> Self {
        let ttl_s = if version < SLOW { LOOP_WAIT_S + 2 * RETRY_TIMEOUT_S } else { 20 };
        Settings { program, version, ttl_s, loop_wait_s: LOOP_WAIT_S, retry_timeout_s: RETRY_TIMEOUT_S }
    }

    /// Returns whether Patroni speaks with etcd by the protocol of version 2.
    pub(crate) fn is_of_version_2(&self) -> bool {
        self.version < COMPARES
    }

    /// Returns what a table tells of the settings.
    pub(crate) fn about(&self) -> String {
        let Settings { version: [major, minor, patch], ttl_s, loop_wait_s, retry_timeout_s, .. } = self;
        let protocol = if self.is_of_version_2() { 2 } else { 3 };
        format!(
            "Patroni {major}.{minor}.{patch} with `ttl: {ttl_s}`, `loop_wait: {loop_wait_s}`, \
             `retry_timeout: {retry_timeout_s}` and the protocol of etcd {protocol}."
        )
    }
}

/// Returns the version that a program tells.
fn version_of(program: &str) -> Result<[u32; 3]> {
    let done =
        Command::new(program).arg("--version").output().map_err(|error| format!("{program}: {error}: {ADVICE}"))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    version_in(&said).ok_or_else(|| format!("{program} tells no version: {ADVICE}").into())
}

/// Returns the first version in a text.
pub(crate) fn version_in(text: &str) -> Option<[u32; 3]> {
    let version = |word: &str| {
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??])
    };
    text.split_whitespace().find_map(version)
}
