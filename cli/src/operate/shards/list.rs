//! The tables of `eventbox shards list`.

use std::collections::BTreeMap;
use std::time::Duration;

use eventbox::admin::{ShardState, ShardView};
use eventbox::uuid::Uuid;

use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{NONE, span};

/// What one holder has.
#[derive(Default)]
struct Holding {
    shards: Vec<u8>,
    pinned: Vec<u8>,
    /// Time until the first lease ends.
    soonest: Option<Duration>,
}

/// Returns the table of the holders, and below it the shards of which something is to be said: all of them when they
/// are a part of the shards.
pub(super) fn tables(shards: &[ShardView], is_part: bool) -> String {
    let said: Vec<_> = shards.iter().filter(|shard| is_part || shard.mod_revision > 0 || shard.attempts > 0).collect();
    if is_part {
        return each(&said);
    }
    let holders = holders(shards);
    if said.is_empty() { holders } else { format!("{holders}\n\n{}", each(&said)) }
}

fn each(shards: &[&ShardView]) -> String {
    let mut grid = Grid::new(&[
        number("shard"),
        short("state"),
        short("holder"),
        short("standby"),
        number("revision"),
        short("zone").if_any(),
        long("spec").if_any(),
        long("failure").if_any(),
    ]);
    for shard in shards {
        let worker = |worker: Option<Uuid>| worker.map_or_else(|| NONE.to_owned(), |worker| worker.to_string());
        grid.row([
            text(shard.shard.to_string()),
            cell(state(shard.state), Tone::when(shard.state == ShardState::Failed, Tone::Bad)),
            text(worker(shard.holder)),
            text(worker(shard.standby)),
            text(shard.mod_revision.to_string()),
            text(shard.spec.zone.as_deref().unwrap_or_default()),
            text(spec(shard)),
            cell(failure(shard), Tone::Warning),
        ]);
    }
    grid.or("There are no such shards.")
}

fn state(state: ShardState) -> &'static str {
    match state {
        ShardState::Standby => "STANDBY",
        ShardState::Primary => "PRIMARY",
        ShardState::Failed => "FAILED",
        _ => "IDLE",
    }
}

fn spec(shard: &ShardView) -> String {
    let spec = &shard.spec;
    let disabled = spec.is_disabled.then(|| "disabled".to_owned());
    let labels = spec.labels.iter().map(|(name, value)| format!("{name}={value}"));
    labels.chain(disabled).collect::<Vec<_>>().join(", ")
}

fn failure(shard: &ShardView) -> String {
    if shard.attempts == 0 {
        return String::new();
    }
    let next = match (shard.state, shard.next_attempt_in) {
        (ShardState::Failed, Some(wait)) => format!("tried again in {}", span(wait)),
        (ShardState::Failed, None) => "waits for `eventbox shards unassign`".to_owned(),
        _ => "tried again now".to_owned(),
    };
    let errors = shard.errors.iter().map(|error| format!(": {error}")).collect::<String>();
    format!("failed {} times, {next}{errors}", shard.attempts)
}

fn holders(shards: &[ShardView]) -> String {
    let mut holders: BTreeMap<Option<Uuid>, Holding> = BTreeMap::new();
    for lease in shards {
        let holding = holders.entry(lease.holder).or_default();
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
