//! Shards and members: who holds what, and moving it.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::{Member, ShardLease};
use crate::dashboard::html::parts::{badge, dash, plain, table};
use crate::dashboard::html::{Holders, Sheet, Tab, answer, forms, lease_end, member_name, shard_map, text};
use crate::dashboard::web::{Call, Ctx, Failure};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Shards, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let members = call.database().members().await?;
    let leases = call.database().shards().await?;
    let body = html! {
        section aria-labelledby="members-headline" {
            h2 #members-headline { "Members" }
            (member_list(call, &members))
        }
        section aria-labelledby="map-headline" {
            h2 #map-headline { "Shards" }
            (shard_map(&members, &leases))
        }
        (actions(call, &members))
        details #leases-details {
            summary { "Every shard in a table" }
            (lease_list(&members, &leases))
        }
    };
    Ok(Sheet::new("Shards and members", body))
}

fn member_list(call: &Call, members: &[Member]) -> Markup {
    let row = |member: &Member| {
        vec![
            plain(member_name(member)),
            html! { code { (member.worker.to_string()) } },
            plain(format_args!("{} of at most {}", member.shards, member.shard_limit)),
            plain(format_args!("{} ago", text::duration(member.silent_for))),
            plain(member.kinds.join(", ")),
            busy(call, member),
            html! {
                @if member.is_exiting { (badge("note", "exiting")) }
                @for kind in &member.throttled { (badge("note", &format!("{kind} throttled"))) }
                @for breaker in &member.breakers {
                    p {
                        (badge("bad", "breaker open")) " " (breaker.endpoint) " for " (text::duration(breaker.open_for))
                        @if let Some(error) = &breaker.last_error { ": " (error) }
                    }
                }
                @for held in &member.held { p { (badge("bad", &format!("{} held", held.kind))) " " (held.error) } }
                @for failing in &member.failing {
                    p {
                        a href=(call.link("/recipient", &[("r", failing.recipient.as_str())])) {
                            (failing.recipient.as_str())
                        }
                        ": " (failing.error)
                    }
                }
                @if is_calm(member) { (dash()) }
            },
        ]
    };
    table(
        "members",
        "Members of the runtime",
        &["Member", "Id", "Shards", "Last heard", "Kinds", "Long turns", "Condition"],
        &members.iter().map(row).collect::<Vec<_>>(),
        "No process works on this database: there are no members.",
    )
}

fn is_calm(member: &Member) -> bool {
    let has_trouble = !member.held.is_empty() || !member.failing.is_empty() || !member.breakers.is_empty();
    !member.is_exiting && member.throttled.is_empty() && !has_trouble
}

/// Returns the recipients whose turns take long, with the age of the turn.
fn busy(call: &Call, member: &Member) -> Markup {
    html! {
        @if member.busy.is_empty() { (dash()) }
        @for busy in &member.busy {
            p {
                a href=(call.link("/recipient", &[("r", busy.recipient.as_str())])) { (busy.recipient.as_str()) }
                " for " (text::duration(busy.since))
            }
        }
    }
}

fn actions(call: &Call, members: &[Member]) -> Markup {
    if !call.may_act() {
        return html! {};
    }
    let shard = |id: &str| {
        html! {
            label { span { "Shard (0 to 255)" } input id=(id) type="number" name="shard" min="0" max="255" required; }
        }
    };
    let released = shard("release-shard-number");
    let moved = html! {
        (shard("move-shard-number"))
        label {
            span { "To the member" }
            select #move-shard-member name="member" required {
                @for member in members { option value=(member.worker.to_string()) { (member_name(member)) } }
            }
        }
    };
    html! {
        section .actions aria-labelledby="actions-headline" {
            h2 #actions-headline { "Actions" }
            p { "The owner of a shard decides only who works on it. Moving a shard loses and repeats nothing." }
            (forms::ask(call, "action-release-shard", "Release …", "release-shard", &[], &released))
            @if !members.is_empty() {
                (forms::ask(call, "action-move-shard", "Move …", "move-shard", &[], &moved))
            }
        }
    }
}

fn lease_list(members: &[Member], leases: &[ShardLease]) -> Markup {
    let holders = Holders::new(members);
    let row = |lease: &ShardLease| {
        vec![
            plain(lease.shard),
            plain(holders.name(lease.holder)),
            plain(lease.generation),
            plain(lease_end(lease)),
            lease.pinned.map_or_else(dash, |pinned| plain(holders.name(Some(pinned)))),
        ]
    };
    table(
        "leases",
        "Leases of the shards",
        &["Shard", "Holder", "Generation", "Lease", "Pinned to"],
        &leases.iter().map(row).collect::<Vec<_>>(),
        "No shard was ever held.",
    )
}
