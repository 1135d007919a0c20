//! The installation of a Postgres server.

use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::run::{status_of, words_of};

/// Advice for the user when the installation failed.
pub(crate) const ADVICE: &str = "no server of Postgres (14 or newer) was found. Install one and run this again:
    Debian, Ubuntu    sudo apt-get install postgresql
    Fedora, RHEL      sudo dnf install postgresql-server
    Alpine            sudo apk add postgresql
    macOS             brew install postgresql@17
or name one that runs already, with a user who may create databases:
    DATABASE_URL=postgres://user:password@host:5432/postgres cargo xtask test";

type Commands = &'static [&'static [&'static str]];

/// Package managers, whether they need root, and their commands.
const MANAGERS: [(&str, bool, Commands); 4] = [
    (
        "apt-get",
        true,
        &[&["apt-get", "update", "-q"], &["apt-get", "install", "-q", "-y", "--no-install-recommends", "postgresql"]],
    ),
    ("dnf", true, &[&["dnf", "install", "-y", "postgresql-server"]]),
    ("apk", true, &[&["apk", "add", "postgresql"]]),
    ("brew", false, &[&["brew", "install", "postgresql@17"]]),
];

/// Installs the packages of a server. The error advises the user.
pub(crate) fn install() -> Result<()> {
    let root = geteuid().is_root();
    let usable = MANAGERS.iter().find(|(program, wants_root, _)| *wants_root == root && which::which(program).is_ok());
    let Some((_, _, commands)) = usable else {
        bail!("{ADVICE}");
    };
    for words in *commands {
        let Some((program, args)) = words.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        eprintln!("xtask: no Postgres here yet: {}", words_of(&command));
        if !status_of(&mut command)?.success() {
            return Err(anyhow::anyhow!("{} failed", words_of(&command))).context(ADVICE);
        }
    }
    Ok(())
}
