//! `eventbox shards apply` and `eventbox shards unassign`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::Result;
use eventbox::admin::{ANY_REVISION, ShardChange, ShardSpec};

use crate::operate::Answer;
use crate::operate::args::Writing;
use crate::operate::ask::{Deed, Hands, Object};
use crate::operate::connect::on;
use crate::operate::session::Session;

/// Gives shards a spec, instead of the whole spec before
///
/// Processes follow within a second. Where one of the shards has another revision than the expected one, nothing is
/// changed.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// Shards: numbers from 0 to 255, or ranges such as 0-63
    #[arg(required = true, value_name = "SHARDS", value_parser = range)]
    shards: Vec<RangeInclusive<u8>>,
    /// Label; again for more labels
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// No process works on the shards; their events wait
    #[arg(long)]
    disable: bool,
    /// Preferred zone: a process of the zone takes the shards, while one has room
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Set the shards back to the default, without a spec
    #[arg(long, conflicts_with_all = ["labels", "disable", "zone"])]
    reset: bool,
    /// Revision that each shard must have: 0 for a shard without a spec, -1 for any
    #[arg(long, value_name = "N", default_value_t = ANY_REVISION, allow_negative_numbers = true)]
    expect_revision: i64,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

/// Takes shards from their holders, and forgets their failures
///
/// The process that should have a shard takes it at its next check. No event is lost or consumed twice.
#[derive(Debug, clap::Args)]
pub(super) struct UnassignArgs {
    /// Shards: numbers from 0 to 255, or ranges such as 0-63
    #[arg(required = true, value_name = "SHARDS", value_parser = range)]
    shards: Vec<RangeInclusive<u8>>,
    /// Only those that have failed
    #[arg(long)]
    only_failed: bool,
    #[command(flatten, next_help_heading = "Safety and log")]
    writing: Writing,
}

pub(super) async fn apply(session: &Session, args: ApplyArgs) -> Result<Answer> {
    let hands = Hands::new(session, &args.writing);
    let mut spec = ShardSpec::default();
    spec.labels = args.labels.into_iter().collect();
    (spec.is_disabled, spec.zone) = (args.disable, args.zone);
    let change = |shard| match args.reset {
        true => ShardChange::delete(shard),
        false => ShardChange::upsert(shard, spec.clone()),
    };
    let shards = numbers(&args.shards);
    let changes: Vec<_> = shards.into_iter().map(|shard| change(shard).expecting(args.expect_revision)).collect();
    let deed = Deed {
        verb: if args.reset { ("resets", "Reset") } else { ("changes", "Changed") },
        object: Object::Many("shard", "shards", String::new()),
        nothing: "Nothing was changed: the shards have no spec.".to_owned(),
    };
    let act = async |rehearsing, _| {
        let database = &session.database;
        on!(database, pool => hands.operator(pool, rehearsing).apply_shards(&changes).await)
    };
    hands.act(&deed, act).await
}

pub(super) async fn unassign(session: &Session, args: UnassignArgs) -> Result<Answer> {
    let hands = Hands::new(session, &args.writing);
    let shards: Vec<u8> = numbers(&args.shards).into_iter().collect();
    let deed = Deed {
        verb: ("unassigns", "Unassigned"),
        object: Object::Many("shard", "shards", String::new()),
        nothing: match args.only_failed {
            true => "Nothing was changed: none of the shards has failed.".to_owned(),
            false => "Nothing was changed: no process holds one of the shards.".to_owned(),
        },
    };
    let act = async |rehearsing, _| {
        let database = &session.database;
        let unassigned = on!(database, pool => {
            hands.operator(pool, rehearsing).unassign(&shards, args.only_failed).await
        });
        unassigned.map(|unassigned| unassigned.done)
    };
    hands.act_after_a_question(&deed, act).await
}

/// Returns each number of some ranges once, in order.
fn numbers(ranges: &[RangeInclusive<u8>]) -> BTreeSet<u8> {
    ranges.iter().cloned().flatten().collect()
}

/// Parses a label.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses a shard or a range of shards.
fn range(text: &str) -> Result<RangeInclusive<u8>, String> {
    let number = |text: &str| text.parse::<u8>().map_err(|_| format!("{text:?} is not a shard, 0 to 255"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last { Err(format!("{first} is greater than {last}")) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_numbers_and_ranges() {
        assert_eq!((range("7"), range("0-255")), (Ok(7..=7), Ok(0..=255)));
        for wrong in ["", "256", "3-1", "1-", "-1", "x"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        assert_eq!(numbers(&[3..=5, 4..=4, 0..=0]).into_iter().collect::<Vec<_>>(), [0, 3, 4, 5]);
    }

    #[test]
    fn a_label_has_a_name_and_a_value() {
        assert_eq!(label("team=a=b"), Ok(("team".to_owned(), "a=b".to_owned())));
        assert!(label("team").is_err());
    }
}
