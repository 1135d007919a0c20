//! Destinations of messages: what waits for each, pauses, and the breakers of the endpoints.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::{Destination, Member, OutboxGroups, PausedDestination};
use crate::dashboard::html::parts::{any, badge, dash, plain, table, when};
use crate::dashboard::html::{forms, member_name, text};
use crate::dashboard::web::Call;

/// The messages of one source and type.
struct Waiting<'a> {
    source: &'a str,
    event_type: &'a str,
    messages: u64,
    oldest_at: SystemTime,
    last_error: Option<&'a str>,
    paused: Option<&'a PausedDestination>,
}

/// Adds up the groups of each source and type.
fn waiting(groups: &OutboxGroups) -> Vec<Waiting<'_>> {
    let mut all: Vec<Waiting<'_>> = Vec::new();
    for group in &groups.groups {
        let known = all.iter_mut().find(|of| of.source == group.source && of.event_type == group.event_type);
        match known {
            Some(of) => {
                of.messages = of.messages.saturating_add(group.messages.number);
                of.oldest_at = of.oldest_at.min(group.oldest_at);
                of.last_error = of.last_error.or(group.last_error.as_deref());
            }
            None => all.push(Waiting {
                source: &group.source,
                event_type: &group.event_type,
                messages: group.messages.number,
                oldest_at: group.oldest_at,
                last_error: group.last_error.as_deref(),
                paused: group.paused.as_ref(),
            }),
        }
    }
    all
}

/// Returns the destinations with waiting messages, and what can be done with them.
pub(super) fn destinations(call: &Call, groups: &OutboxGroups, members: &[Member]) -> Markup {
    let has_breaker = members.iter().any(|member| !member.breakers.is_empty());
    let rows: Vec<Vec<Markup>> =
        waiting(groups).iter().enumerate().map(|(at, of)| row(call, at, of, has_breaker)).collect();
    html! {
        (table(
            "destinations",
            "Destinations with waiting messages",
            &["Source", "Type", "Waiting", "Oldest", "Last error", "Condition", "Action"],
            &rows,
            "No message waits in the outbox.",
        ))
        (pauses(call, &groups.paused))
        (pause_form(call))
    }
}

fn row(call: &Call, at: usize, of: &Waiting<'_>, has_breaker: bool) -> Vec<Markup> {
    let fields = [("source", of.source), ("type", of.event_type)];
    let is_free = of.paused.is_none();
    vec![
        html! { a href=(call.link("/outbox", &fields)) { (of.source) } },
        plain(of.event_type),
        plain(text::number(of.messages)),
        when(of.oldest_at),
        any(of.last_error),
        html! {
            @if let Some(paused) = of.paused {
                (badge("bad", "paused")) " by " (paused.who) " " (when(paused.paused_at))
            }
            @if is_free && has_breaker { (badge("bad", "breaker open")) }
            @if is_free && !has_breaker { (dash()) }
        },
        html! {
            @if is_free {
                (forms::button(call, &format!("pause-destination-{at}"), "Pause …", "pause-destination", &fields))
            } @else { (dash()) }
        },
    ]
}

/// Returns the paused destinations, also those without messages.
fn pauses(call: &Call, paused: &[PausedDestination]) -> Markup {
    let row = |(at, paused): (usize, &PausedDestination)| {
        let fields = columns(&paused.destination);
        vec![
            plain(&paused.destination),
            when(paused.paused_at),
            plain(&paused.who),
            any(paused.why.as_deref()),
            forms::button(call, &format!("resume-destination-{at}"), "Resume …", "resume-destination", &fields),
        ]
    };
    let rows: Vec<Vec<Markup>> = paused.iter().enumerate().map(row).collect();
    html! {
        h3 { "Paused" }
        (table(
            "paused-destinations",
            "Paused destinations",
            &["Messages", "Since", "By", "Why", "Action"],
            &rows,
            "No destination is paused.",
        ))
    }
}

fn columns(destination: &Destination) -> [(&'static str, &str); 2] {
    [("source", destination.of_source().unwrap_or_default()), ("type", destination.of_type().unwrap_or_default())]
}

/// Returns the form that pauses any destination.
fn pause_form(call: &Call) -> Markup {
    let seen = html! {
        label { span { "Source (empty: all)" } input #pause-source type="text" name="source" autocomplete="off"; }
        label { span { "Type (empty: all)" } input #pause-type type="text" name="type" autocomplete="off"; }
    };
    forms::ask(call, "pause-destination", "Pause the delivery …", "pause-destination", &[], &seen)
}

/// Returns the breakers that the members tell of. Nothing when all are closed.
pub(super) fn breakers(members: &[Member]) -> Markup {
    let mut rows = Vec::new();
    for member in members {
        for breaker in &member.breakers {
            rows.push(vec![
                plain(member_name(member)),
                plain(&breaker.endpoint),
                badge("bad", if breaker.is_half_open { "probing" } else { "open" }),
                plain(text::duration(breaker.open_for)),
                any(breaker.last_error.as_deref()),
            ]);
        }
    }
    html! {
        @if !rows.is_empty() {
            h3 { "Breakers" }
            p { "These members send nothing to their endpoints, except single requests as probes." }
            (table("breakers", "Breakers", &["Member", "Endpoint", "Breaker", "For", "Last error"], &rows, ""))
        }
    }
}
