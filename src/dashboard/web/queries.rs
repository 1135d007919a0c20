//! The fields of a query as questions of the administration.

use std::time::SystemTime;

use super::failure::Failure;
use super::fields::Fields;
use crate::admin::{DeadFilter, Destination, MessageFilter, Only, Order, RecipientQuery, Side};
use crate::outbox::DeadLetterId;

/// Number of rows of a page.
pub(crate) const PAGE_ROWS: u32 = 50;

/// The fields of a question about recipients, with the place where a page begins.
pub(crate) const RECIPIENT_FIELDS: [&str; 5] = ["kind", "prefix", "only", "order", "after"];

/// The fields that choose dead letters.
pub(crate) const DEAD_FIELDS: [&str; 8] = ["side", "code", "kind", "r", "source", "type", "since", "until"];

/// The fields that choose messages of the outbox.
pub(crate) const MESSAGE_FIELDS: [&str; 3] = ["source", "type", "code"];

/// Returns the question about recipients that a query asks.
pub(crate) fn recipient_query(fields: &Fields) -> Result<RecipientQuery, Failure> {
    let only = match fields.get("only") {
        None | Some("waiting") => Only::Waiting,
        Some("all") => Only::All,
        Some("failing") => Only::Failing,
        Some("paused") => Only::Paused,
        Some("quarantined") => Only::Quarantined,
        Some(other) => return Err(unknown("only", other)),
    };
    let order = match fields.get("order") {
        None | Some("key") => Order::Key,
        Some("oldest") => Order::Oldest,
        Some("longest") => Order::Longest,
        Some(other) => return Err(unknown("order", other)),
    };
    // Only waiting events have an age and a number to sort by.
    let order = if only == Only::Waiting { order } else { Order::Key };
    let mut query = RecipientQuery::new().only(only).order(order).limit(PAGE_ROWS);
    if let Some(kind) = fields.get("kind") {
        query = query.kind(kind);
    }
    if let Some(prefix) = fields.get("prefix") {
        query = query.key_prefix(prefix);
    }
    if let Some(after) = fields.parsed("after", "a recipient")? {
        query = query.after(&after);
    }
    Ok(query)
}

/// Returns the filter of dead letters that a query or a form describes.
pub(crate) fn dead_filter(fields: &Fields) -> Result<DeadFilter, Failure> {
    let mut filter = DeadFilter::new();
    match fields.get("side") {
        None => {}
        Some("events") => filter = filter.side(Side::Events),
        Some("messages") => filter = filter.side(Side::Messages),
        Some(other) => return Err(unknown("side", other)),
    }
    if let Some(code) = fields.get("code") {
        filter = filter.code(code);
    }
    if let Some(kind) = fields.get("kind") {
        filter = filter.kind(kind);
    }
    if let Some(recipient) = fields.recipient()? {
        filter = filter.recipient(&recipient);
    }
    if let Some(source) = fields.get("source") {
        filter = filter.source(source);
    }
    if let Some(event_type) = fields.get("type") {
        filter = filter.event_type(event_type);
    }
    if let Some(since) = time(fields, "since")? {
        filter = filter.since(since);
    }
    if let Some(until) = time(fields, "until")? {
        filter = filter.until(until);
    }
    Ok(filter)
}

/// Returns the filter of messages that a query or a form describes.
pub(crate) fn message_filter(fields: &Fields) -> MessageFilter {
    let mut filter = MessageFilter::new();
    if let Some(source) = fields.get("source") {
        filter = filter.source(source);
    }
    if let Some(event_type) = fields.get("type") {
        filter = filter.event_type(event_type);
    }
    if let Some(code) = fields.get("code") {
        filter = filter.code(code);
    }
    filter
}

/// Returns the destination that a form describes. An empty field stands for all sources, or all types.
pub(crate) fn destination(fields: &Fields) -> Destination {
    let mut destination = Destination::all();
    if let Some(source) = fields.get("source") {
        destination = destination.source(source);
    }
    if let Some(event_type) = fields.get("type") {
        destination = destination.event_type(event_type);
    }
    destination
}

/// Returns the id in a field of a dead letter or a message.
pub(crate) fn letter_id(fields: &Fields, name: &str) -> Result<Option<DeadLetterId>, Failure> {
    fields.parsed(name, "the id of a dead letter or a message, such as 17-0190f3c0-…")
}

/// Returns the time in a field, which is UTC: a date, or a date and a time as a browser writes them.
fn time(fields: &Fields, name: &str) -> Result<Option<SystemTime>, Failure> {
    let Some(text) = fields.get(name) else { return Ok(None) };
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => text.to_owned(),
    };
    let wrong = |_| Failure::bad_input(format!("the field {name} is not a time such as 2026-05-01T12:30"));
    humantime::parse_rfc3339_weak(&full).map(Some).map_err(wrong)
}

fn unknown(name: &str, value: &str) -> Failure {
    Failure::bad_input(format!(
        "the field {name} does not know the value {:?}",
        value.chars().take(40).collect::<String>()
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_utc_and_may_be_short() {
        for text in ["2001-09-09", "2001-09-09T00:00", "2001-09-09T00:00:00", "2001-09-09T00:00:00Z"] {
            let fields = Fields::parse(format!("since={text}").as_bytes());
            let since = time(&fields, "since").ok().flatten();
            assert_eq!(since, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(999_993_600)), "{text}");
        }
        assert!(time(&Fields::parse(b"since=yesterday"), "since").is_err());
    }

    #[test]
    fn filters_are_read_and_unknown_values_refused() {
        let filter = dead_filter(&Fields::parse(b"code=POISON&kind=&r=order%2F7&show=1"));
        assert_eq!(
            filter.ok().map(|filter| filter.to_string()).as_deref(),
            Some("dead letters with code=POISON recipient=order/7")
        );
        assert!(dead_filter(&Fields::parse(b"side=left")).is_err());
        assert!(recipient_query(&Fields::parse(b"only=some")).is_err());
    }
}
