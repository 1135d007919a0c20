//! One recipient: its standing, why it is not processed, its events, and what can be done.

mod actions;
mod lists;

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};
use uuid::Uuid;

use super::peers::process;
use crate::admin::{Detail, StreamView, Why};
use crate::dashboard::html::parts::{any, badge, facts, payload, plain, when, when_any};
use crate::dashboard::html::{Sheet, Tab, answer, lease_end, member_name, text};
use crate::dashboard::web::{Call, Ctx, Failure};
use crate::eventbox::EventId;
use crate::recipient::Recipient;

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Recipients, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let of = call.query.required_recipient()?;
    let detail = call.database().inspect(&of).await?;
    let why = call.database().why(&of).await?;
    let shown = shown(call, &of).await?;
    let body = html! {
        (reason(&why))
        @if let Some(shown) = shown { (shown) }
        (standing(call, &detail))
        @if let Some(stream) = &detail.stream { (open_stream(call, stream)) }
        (actions::of_recipient(call, &detail))
        (state(&detail))
        (lists::events(call, &detail))
        (lists::timers(call, &detail))
        (lists::quarantined(call, &detail))
        (lists::names(&detail))
        (actions::forms(call, &detail))
    };
    Ok(Sheet::new(of.as_str(), body))
}

/// Returns the payload of the event in the field `show`, which is the only one that is read.
async fn shown(call: &Call, of: &Recipient) -> Result<Option<Markup>, Failure> {
    let Some(id) = call.query.parsed::<Uuid>("show", "the id of an event")?.map(EventId::from) else { return Ok(None) };
    match call.database().event_value(of, id).await? {
        Some(value) => Ok(Some(payload("payload", &format!("Payload of the event {id}"), &value))),
        None => Err(Failure::gone(format!("the event {id} is not in the box of {of}"))),
    }
}

fn reason(why: &Why) -> Markup {
    html! {
        section .panel #why aria-labelledby="why-headline" {
            h2 #why-headline { "Why" }
            p #why-sentence { (why.sentence) }
            p #why-advice { (why.advice) }
        }
    }
}

/// Returns the open stream of a peer whose eventbox this is.
fn open_stream(call: &Call, stream: &StreamView) -> Markup {
    let mut shown = vec![
        ("Peer", html! { a href=(call.link("/peers", &[("peer", &stream.peer)])) { (stream.peer) } }),
        ("Open since", when(stream.started_at)),
        ("Process", process(stream)),
    ];
    shown.extend(stream.facts.iter().map(|(key, value)| (key.as_str(), plain(value))));
    html! {
        section aria-labelledby="stream-headline" {
            h2 #stream-headline { "Stream" }
            (facts("stream", &shown))
        }
    }
}

fn standing(call: &Call, detail: &Detail) -> Markup {
    let standing = &detail.standing;
    let is_in_order = !standing.paused && !standing.kind_paused && standing.attempts == 0;
    let kind = detail.recipient.kind();
    let holder = match &detail.holder {
        Some(member) => member_name(member),
        None => "no member".to_owned(),
    };
    facts(
        "standing",
        &[
            ("Kind", html! { a href=(call.link("/recipients", &[("kind", kind)])) { (kind) } }),
            ("Waiting", plain(detail.waiting)),
            ("Oldest", when_any(detail.oldest_at)),
            ("Turn", plain(standing.turn)),
            ("Last turn or write", when_any(standing.updated_at)),
            (
                "Condition",
                html! {
                    @if standing.paused { (badge("bad", "paused")) }
                    @if standing.kind_paused { (badge("bad", "kind paused")) }
                    @if standing.attempts > 0 { (badge("bad", "failing")) }
                    @if is_in_order { (badge("good", "in order")) }
                },
            ),
            ("Failures in a row", plain(standing.attempts)),
            ("Next attempt", when_any(standing.next_attempt_at)),
            ("Last error", any(standing.error.as_deref())),
            ("Shard", plain(detail.shard)),
            ("Worked on by", plain(format_args!("{holder}, {}", lease_end(&detail.lease)))),
        ],
    )
}

fn state(detail: &Detail) -> Markup {
    html! {
        section aria-labelledby="state-headline" {
            h2 #state-headline { "State" }
            @match &detail.state {
                None => p #state .empty { "The library keeps no state of this recipient." },
                Some(state) => {
                    p { (text::bytes(state.bytes as u64)) " at turn " (detail.standing.turn) "." }
                    @match &state.json {
                        Some(json) => pre #state tabindex="0" { code { (json) } },
                        None => p #state .empty { "The state is not JSON, or is too large to show." },
                    }
                }
            }
        }
    }
}
