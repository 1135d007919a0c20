//! The overview: kinds, the outbox, members and shards.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use super::destinations::breakers;
use crate::admin::{KindOverview, OutboxOverview};
use crate::dashboard::database::Glance;
use crate::dashboard::html::parts::{any, any_word, badge, dash, facts, plain, table, when, when_any};
use crate::dashboard::html::{Sheet, Tab, answer, member_name, shard_map, sparkline, text};
use crate::dashboard::live::History;
use crate::dashboard::web::{Call, Ctx, Failure, link};

/// Number of groups of the outbox on the overview; the page of the outbox has all of them.
const SHOWN_GROUPS: usize = 5;

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Overview, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let read = call.database().glance().await?;
    let shown = call.app.live.with_history(|history| glance(&call.app.options.base_path, &read, history));
    let body = html! {
        p #live-status role="status" data-live=(call.link("/live", &[])) {
            "As of the load of the page. With scripts, the page updates itself every 2 seconds."
        }
        div #live { (shown) }
    };
    Ok(Sheet::new("Overview", body))
}

/// Returns the part of the overview that live updates replace. It has no forms, because all pages get the same.
pub(crate) fn glance(base: &str, read: &Glance, history: &History) -> Markup {
    let Glance { overview, groups, shards } = read;
    html! {
        section aria-labelledby="kinds-headline" {
            h2 #kinds-headline { "Kinds" }
            @if !overview.is_complete {
                p .notice #incomplete { "There are more kinds than the overview shows." }
            }
            (kinds(base, &overview.kinds, history))
        }
        section aria-labelledby="outbox-headline" {
            h2 #outbox-headline { "Outbox" }
            (outbox(base, &overview.outbox))
            (breakers(&overview.members))
            (table(
                "overview-groups",
                "The largest groups of messages in the outbox",
                &["Source", "Type", "Last code", "Messages", "Oldest", "Condition", "Last error"],
                &groups.groups.iter().take(SHOWN_GROUPS).map(|group| vec![
                    plain(&group.source),
                    plain(&group.event_type),
                    any_word(group.last_code.as_deref()),
                    plain(group.messages),
                    when(group.oldest_at),
                    group.paused.as_ref().map_or_else(dash, |_| badge("bad", "paused")),
                    any(group.last_error.as_deref()),
                ]).collect::<Vec<_>>(),
                "No message waits in the outbox.",
            ))
        }
        section aria-labelledby="members-headline" {
            h2 #members-headline { "Members" }
            (table(
                "overview-members",
                "Members of the runtime",
                &["Member", "Shards", "Last heard", "Kinds", "Condition"],
                &overview.members.iter().map(|member| vec![
                    plain(member_name(member)),
                    plain(member.shards),
                    plain(format_args!("{} ago", text::duration(member.silent_for))),
                    plain(member.kinds.join(", ")),
                    html! {
                        @if member.is_exiting { (badge("note", "exiting")) }
                        @for kind in &member.throttled { (badge("note", &format!("{kind} throttled"))) }
                        @if !member.breakers.is_empty() { (badge("bad", "breaker open")) }
                        @if !member.is_exiting && member.throttled.is_empty() && member.breakers.is_empty() { (dash()) }
                    },
                ]).collect::<Vec<_>>(),
                "No process works on this database: there are no members.",
            ))
        }
        section aria-labelledby="shards-headline" {
            h2 #shards-headline { "Shards" }
            @if overview.free_shards > 0 {
                p #unowned {
                    (badge("bad", "unowned")) " "
                    (text::counted(overview.free_shards.into(), "shard")) " without a holder."
                }
            }
            (shard_map(&overview.members, shards))
        }
    }
}

fn kinds(base: &str, kinds: &[KindOverview], history: &History) -> Markup {
    let rows: Vec<Vec<Markup>> = kinds.iter().map(|kind| row(base, kind, history)).collect();
    table(
        "kinds",
        "Kinds with their waiting events",
        &[
            "Kind",
            "Waiting",
            "Oldest",
            "Last hour",
            "Timers",
            "Failing",
            "Paused",
            "Quarantined",
            "Workers",
            "Condition",
        ],
        &rows,
        "No events wait, and no process registered a kind.",
    )
}

fn row(base: &str, kind: &KindOverview, history: &History) -> Vec<Markup> {
    let only = |only: &str, count: &dyn std::fmt::Display| {
        html! { a href=(link(base, "/recipients", &[("kind", &kind.kind), ("only", only)])) { (count.to_string()) } }
    };
    vec![
        html! { a href=(link(base, "/recipients", &[("kind", &kind.kind)])) { (kind.kind) } },
        plain(kind.waiting),
        when_any(kind.oldest_at),
        sparkline(&format!("age of the oldest event of {}", kind.kind), &history.ages(&kind.kind)),
        html! {
            (kind.timers.to_string())
            @if let Some(due) = kind.next_due_at { ", next " (when(due)) }
        },
        only("failing", &kind.failing),
        only("paused", &kind.paused),
        html! {
            a href=(link(base, "/dead", &[("side", "events"), ("kind", &kind.kind)])) { (kind.quarantined.to_string()) }
        },
        plain(kind.workers),
        condition(kind),
    ]
}

/// Returns what keeps the whole kind from being worked on.
fn condition(kind: &KindOverview) -> Markup {
    let has_nobody = kind.workers == 0;
    html! {
        @if kind.is_paused { (badge("bad", "paused")) }
        @if kind.is_throttled { (badge("note", "throttled")) }
        @if has_nobody { (badge("bad", "no workers")) }
        @if let Some(trouble) = &kind.trouble { (badge("bad", "failing")) " " (trouble) }
        @if !kind.is_paused && !kind.is_throttled && !has_nobody && kind.trouble.is_none() { (dash()) }
    }
}

/// Returns the number of messages that an operator holds back, and says so also when there is none yet.
fn paused(outbox: &OutboxOverview) -> Markup {
    html! {
        (outbox.paused.to_string())
        @if !outbox.paused_destinations.is_empty() {
            " " (badge("bad", "paused")) " "
            (text::counted(outbox.paused_destinations.len() as u64, "destination"))
        }
    }
}

/// Returns the numbers of the outbox.
pub(super) fn outbox(base: &str, outbox: &OutboxOverview) -> Markup {
    facts(
        "outbox-facts",
        &[
            ("Waiting", html! { a href=(link(base, "/outbox", &[])) { (outbox.waiting.to_string()) } }),
            ("Oldest", when_any(outbox.oldest_at)),
            ("Tried at least twice", plain(outbox.struggling)),
            ("Paused", paused(outbox)),
            (
                "Dead letters",
                html! { a href=(link(base, "/dead", &[("side", "messages")])) { (outbox.dead_letters.to_string()) } },
            ),
        ],
    )
}
