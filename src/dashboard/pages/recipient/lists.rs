//! What is stored of a recipient: events, timers, events in quarantine, names.

use maud::{Markup, html};

use crate::admin::Detail;
use crate::dashboard::html::forms;
use crate::dashboard::html::parts::{dash, name_and_origin, plain, size, table, when, word};
use crate::dashboard::web::Call;

pub(super) fn events(call: &Call, detail: &Detail) -> Markup {
    let of = detail.recipient.as_str();
    let row = |event: &crate::admin::EventView| {
        let id = event.id.to_string();
        let fields = [("r", of), ("event", id.as_str())];
        vec![
            html! { code { (id) } },
            when(event.emitted_at),
            name_and_origin(event.name.as_deref(), event.origin.as_ref()),
            size(event.bytes),
            html! {
                a href=(call.link("/recipient", &[("r", of), ("show", &id)])) { "Show the payload" }
                (forms::button(call, &format!("quarantine-{id}"), "Quarantine …", "quarantine", &fields))
                (forms::button(call, &format!("purge-{id}"), "Delete …", "purge", &fields))
            },
        ]
    };
    let rows: Vec<Vec<Markup>> = detail.events.iter().map(row).collect();
    html! {
        section aria-labelledby="events-headline" {
            h2 #events-headline { "Oldest events" }
            (table(
                "events",
                "Oldest events",
                &["Event", "Emitted", "Name", "Size", "Actions"],
                &rows,
                "No event waits.",
            ))
        }
    }
}

pub(super) fn timers(call: &Call, detail: &Detail) -> Markup {
    let of = detail.recipient.as_str();
    let row = |timer: &crate::admin::TimerView| {
        let id = timer.id.to_string();
        let fields = [("r", of), ("event", id.as_str())];
        vec![
            html! { code { (id) } },
            when(timer.due_at),
            name_and_origin(timer.name.as_deref(), timer.origin.as_ref()),
            size(timer.bytes),
            forms::button(call, &format!("cancel-{id}"), "Delete …", "purge", &fields),
        ]
    };
    let rows: Vec<Vec<Markup>> = detail.timers.iter().map(row).collect();
    html! {
        section aria-labelledby="timers-headline" {
            h2 #timers-headline { "Timers" }
            (table("timers", "Timers", &["Event", "Due", "Name", "Size", "Actions"], &rows, "No event is due later."))
        }
    }
}

pub(super) fn quarantined(call: &Call, detail: &Detail) -> Markup {
    let of = &detail.recipient;
    let row = |event: &crate::admin::QuarantinedView| {
        let letter = event.dead_letter.to_string();
        let fields = [("letter", letter.as_str())];
        vec![
            html! { code { (event.id.to_string()) } },
            word(&event.code),
            plain(&event.reason),
            plain(event.attempts),
            when(event.quarantined_at),
            name_and_origin(event.name.as_deref(), event.origin.as_ref()),
            size(event.bytes),
            html! {
                a href=(call.link("/dead", &[("r", of.as_str()), ("show", &letter)])) { "Show the payload" }
                (forms::button(call, &format!("replay-{letter}"), "Replay …", "replay-one", &fields))
                (forms::button(call, &format!("delete-{letter}"), "Delete …", "delete-one", &fields))
            },
        ]
    };
    let rows: Vec<Vec<Markup>> = detail.quarantined.iter().map(row).collect();
    html! {
        section aria-labelledby="quarantined-headline" {
            h2 #quarantined-headline { "Quarantined events" }
            (table(
                "quarantined",
                "Quarantined events",
                &["Event", "Code", "Reason", "Attempts", "Since", "Name", "Size", "Actions"],
                &rows,
                "No event is in quarantine.",
            ))
        }
    }
}

pub(super) fn names(detail: &Detail) -> Markup {
    let row = |name: &crate::admin::NameView| {
        let gone = name.gone_at.map_or_else(dash, when);
        vec![plain(&name.name), html! { code { (name.id.to_string()) } }, gone]
    };
    let rows: Vec<Vec<Markup>> = detail.names.iter().map(row).collect();
    html! {
        section aria-labelledby="names-headline" {
            h2 #names-headline { "Remembered names" }
            (table("names", "Remembered names", &["Name", "Event", "Event gone"], &rows, "No name is remembered."))
        }
    }
}
