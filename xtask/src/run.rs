//! Runs other programs, and handles interrupts meanwhile.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit code after an interrupt.
pub(crate) const INTERRUPTED: u8 = 130;

static WAS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Process that this program waits for, or 0.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Returns whether the user has interrupted this program.
pub(crate) fn interrupted() -> bool {
    WAS_INTERRUPTED.load(Ordering::SeqCst)
}

/// Makes an interrupt end the running program, so that this program can clean up.
///
/// Ctrl-C in a terminal reaches both programs. A signal to this program alone is passed on.
pub(crate) fn outlive_interrupts() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        outcome = ctrlc::set_handler(|| {
            WAS_INTERRUPTED.store(true, Ordering::SeqCst);
            end(RUNNING.load(Ordering::SeqCst));
        });
    });
    outcome.context("handle interrupts")
}

fn end(pid: i32) {
    if pid != 0 {
        // The process may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Runs a program to its end, with the input and output of this program.
pub(crate) fn status_of(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("start {}", words_of(command)))?;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    RUNNING.store(pid, Ordering::SeqCst);
    if interrupted() {
        end(pid);
    }
    let status = child.wait();
    RUNNING.store(0, Ordering::SeqCst);
    if interrupted() {
        bail!("interrupted");
    }
    Ok(status?)
}

/// Runs a program to its end, and returns its output. The error has the output of a program that failed.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("start {}", words_of(command)))?;
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    ensure!(done.status.success(), "{} ({}):\n{text}", words_of(command), done.status);
    Ok(text)
}

/// Returns the exit code of another program.
pub(crate) fn exit_code(status: ExitStatus) -> Result<ExitCode> {
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("ended by a signal: {status}"),
    }
}

/// Returns a command for the cargo that runs this program, in the folder of the project.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}

/// Returns a command as a user would type it.
pub(crate) fn words_of(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "--workspace"]);
        assert_eq!(words_of(&command), "cargo test --workspace");
    }
}
