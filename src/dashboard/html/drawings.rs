//! Drawings as inline SVG, without styles: a line of the last hour, and the map of the shards.

use std::collections::HashMap;
use std::time::Duration;

use maud::{Markup, html};
use uuid::Uuid;

use super::parts::dash;
use super::text;
use crate::admin::{Member, ShardLease};

/// Number of colours of holders in the style sheet; further holders share them.
const COLOURS: usize = 12;

/// Text of the map for those who do not see it.
const MAP_IN_WORDS: &str = "Map of the 256 shards; the list below says the same in words";

/// Height of a line of the last hour, in units of its drawing.
const LINE_HEIGHT: f64 = 24.0;

/// Returns a line of ages in seconds, oldest first, or a dash when there are fewer than two. Its text says the
/// smallest, the largest and the last age.
pub(crate) fn sparkline(label: &str, ages: &[f64]) -> Markup {
    let Some(last) = ages.last().copied().filter(|_| ages.len() > 1) else { return dash() };
    let largest = ages.iter().copied().fold(0.0, f64::max);
    let smallest = ages.iter().copied().fold(largest, f64::min);
    let say = |age: f64| text::duration(text::seconds(age));
    let words = format!("{label}: from {} to {}, last {}", say(smallest), say(largest), say(last));
    let scale = if largest > 0.0 { (LINE_HEIGHT - 2.0) / largest } else { 0.0 };
    let point = |(at, age): (usize, &f64)| format!("{at},{:.1}", LINE_HEIGHT - 1.0 - age * scale);
    let points = ages.iter().enumerate().map(point).collect::<Vec<_>>().join(" ");
    let view = format!("0 0 {} {LINE_HEIGHT}", ages.len() - 1);
    html! {
        svg .spark viewBox=(view) preserveAspectRatio="none" role="img" aria-label=(words) {
            title { (words) }
            polyline points=(points) vector-effect="non-scaling-stroke" {}
        }
    }
}

/// The holders of shards with their colours and names.
pub(crate) struct Holders<'a> {
    members: &'a [Member],
    colours: HashMap<Uuid, usize>,
}

impl<'a> Holders<'a> {
    /// Gives each member a colour, by its place in the list.
    pub(crate) fn new(members: &'a [Member]) -> Self {
        let colours = members.iter().enumerate().map(|(at, member)| (member.worker, at % COLOURS)).collect();
        Holders { members, colours }
    }

    /// Returns the class of the holder's colour.
    pub(crate) fn class(&self, holder: Option<Uuid>) -> String {
        match holder.map(|holder| self.colours.get(&holder)) {
            None => "free".to_owned(),
            Some(None) => "gone".to_owned(),
            Some(Some(colour)) => format!("h{colour}"),
        }
    }

    /// Returns the holder in words: its address, or its id when it is no member any more.
    pub(crate) fn name(&self, holder: Option<Uuid>) -> String {
        let Some(holder) = holder else { return "no holder".to_owned() };
        let member = self.members.iter().find(|member| member.worker == holder);
        member.map_or_else(|| format!("{holder}, which is no member any more"), member_name)
    }
}

/// Returns a member in words.
pub(crate) fn member_name(member: &Member) -> String {
    let id = member.worker.simple().to_string();
    let start = id.get(..8).unwrap_or_default();
    if member.address.is_empty() { start.to_owned() } else { format!("{} ({start})", member.address) }
}

/// Returns whether a lease is held now.
fn holder_now(lease: &ShardLease) -> Option<Uuid> {
    lease.holder.filter(|_| lease.expires_in.is_some())
}

/// Returns the map of the shards, 16 in a row, and below it who holds which.
pub(crate) fn shard_map(members: &[Member], leases: &[ShardLease]) -> Markup {
    let holders = Holders::new(members);
    html! {
        svg .map #shard-map viewBox="0 0 160 160" role="img" aria-label=(MAP_IN_WORDS) {
            @for lease in leases {
                @let (column, row) = (u32::from(lease.shard) % 16, u32::from(lease.shard) / 16);
                rect class=(holders.class(holder_now(lease))) x=(column * 10) y=(row * 10) width="9" height="9" {
                    title { "shard " (lease.shard) ": " (holders.name(holder_now(lease))) }
                }
            }
        }
        ul .legend #shard-legend {
            @for (holder, shards) in by_holder(leases) {
                li {
                    svg .swatch viewBox="0 0 10 10" aria-hidden="true" {
                        rect class=(holders.class(holder)) width="10" height="10" {}
                    }
                    " " (holders.name(holder)) ": " (ranges(&shards))
                }
            }
        }
    }
}

/// Returns the shards of each holder, those without a holder first.
fn by_holder(leases: &[ShardLease]) -> Vec<(Option<Uuid>, Vec<u8>)> {
    let mut groups: std::collections::BTreeMap<Option<Uuid>, Vec<u8>> = std::collections::BTreeMap::new();
    for lease in leases {
        groups.entry(holder_now(lease)).or_default().push(lease.shard);
    }
    groups.into_iter().collect()
}

/// Returns ascending shards as ranges, such as `0–15, 32`, with their number.
fn ranges(shards: &[u8]) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for shard in shards.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if u16::from(*last) + 1 == u16::from(shard) => *last = shard,
            _ => ranges.push((shard, shard)),
        }
    }
    let range = |(first, last): &(u8, u8)| if first == last { first.to_string() } else { format!("{first}–{last}") };
    let text = ranges.iter().map(range).collect::<Vec<_>>().join(", ");
    format!("{} ({text})", text::counted(shards.len() as u64, "shard"))
}

/// Returns the time until a lease ends, in words.
pub(crate) fn lease_end(lease: &ShardLease) -> String {
    match lease.expires_in {
        Some(left) => format!("ends in {}", text::duration(left.max(Duration::from_secs(1)))),
        None => "no valid lease".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 5, 255]), "5 shards (0–2, 5, 255)");
        assert_eq!(ranges(&[7]), "1 shard (7)");
    }

    #[test]
    fn a_line_says_its_ages_in_words() {
        let line = sparkline("oldest <age>", &[0.0, 60.0, 30.0]).into_string();
        assert!(line.contains("oldest &lt;age&gt;: from 0 s to 1 min, last 30 s"), "{line}");
        assert!(line.contains(r#"points="0,23.0 1,1.0 2,12.0""#), "{line}");
        assert!(!line.contains("style"), "{line}");
        assert_eq!(sparkline("age", &[1.0]).into_string(), dash().into_string());
    }
}
