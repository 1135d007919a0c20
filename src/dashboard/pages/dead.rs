//! Dead letters of both sides: quarantined events, and messages that are not sent any more.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::{Count, DeadView};
use crate::dashboard::html::parts::{dash, name_and_origin, paging, payload, plain, size, table, when, word};
use crate::dashboard::html::{Sheet, Tab, answer, forms};
use crate::dashboard::web::{Call, Ctx, DEAD_FIELDS, Failure, PAGE_ROWS, dead_filter, letter_id};

/// Longest text of a reason in the list, in characters.
const SHOWN_REASON_CHARS: usize = 300;

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Dead, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let filter = dead_filter(&call.query)?;
    let after = letter_id(&call.query, "after")?;
    let letters = call.database().dead(&filter, after).await?;
    let number = call.database().count_dead(&filter).await?;
    let shown = shown(call).await?;
    let body = html! {
        p { "Events in quarantine, and messages of the outbox that are not sent any more." }
        (filter_form(call))
        @if let Some(shown) = shown { (shown) }
        (of_all(call, &number))
        (list(call, &letters))
    };
    Ok(Sheet::new("Dead letters", body))
}

/// Returns the payload of the dead letter in the field `show`, which is the only one that is read.
async fn shown(call: &Call) -> Result<Option<Markup>, Failure> {
    let Some(id) = letter_id(&call.query, "show")? else { return Ok(None) };
    match call.database().dead_value(id).await? {
        Some(value) => Ok(Some(payload("payload", &format!("Payload of the dead letter {id}"), &value))),
        None => Err(Failure::gone(format!("the dead letter {id} is not there any more"))),
    }
}

fn filter_form(call: &Call) -> Markup {
    let sides = [("", "events and messages"), ("events", "events"), ("messages", "messages")];
    let seen = html! {
        (forms::choice("side", "Side", &sides, &call.query))
        (forms::text_field("code", "Code", &call.query))
        (forms::text_field("kind", "Kind", &call.query))
        (forms::text_field("r", "Recipient", &call.query))
        (forms::text_field("source", "Source", &call.query))
        (forms::time_field("since", "Since (UTC)", &call.query))
        (forms::time_field("until", "Until (UTC)", &call.query))
    };
    forms::filter(call, "/dead", &seen)
}

/// Returns what can be done with all dead letters that match.
fn of_all(call: &Call, number: &Count) -> Markup {
    let chosen: Vec<(&str, &str)> =
        DEAD_FIELDS.iter().filter_map(|name| Some((*name, call.query.get(name)?))).collect();
    html! {
        section .actions aria-labelledby="all-headline" {
            h2 #all-headline { "All that match" }
            p #dead-count { (number.to_string()) @if number.number == 1 { " dead letter." } @else { " dead letters." } }
            @if number.number > 0 {
                (forms::button(call, "replay-all", "Replay all …", "replay-dead", &chosen))
                (forms::button(call, "delete-all", "Delete all …", "delete-dead", &chosen))
            }
        }
    }
}

fn list(call: &Call, letters: &[DeadView]) -> Markup {
    let rows: Vec<Vec<Markup>> = letters.iter().map(|letter| row(call, letter)).collect();
    let is_full = letters.len() >= PAGE_ROWS as usize;
    let last = letters.last().filter(|_| is_full).map(|letter| letter.id.to_string());
    let next = last.map(|last| call.same_page(&DEAD_FIELDS, &[("after", &last)]));
    let first = call.query.get("after").map(|_| call.same_page(&DEAD_FIELDS, &[]));
    html! {
        (table(
            "dead",
            "Dead letters",
            &["From", "Code", "Reason", "Attempts", "Dead since", "Name", "Size", "Actions"],
            &rows,
            "No dead letter matches.",
        ))
        (paging(first.as_deref(), next.as_deref()))
    }
}

fn row(call: &Call, letter: &DeadView) -> Vec<Markup> {
    let id = letter.id.to_string();
    let mut kept: Vec<&str> = DEAD_FIELDS.to_vec();
    kept.push("after");
    let fields = [("letter", id.as_str())];
    vec![
        from(call, letter),
        word(&letter.code),
        html! {
            (letter.reason.chars().take(SHOWN_REASON_CHARS).collect::<String>())
            @if letter.reason.chars().nth(SHOWN_REASON_CHARS).is_some() { "…" }
        },
        plain(letter.attempts),
        when(letter.dead_at),
        name_and_origin(letter.name.as_deref(), letter.origin.as_ref()),
        size(letter.bytes),
        html! {
            a href=(call.same_page(&kept, &[("show", &id)])) { "Show the payload" }
            (forms::button(call, &format!("replay-{id}"), "Replay …", "replay-one", &fields))
            (forms::button(call, &format!("delete-{id}"), "Delete …", "delete-one", &fields))
        },
    ]
}

fn from(call: &Call, letter: &DeadView) -> Markup {
    html! {
        @match (&letter.recipient, &letter.source) {
            (Some(recipient), _) => {
                a href=(call.link("/recipient", &[("r", recipient.as_str())])) { (recipient.as_str()) }
            },
            (None, Some(source)) => {
                (source)
                @if let Some(event_type) = &letter.event_type { " " (event_type) }
            },
            (None, None) => (dash()),
        }
    }
}
