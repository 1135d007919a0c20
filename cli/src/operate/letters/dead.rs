//! `eventbox dead`: quarantined events, and messages that are not sent any more.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use eventbox::admin::Done;
use eventbox::outbox::DeadLetterId;
use indicatif::ProgressBar;

use super::dead_filter::{FilterArgs, letter_id};
use super::dead_list;
use crate::operate::args::Writing;
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists, shows, replays and deletes dead letters, of events and of messages
///
/// A dead letter is an event in quarantine, or a message of the outbox that is not sent any more.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox dead list --since 2h
  eventbox dead show 17-0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b
  eventbox dead replay --events --kind order --code POISON --dry-run
  eventbox dead delete --messages --source shop --until 2026-01-31T00:00:00Z --yes")]
pub(crate) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    List(dead_list::ListArgs),
    Show(dead_list::ShowArgs),
    Replay(ReplayArgs),
    Delete(DeleteArgs),
}

/// Puts dead letters back: events into their boxes, messages into the outbox
///
/// An event keeps its id and its place in the order of its box. A message keeps its idempotency key.
#[derive(Debug, clap::Args)]
struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Deletes dead letters for good
#[derive(Debug, clap::Args)]
struct DeleteArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

// No doc comment: clap would show it as the description of the command.
#[derive(Debug, clap::Args)]
struct Which {
    /// Ids of dead letters, from the list
    #[arg(value_name = "ID", value_parser = letter_id)]
    ids: Vec<DeadLetterId>,
    /// All dead letters of both sides
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten, next_help_heading = "Filter")]
    filter: FilterArgs,
}

impl Which {
    /// Checks that the command names what it is about: ids, a filter, or all.
    fn check(&self) -> Result<()> {
        let is_open = self.filter.is_open();
        ensure!(self.ids.is_empty() || is_open, "ids and a filter exclude each other: give one of the two");
        ensure!(!self.ids.is_empty() || !is_open || self.all, "give the ids of dead letters, a filter, or --all");
        Ok(())
    }
}

/// The two repairs of dead letters.
#[derive(Clone, Copy)]
enum Fate {
    Replay,
    Delete,
}

impl Run for DeadArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        match &self.command {
            DeadCommand::List(args) => dead_list::list(args, session).await,
            DeadCommand::Show(args) => dead_list::show(args, session).await,
            DeadCommand::Replay(args) => mend(Fate::Replay, &args.which, &args.writing, session).await,
            DeadCommand::Delete(args) => mend(Fate::Delete, &args.which, &args.writing, session).await,
        }
    }
}

async fn mend(fate: Fate, which: &Which, writing: &Writing, session: &Session) -> Result<Answer> {
    which.check()?;
    let hands = Hands::new(session, writing);
    let filter = which.filter.filter();
    let deed = Deed {
        verb: match fate {
            Fate::Replay => ("replays", "Replayed"),
            Fate::Delete => ("deletes", "Deleted"),
        },
        object: Object::Many("dead letter", "dead letters", String::new()),
        nothing: "Nothing was changed: there are no such dead letters.".to_owned(),
    };
    let act = async |rehearsing, bar: ProgressBar| -> eventbox::Result<Done> {
        if let Some(done) = by_ids(fate, &which.ids, &hands, session, rehearsing, &bar).await? {
            return Ok(done);
        }
        let progress = |touched| bar.set_position(touched);
        on!(&session.database, pool => {
            let operator = hands.operator(pool, rehearsing);
            match fate {
                Fate::Replay => operator.replay_dead(&filter, progress).await,
                Fate::Delete => operator.delete_dead(&filter, progress).await,
            }
        })
    };
    hands.act_after_a_question(&deed, act).await
}

/// Mends dead letters one by one: each is a transaction. Returns `None` without ids.
async fn by_ids(
    fate: Fate,
    ids: &[DeadLetterId],
    hands: &Hands<'_>,
    session: &Session,
    rehearsing: bool,
    bar: &ProgressBar,
) -> eventbox::Result<Option<Done>> {
    let mut total: Option<Done> = None;
    for id in BTreeSet::from_iter(ids) {
        let mut done = on!(&session.database, pool => {
            let operator = hands.operator(pool, rehearsing);
            match fate {
                Fate::Replay => operator.replay_one(*id).await,
                Fate::Delete => operator.delete_one(*id).await,
            }
        })?;
        done.touched += total.map_or(0, |total| total.touched);
        bar.set_position(done.touched);
        total = Some(done);
    }
    Ok(total)
}
