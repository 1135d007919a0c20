//! `eventbox shards`: who works on which shard, and what operators ask of shards.

mod change;
mod list;

use anyhow::Result;
use eventbox::admin::{self, ShardSelector, ShardState};
use eventbox::uuid::Uuid;

use self::change::{ApplyArgs, UnassignArgs};
use super::args::Writing;
use super::ask::{Deed, Hands, Object};
use super::connect::on;
use super::session::Session;
use super::{Answer, Run};

/// Lists the 256 shards, moves them between processes, labels and disables them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox shards list
  eventbox shards list --failed
  eventbox shards list --json | jq '.[] | select(.holder == null) | .shard'
  eventbox shards apply 0-63 --label team=ramp --zone eu-1
  eventbox shards apply 17 --disable --expect-revision 4
  eventbox shards apply 17 --reset
  eventbox shards unassign 0-255 --only-failed --dry-run
  eventbox shards move 17 0193a1b2-7c3d-4e4f-8a5b-6c7d8e9f0a1b
  eventbox shards release 17                             the next process takes it")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Apply(ApplyArgs),
    Unassign(UnassignArgs),
    Move(MoveArgs),
    Release(ReleaseArgs),
}

/// Lists each holder with its shards, and the shards with a spec or a failure; in JSON each shard
///
/// A shard is IDLE without a worker, STANDBY while only a process is named that would take it, PRIMARY with a worker,
/// and FAILED when its rounds failed as a whole.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only shards with this label; again for another value, or for another label. The label `id` is the number
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = change::label)]
    labels: Vec<(String, String)>,
    /// Only shards that have failed
    #[arg(long)]
    failed: bool,
}

/// Gives a shard to another worker process
///
/// The process keeps the shard while it lives, until `eventbox shards release`.
#[derive(Debug, clap::Args)]
struct MoveArgs {
    /// Shard, 0 to 255
    shard: u8,
    /// Worker process, from the list of members
    worker: Uuid,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Takes a shard from its holder, so that any process can take it
///
/// Turns of the holder that are in flight still commit or lose, as always: no event is lost or consumed twice.
#[derive(Debug, clap::Args)]
struct ReleaseArgs {
    /// Shard, 0 to 255
    shard: u8,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

impl Run for Args {
    async fn run(self, session: &Session) -> Result<Answer> {
        match self.command {
            Command::List(args) => {
                let is_part = args.failed || !args.labels.is_empty();
                let selector = args
                    .labels
                    .into_iter()
                    .fold(ShardSelector::all(), |selector, (name, value)| selector.label(name, value));
                let mut shards = on!(&session.database, pool => admin::list_shards(pool, &selector).await)?;
                shards.retain(|shard| !args.failed || shard.state == ShardState::Failed);
                session.output().show(&shards, || list::tables(&shards, is_part))?;
                Ok(Answer::Yes)
            }
            Command::Apply(args) => change::apply(session, args).await,
            Command::Unassign(args) => change::unassign(session, args).await,
            Command::Move(args) => {
                let hands = Hands::new(session, &args.writing);
                let MoveArgs { shard, worker, .. } = args;
                let deed = Deed {
                    verb: ("moves", "Moved"),
                    object: Object::One(format!("shard {shard} to {worker}")),
                    nothing: format!("Nothing was changed: {worker} holds shard {shard} already."),
                };
                let act = async |rehearsing, _| {
                    let database = &session.database;
                    on!(database, pool => hands.operator(pool, rehearsing).move_shard(shard, worker).await)
                };
                hands.act(&deed, act).await
            }
            Command::Release(args) => {
                let hands = Hands::new(session, &args.writing);
                let shard = args.shard;
                let deed = Deed {
                    verb: ("releases", "Released"),
                    object: Object::One(format!("shard {shard}")),
                    nothing: format!("Nothing was changed: shard {shard} is free already."),
                };
                let act = async |rehearsing, _| {
                    let database = &session.database;
                    on!(database, pool => hands.operator(pool, rehearsing).release_shard(shard).await)
                };
                hands.act_after_a_question(&deed, act).await
            }
        }
    }
}
