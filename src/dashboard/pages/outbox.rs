//! The outbox: groups of messages, and the messages of a group.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use super::destinations::{breakers, destinations};
use super::overview;
use crate::admin::{MessageView, OutboxGroup, OutboxGroups};
use crate::dashboard::html::parts::{any, any_word, from_outside, paging, plain, size, table, when};
use crate::dashboard::html::{Sheet, Tab, answer, forms};
use crate::dashboard::web::{Call, Ctx, Failure, MESSAGE_FIELDS, PAGE_ROWS, letter_id, message_filter};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Outbox, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let overview = call.database().overview().await?;
    let groups = call.database().message_groups().await?;
    let after = letter_id(&call.query, "after")?;
    let messages = call.database().messages(&message_filter(&call.query), after).await?;
    let body = html! {
        (overview::outbox(&call.app.options.base_path, &overview.outbox))
        section aria-labelledby="destinations-headline" {
            h2 #destinations-headline { "Destinations" }
            (destinations(call, &groups, &overview.members))
            (breakers(&overview.members))
        }
        section aria-labelledby="groups-headline" {
            h2 #groups-headline { "Groups" }
            (group_list(call, &groups))
        }
        section aria-labelledby="messages-headline" {
            h2 #messages-headline { "Messages" }
            (filter_form(call))
            (of_all(call, !messages.is_empty()))
            (message_list(call, &messages))
        }
    };
    Ok(Sheet::new("Outbox", body))
}

fn group_list(call: &Call, groups: &OutboxGroups) -> Markup {
    let rows: Vec<Vec<Markup>> = groups.groups.iter().map(|group| group_row(call, group)).collect();
    html! {
        @if !groups.is_complete {
            p .notice #incomplete { "There are too many messages to look at all of them: the first ones were grouped." }
        }
        (table(
            "groups",
            "Groups of messages",
            &["Source", "Type", "Last code", "Messages", "Oldest", "Next attempt", "Attempts", "Last error"],
            &rows,
            "No message waits in the outbox.",
        ))
    }
}

fn group_row(call: &Call, group: &OutboxGroup) -> Vec<Markup> {
    let code = group.last_code.as_deref();
    let fields = [("source", group.source.as_str()), ("type", &group.event_type), ("code", code.unwrap_or_default())];
    vec![
        html! { a href=(call.link("/outbox", &fields)) { (group.source) } },
        plain(&group.event_type),
        any_word(code),
        plain(group.messages),
        when(group.oldest_at),
        when(group.next_attempt_at),
        plain(group.most_attempts),
        any(group.last_error.as_deref()),
    ]
}

fn filter_form(call: &Call) -> Markup {
    let seen = html! {
        (forms::text_field("source", "Source", &call.query))
        (forms::text_field("type", "Type", &call.query))
        (forms::text_field("code", "Last code", &call.query))
    };
    forms::filter(call, "/outbox", &seen)
}

/// Returns what can be done with all messages that match.
fn of_all(call: &Call, is_any: bool) -> Markup {
    let chosen: Vec<(&str, &str)> =
        MESSAGE_FIELDS.iter().filter_map(|name| Some((*name, call.query.get(name)?))).collect();
    html! {
        @if is_any && call.may_act() {
            div .actions {
                (forms::button(call, "retry-all", "Retry all that match …", "retry-messages", &chosen))
                (forms::button(call, "bury-all", "Move all that match to the dead letters …", "bury-messages", &chosen))
            }
        }
    }
}

fn message_list(call: &Call, messages: &[MessageView]) -> Markup {
    let rows: Vec<Vec<Markup>> = messages.iter().map(message_row).collect();
    let is_full = messages.len() >= PAGE_ROWS as usize;
    let last = messages.last().filter(|_| is_full).map(|message| message.id.to_string());
    let next = last.map(|last| call.same_page(&MESSAGE_FIELDS, &[("after", &last)]));
    let first = call.query.get("after").map(|_| call.same_page(&MESSAGE_FIELDS, &[]));
    html! {
        (table(
            "messages",
            "Messages",
            &["Message", "Source", "Type", "Attempts", "Created", "Next attempt", "Last code", "Last error", "Size"],
            &rows,
            "No message matches.",
        ))
        (paging(first.as_deref(), next.as_deref()))
    }
}

fn message_row(message: &MessageView) -> Vec<Markup> {
    vec![
        html! { code { (message.id.to_string()) } (from_outside(message.origin.as_ref())) },
        plain(&message.source),
        plain(&message.event_type),
        plain(message.attempts),
        when(message.created_at),
        when(message.next_attempt_at),
        any_word(message.last_code.as_deref()),
        any(message.last_error.as_deref()),
        size(message.bytes),
    ]
}
