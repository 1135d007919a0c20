//! What a process tells of itself at each heartbeat.

use serde::{Deserialize, Serialize};

use crate::shard::ShardSet;

/// The report of a member, stored as JSON. A field that an older version does not write is empty, and one that this
/// version does not know is skipped, so that versions may run beside each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberReport {
    /// Kinds that the process registered, sorted. Empty in the report of an older version.
    pub kinds: Vec<String>,
    /// Kinds that it throttles, because the outbox is over its quota.
    pub throttled: Vec<String>,
    /// Kinds that it holds, because many of their recipients fail alike.
    pub held: Vec<HeldKind>,
    /// Kinds of which it holds recipients because of their rates.
    pub rated: Vec<RatedKind>,
    /// Turns that take long, the longest first.
    pub busy: Vec<BusyTurn>,
    /// Recipients whose last turns failed there.
    pub failing: Vec<FailingRecipient>,
    /// Breakers of its emitter that are not closed.
    pub breakers: Vec<ReportedBreaker>,
    /// Shards that it works on, in the text form of a [`ShardSet`]. Empty in the report of an older version.
    pub works_on: String,
    /// Shards of which it is the standby, in the same form.
    pub standby_of: String,
    /// Term of its leases, microseconds. 0 in the report of an older version.
    pub lease_ttl_us: i64,
}

/// A kind of which only one recipient at a time is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKind {
    pub kind: String,
    /// The error that its recipients fail with.
    pub error: String,
}

/// A kind with recipients that have events and are held because of its rates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatedKind {
    pub kind: String,
    /// Number of held recipients.
    pub held: u64,
    /// Some of them.
    pub recipients: Vec<HeldRecipient>,
}

/// A recipient that is held because of the rates of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRecipient {
    pub recipient: String,
    /// Bound that holds it, as a service sets it.
    pub by: String,
    /// Time until the end of the hold, microseconds, if that is known.
    pub left_us: Option<i64>,
}

/// A turn in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyTurn {
    pub recipient: String,
    /// Age of the turn, microseconds.
    pub age_us: i64,
}

/// A recipient whose last turn failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingRecipient {
    pub recipient: String,
    pub error: String,
}

/// A breaker that lets no request pass, or single ones as probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedBreaker {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Whether the next request is a probe.
    pub is_half_open: bool,
    /// Time since the breaker was closed, microseconds.
    pub open_us: i64,
    /// The last error of a request.
    pub error: Option<String>,
}

impl MemberReport {
    /// Returns the shards that the member works on; `None` when an older version does not say.
    pub(crate) fn works_on(&self) -> Option<ShardSet> {
        self.works_on.parse().ok()
    }

    /// Returns the shards of which the member is the standby.
    pub(crate) fn standby_of(&self) -> ShardSet {
        self.standby_of.parse().unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> String {
        // It has only texts and numbers, so it can be written.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Reads a report. One that cannot be read tells nothing.
    pub(super) fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_other_versions_can_be_read() {
        let report = MemberReport {
            kinds: vec!["a".to_owned()],
            rated: vec![RatedKind {
                kind: "a".to_owned(),
                held: 2,
                recipients: vec![HeldRecipient { recipient: "a/2".to_owned(), by: "rate".to_owned(), left_us: None }],
            }],
            busy: vec![BusyTurn { recipient: "a/1\n".to_owned(), age_us: 7 }],
            works_on: ShardSet::from_iter([7]).to_string(),
            ..MemberReport::default()
        };
        assert_eq!(MemberReport::from_json(&report.to_json()), report);
        assert_eq!((report.works_on(), report.standby_of()), (Some(ShardSet::from_iter([7])), ShardSet::default()));
        for older in ["{}", "", "no JSON"] {
            assert_eq!(MemberReport::from_json(older), MemberReport::default());
        }
        let newer = MemberReport::from_json(r#"{"kinds":["b"],"weather":"fine"}"#);
        assert_eq!(newer.kinds, ["b"]);
    }
}
