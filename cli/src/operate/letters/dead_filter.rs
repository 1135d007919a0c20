//! Which dead letters a command is about.

use std::time::SystemTime;

use eventbox::Recipient;
use eventbox::admin::{DeadFilter, Side};
use eventbox::outbox::DeadLetterId;

use crate::operate::args::recipient;

// No doc comment: clap would show it as the description of the command.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Only events in quarantine
    #[arg(long, conflicts_with = "messages")]
    events: bool,
    /// Only messages of the outbox
    #[arg(long)]
    messages: bool,
    /// Only those with this code, such as POISON or ATTEMPTS_EXHAUSTED
    #[arg(long)]
    code: Option<String>,
    /// Only events of recipients of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only events of this recipient
    #[arg(long, value_name = "RECIPIENT", value_parser = recipient)]
    recipient: Option<Recipient>,
    /// Only messages with this source
    #[arg(long)]
    source: Option<String>,
    /// Only those that died at this time or later: 2026-01-31T08:00:00Z, or a time ago: 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Only those that died before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
}

impl FilterArgs {
    /// Returns whether the filter lets every dead letter pass.
    pub(super) fn is_open(&self) -> bool {
        !self.events
            && !self.messages
            && [&self.code, &self.kind, &self.source].iter().all(|text| text.is_none())
            && self.recipient.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    pub(super) fn filter(&self) -> DeadFilter {
        let mut filter = DeadFilter::new();
        if self.events {
            filter = filter.side(Side::Events);
        }
        if self.messages {
            filter = filter.side(Side::Messages);
        }
        if let Some(code) = &self.code {
            filter = filter.code(code.as_str());
        }
        if let Some(kind) = &self.kind {
            filter = filter.kind(kind.as_str());
        }
        if let Some(recipient) = &self.recipient {
            filter = filter.recipient(recipient);
        }
        if let Some(source) = &self.source {
            filter = filter.source(source.as_str());
        }
        if let Some(since) = self.since {
            filter = filter.since(since);
        }
        if let Some(until) = self.until {
            filter = filter.until(until);
        }
        filter
    }
}

/// Parses the id of a dead letter.
pub(super) fn letter_id(text: &str) -> Result<DeadLetterId, String> {
    text.parse().map_err(|_| "it is not the id of a dead letter, which is SHARD-UUID".to_owned())
}

/// Parses a time: RFC 3339, or a time ago.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    ago.ok_or_else(|| "write a time, such as 2026-01-31T08:00:00Z, or a time ago, such as 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_times_or_times_ago() {
        assert_eq!(moment("1970-01-01T00:01:00Z"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
        let ago = moment("2h").unwrap();
        let age = SystemTime::now().duration_since(ago).unwrap();
        assert!((7_200..7_300).contains(&age.as_secs()), "{age:?}");
        assert!(moment("soon").is_err());
    }
}
