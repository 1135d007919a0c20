//! A process of Patroni or etcd.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::super::super::report::Result;
use super::super::super::server::Account;

/// A process that runs until it is killed. Dropping the value kills the process.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts a program with the account of the servers. It ends also when this program dies.
    pub(crate) fn start(program: &str, arguments: &[String], log: &Path) -> Result<Self> {
        let mut command = Account::of_servers()?.command("setpriv");
        let log = File::options().create(true).append(true).open(log)?;
        command.args(["--pdeathsig", "KILL", program]).args(arguments);
        // Postgres refuses a home that its account cannot read.
        command.env_remove("HOME").stdout(log.try_clone()?).stderr(log);
        Ok(Daemon(command.spawn()?))
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Stops the process, or lets it continue.
    pub(crate) fn freeze(&self, is_frozen: bool) -> Result<()> {
        let signal = if is_frozen { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &self.0.id().to_string()]).stderr(Stdio::null()).status()?;
        if done.success() { Ok(()) } else { Err("a process that a fault wants to freeze has ended".into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.kill();
    }
}
