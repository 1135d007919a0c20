//! Shards and members: who holds what, what failed, and moving it.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};
use uuid::Uuid;

use crate::admin::{Member, ShardLease, ShardState, ShardView};
use crate::dashboard::html::parts::{badge, dash, plain, table};
use crate::dashboard::html::{Holders, Sheet, Tab, answer, forms, lease_end, member_name, shard_map, text};
use crate::dashboard::web::{Call, Ctx, Failure};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Shards, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let members = call.database().members().await?;
    let leases = call.database().shards().await?;
    let shards = call.database().shard_views().await?;
    let body = html! {
        section aria-labelledby="members-headline" {
            h2 #members-headline { "Members" }
            (member_list(call, &members))
        }
        section aria-labelledby="map-headline" {
            h2 #map-headline { "Shards" }
            (shard_map(&members, &leases))
            (trouble(call, &members, &shards))
        }
        (actions(call, &members))
        details #leases-details {
            summary { "Every shard in a table" }
            (shard_list(&members, &leases, &shards))
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
                @for rated in &member.rated {
                    (badge("note", &format!("{} {} held by rates", rated.held, rated.kind)))
                }
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
    !member.is_exiting && member.throttled.is_empty() && member.rated.is_empty() && !has_trouble
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
    let reset = shard("reset-shard-number");
    let applied = html! {
        (shard("apply-shard-number"))
        label { span { "Labels (a line of NAME=VALUE each)" } textarea #apply-shard-labels name="labels" rows="2" {} }
        label {
            span { "Preferred zone (optional)" }
            input #apply-shard-zone type="text" name="zone" autocomplete="off";
        }
        label { span { "Disabled" } input #apply-shard-disable type="checkbox" name="disable" value="yes"; }
        label {
            span { "Expected revision (optional)" }
            input #apply-shard-revision type="number" name="revision" min="0";
        }
    };
    let (released, unassigned) = (shard("release-shard-number"), shard("unassign-shard-number"));
    let takers: Vec<&Member> = members.iter().filter(|member| !member.is_exiting && member.shard_limit > 0).collect();
    let moved = html! {
        (shard("move-shard-number"))
        label {
            span { "To the member" }
            select #move-shard-member name="member" required {
                @for member in &takers { option value=(member.worker.to_string()) { (member_name(member)) } }
            }
        }
    };
    html! {
        section .actions aria-labelledby="actions-headline" {
            h2 #actions-headline { "Actions" }
            p { "The owner of a shard decides only who works on it. Moving a shard loses and repeats nothing." }
            (forms::ask(call, "action-release-shard", "Release …", "release-shard", &[], &released))
            (forms::ask(call, "action-unassign-shard", "Unassign …", "unassign-shard", &[], &unassigned))
            (forms::ask(call, "action-apply-shard", "Change the spec …", "apply-shard", &[], &applied))
            (forms::ask(call, "action-reset-shard", "Set back …", "reset-shard", &[], &reset))
            @if !takers.is_empty() {
                (forms::ask(call, "action-move-shard", "Move …", "move-shard", &[], &moved))
            }
        }
    }
}

/// Returns the shards that no process works on although one could, with what mends them.
fn trouble(call: &Call, members: &[Member], shards: &[ShardView]) -> Markup {
    let holders = Holders::new(members);
    let row = |shard: &ShardView| {
        let number = shard.shard.to_string();
        let id = format!("unassign-{number}");
        vec![
            plain(&number),
            state(shard),
            plain(holders.name(shard.holder)),
            failure(shard),
            html! {
                @if shard.state == ShardState::Failed {
                    (forms::button(call, &id, "Unassign …", "unassign-shard", &[("shard", number.as_str())]))
                } @else { (dash()) }
            },
        ]
    };
    let is_failed = |shard: &ShardView| shard.state == ShardState::Failed;
    let rows: Vec<_> = shards.iter().filter(|shard| is_failed(shard) || shard.spec.is_disabled).map(row).collect();
    if rows.is_empty() {
        return html! {};
    }
    html! {
        (table(
            "trouble",
            "Shards that failed or are disabled",
            &["Shard", "State", "Holder", "Failure", "Repair"],
            &rows,
            "",
        ))
        @if shards.iter().any(is_failed) {
            (forms::button(call, "action-unassign-failed", "Unassign all failed shards …", "unassign-failed", &[]))
        }
    }
}

fn state(shard: &ShardView) -> Markup {
    let (class, word) = match shard.state {
        ShardState::Failed => ("bad", "FAILED"),
        ShardState::Primary => ("good", "PRIMARY"),
        ShardState::Standby => ("note", "STANDBY"),
        ShardState::Idle => ("note", "IDLE"),
    };
    html! {
        (badge(class, word))
        @if shard.spec.is_disabled { " " (badge("note", "disabled")) }
    }
}

/// Returns what operators ask of a shard.
fn spec(shard: &ShardView) -> Markup {
    let zone = shard.spec.zone.as_ref().map(|zone| format!("prefers zone {zone}"));
    let labels = shard.spec.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let words: Vec<String> = labels.chain(zone).collect();
    if words.is_empty() { dash() } else { plain(words.join(", ")) }
}

fn failure(shard: &ShardView) -> Markup {
    if shard.attempts == 0 {
        return dash();
    }
    html! {
        (text::counted(shard.attempts.into(), "failure")) " in a row"
        @if shard.state == ShardState::Failed {
            @match shard.next_attempt_in {
                Some(wait) => { ", tried again in " (text::duration(wait)) }
                None => { ", not tried again" }
            }
        }
        @for error in &shard.errors { p { (error) } }
    }
}

fn shard_list(members: &[Member], leases: &[ShardLease], shards: &[ShardView]) -> Markup {
    let holders = Holders::new(members);
    let zone_of = |worker: Option<Uuid>| {
        let member = members.iter().find(|member| Some(member.worker) == worker);
        member.map(|member| member.zone.as_str()).filter(|zone| !zone.is_empty())
    };
    let row = |(lease, shard): (&ShardLease, &ShardView)| {
        vec![
            plain(shard.shard),
            state(shard),
            plain(holders.name(lease.holder)),
            zone_of(lease.holder).map_or_else(dash, plain),
            shard.standby.map_or_else(dash, |standby| plain(holders.name(Some(standby)))),
            zone_of(shard.standby).map_or_else(dash, plain),
            plain(lease.generation),
            plain(lease_end(lease)),
            lease.pinned.map_or_else(dash, |pinned| plain(holders.name(Some(pinned)))),
            plain(shard.mod_revision),
            spec(shard),
            failure(shard),
        ]
    };
    table(
        "leases",
        "The shards with their leases",
        &[
            "Shard",
            "State",
            "Holder",
            "Zone",
            "Standby",
            "Its zone",
            "Generation",
            "Lease",
            "Pinned to",
            "Revision",
            "Spec",
            "Failure",
        ],
        &leases.iter().zip(shards).map(row).collect::<Vec<_>>(),
        "No shard was ever held.",
    )
}
