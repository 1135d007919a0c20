//! The commands of an operator: they look into the boxes of a database, and mend them.

mod args;
mod ask;
mod config;
mod connect;
mod letters;
mod peer;
mod print;
mod read;
mod serve;
mod session;
mod setup;
mod shards;
mod write;

use std::process::ExitCode;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use self::args::With;
use self::session::Session;
use crate::failure::{is_broken_pipe, say_error};

/// Outcome of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Exit code 0.
    Yes,
    /// A check failed, or the operator did not go on: exit code 1.
    No,
    /// A person ended the command before its work was done: exit code 130.
    Interrupted,
}

/// A command on an open database.
pub(crate) trait Run: clap::Args {
    /// Whether the command needs the tables of this version.
    const NEEDS_TABLES: bool = true;

    async fn run(self, session: &Session) -> Result<Answer>;
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Status(With<read::StatusArgs>),
    Boxes(With<read::BoxesArgs>),
    Show(With<read::ShowArgs>),
    Why(With<read::WhyArgs>),
    History(With<read::HistoryArgs>),
    Names(With<read::NamesArgs>),
    Timers(With<write::TimersArgs>),
    Members(With<read::MembersArgs>),
    Shards(With<shards::Args>),
    Sources(With<read::SourcesArgs>),
    Operations(With<read::OperationsArgs>),
    Audit(With<read::AuditArgs>),
    Doctor(With<read::DoctorArgs>),
    Emit(With<write::EmitArgs>),
    Pause(With<write::PauseArgs>),
    Resume(With<write::ResumeArgs>),
    Retry(With<write::RetryArgs>),
    Quarantine(With<write::QuarantineArgs>),
    Purge(With<write::PurgeArgs>),
    Forget(With<write::ForgetArgs>),
    State(With<write::StateArgs>),
    Dead(Box<With<letters::DeadArgs>>),
    Outbox(Box<With<letters::OutboxArgs>>),
    Peer(Box<With<peer::PeerArgs>>),
    Serve(Box<With<serve::ServeArgs>>),
    Migrate(With<setup::MigrateArgs>),
    Completions(setup::CompletionsArgs),
    Man(setup::ManArgs),
}

impl Command {
    /// Returns whether the command is a server, which ends by itself when it is asked to.
    fn is_server(&self) -> bool {
        match self {
            Command::Serve(_) => true,
            Command::Peer(with) => with.args.is_server(),
            _ => false,
        }
    }

    async fn run(self) -> Result<Answer> {
        match self {
            Command::Status(with) => with.run().await,
            Command::Boxes(with) => with.run().await,
            Command::Show(with) => with.run().await,
            Command::Why(with) => with.run().await,
            Command::History(with) => with.run().await,
            Command::Names(with) => with.run().await,
            Command::Timers(with) => with.run().await,
            Command::Members(with) => with.run().await,
            Command::Shards(with) => with.run().await,
            Command::Sources(with) => with.run().await,
            Command::Operations(with) => with.run().await,
            Command::Audit(with) => with.run().await,
            Command::Doctor(with) => with.run().await,
            Command::Emit(with) => with.run().await,
            Command::Pause(with) => with.run().await,
            Command::Resume(with) => with.run().await,
            Command::Retry(with) => with.run().await,
            Command::Quarantine(with) => with.run().await,
            Command::Purge(with) => with.run().await,
            Command::Forget(with) => with.run().await,
            Command::State(with) => with.run().await,
            Command::Dead(with) => with.run().await,
            Command::Outbox(with) => with.run().await,
            Command::Peer(with) => peer::peer(&with.common, with.args).await,
            Command::Serve(with) => with.run().await,
            Command::Migrate(with) => setup::migrate(&with.common, with.args).await,
            Command::Completions(args) => setup::completions(&args),
            Command::Man(args) => setup::man(&args),
        }
    }
}

pub(crate) async fn run(command: Command) -> ExitCode {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        // A subscriber that is already installed stays.
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let _ = log.with_ansi(console::colors_enabled_stderr()).try_init();
    }
    let outcome = match command {
        // After what is in flight.
        server if server.is_server() => server.run().await,
        // An interrupt drops the work in flight: each transaction is then done or not.
        command => tokio::select! {
            outcome = command.run() => outcome,
            Ok(()) = tokio::signal::ctrl_c() => {
                print::note("eventbox: interrupted");
                return ExitCode::from(130);
            }
        },
    };
    match outcome {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Interrupted) => {
            print::note("eventbox: interrupted");
            ExitCode::from(130)
        }
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(error.as_ref());
            ExitCode::from(2)
        }
    }
}
