//! `eventbox completions` and `eventbox man`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::Cli;
use crate::operate::Answer;
use crate::operate::print::raw;

/// Prints a script that completes commands in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox completions bash > ~/.local/share/bash-completion/completions/eventbox
  eventbox completions zsh > ~/.zfunc/_eventbox
  eventbox completions fish > ~/.config/fish/completions/eventbox.fish")]
pub(crate) struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

/// Prints the page of the manual, or writes one page for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox man | man -l -
  eventbox man --directory ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<Answer> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Not onto standard output at once: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    raw(&script)?;
    Ok(Answer::Yes)
}

pub(crate) fn man(args: &ManArgs) -> Result<Answer> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page)?;
        raw(&page)?;
        return Ok(Answer::Yes);
    };
    let write = || format!("cannot write the manual into {}", directory.display());
    std::fs::create_dir_all(directory).with_context(write)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(write)?;
    Ok(Answer::Yes)
}
