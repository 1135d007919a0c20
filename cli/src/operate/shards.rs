//! `eventbox shards`: who works on which shard.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use eventbox::admin::{self, ShardLease};
use eventbox::uuid::Uuid;

use super::args::Writing;
use super::ask::{Deed, Hands, Object};
use super::connect::on;
use super::print::table::{Grid, Tone, cell, long, number, short, text};
use super::print::words::{NONE, span};
use super::session::Session;
use super::{Answer, Run};

/// Lists the holders of the 256 shards, moves a shard, or takes a shard from its holder
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox shards list
  eventbox shards list --json | jq '.[] | select(.holder == null) | .shard'
  eventbox shards move 17 0193a1b2-7c3d-4e4f-8a5b-6c7d8e9f0a1b
  eventbox shards release 17                             the next process takes it")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists each holder with its shards; in JSON each shard with its lease
    List,
    Move(MoveArgs),
    Release(ReleaseArgs),
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
            Command::List => {
                let shards = on!(&session.database, pool => admin::shards(pool).await)?;
                session.output().show(&shards, || list(&shards))?;
                Ok(Answer::Yes)
            }
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

/// What one holder has.
#[derive(Default)]
struct Holding {
    shards: Vec<u8>,
    pinned: Vec<u8>,
    /// Time until the first lease ends.
    soonest: Option<Duration>,
}

fn list(shards: &[ShardLease]) -> String {
    let mut holders: BTreeMap<Option<Uuid>, Holding> = BTreeMap::new();
    for lease in shards {
        // A lease that ran out is held by no process.
        let holder = lease.holder.filter(|_| lease.expires_in.is_some());
        let holding = holders.entry(holder).or_default();
        holding.shards.push(lease.shard);
        if lease.pinned.is_some() {
            holding.pinned.push(lease.shard);
        }
        holding.soonest = [holding.soonest, lease.expires_in].into_iter().flatten().min();
    }
    let mut grid = Grid::new(&[
        short("holder"),
        number("number"),
        short("first lease ends"),
        long("shards"),
        long("pinned").if_any(),
    ]);
    for (holder, holding) in holders {
        grid.row([
            match holder {
                Some(worker) => text(worker.to_string()),
                None => cell("no process", Tone::Warning),
            },
            text(holding.shards.len().to_string()),
            text(holding.soonest.map_or_else(|| NONE.to_owned(), |left| format!("in {}", span(left)))),
            text(ranges(&holding.shards)),
            text(ranges(&holding.pinned)),
        ]);
    }
    grid.or("There are no shards.")
}

/// Formats sorted numbers as ranges: `0-3 7 9-255`.
fn ranges(numbers: &[u8]) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 7, 254, 255]), "0-2 7 254-255");
        assert_eq!(ranges(&[]), "");
    }
}
