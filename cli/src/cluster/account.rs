//! The account of a server. Postgres refuses to run as root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User, geteuid};

/// Unprivileged accounts that a machine is likely to have, best first.
const UNPRIVILEGED: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// The account of a server: the current user, or an unprivileged user if the current one is root.
pub(crate) struct Account(Option<(Uid, Gid)>);

impl Account {
    /// Returns the current user, or an unprivileged one for root.
    pub(crate) fn for_a_server() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Account(None));
        }
        let user = UNPRIVILEGED.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.context(
            "Postgres does not run as root, and this machine has no user postgres and no user nobody: \
             run this as an ordinary user",
        )?;
        Ok(Account(Some((user.uid, user.gid))))
    }

    /// Creates a command that runs as this account, without our environment variables that could mislead a server.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        if let Some((uid, gid)) = self.0 {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir("/");
        command
    }

    /// Gives one of our directories to this account.
    pub(crate) fn own(&self, directory: &Path) -> Result<()> {
        match self.0 {
            Some((uid, gid)) => chown(directory, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("give {} to the server's user", directory.display())),
            None => Ok(()),
        }
    }

    /// Returns whether this account can work in its own directory. A closed parent directory may prevent it.
    pub(crate) fn can_use(&self, directory: &Path) -> bool {
        self.command("ls").arg(directory).output().is_ok_and(|done| done.status.success())
    }
}
