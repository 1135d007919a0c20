//! As whom a server runs: Postgres refuses to run as root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User, geteuid};

/// Accounts without rights that a machine is likely to have, best first.
const UNPRIVILEGED: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// The account of a server: ourselves, or an unprivileged one when we are root.
pub(crate) struct Account(Option<(Uid, Gid)>);

impl Account {
    /// Ourselves, unless we are root.
    pub(crate) fn for_a_server() -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Account(None));
        }
        let user = UNPRIVILEGED.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.context(
            "Postgres does not run as root, and there is neither a user postgres nor a user nobody: run this as an ordinary user",
        )?;
        Ok(Account(Some((user.uid, user.gid))))
    }

    /// A command that runs as this account, with nothing of ours that could mislead a server.
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

    /// Gives a directory of ours to this account.
    pub(crate) fn own(&self, directory: &Path) -> Result<()> {
        match self.0 {
            Some((uid, gid)) => chown(directory, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("give {} to the server's user", directory.display())),
            None => Ok(()),
        }
    }

    /// Whether this account can work in a directory that it owns: one above it may be closed to it.
    pub(crate) fn can_use(&self, directory: &Path) -> bool {
        self.command("ls").arg(directory).output().is_ok_and(|done| done.status.success())
    }
}
