//! The list of recipients.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::{RecipientPage, RecipientRow};
use crate::dashboard::html::parts::{any, badge, dash, paging, plain, table, when_any};
use crate::dashboard::html::{Sheet, Tab, answer, forms};
use crate::dashboard::web::{Call, Ctx, Failure, RECIPIENT_FIELDS, recipient_query};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Recipients, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let found = call.database().recipients(&recipient_query(&call.query)?).await?;
    let kind = match call.query.get("kind") {
        Some(kind) => Some((kind, call.database().is_kind_paused(kind).await?)),
        None => None,
    };
    let body = html! {
        @if let Some((kind, is_paused)) = kind { (of_kind(call, kind, is_paused)) }
        (filter(call))
        (list(call, &found))
    };
    Ok(Sheet::new("Recipients", body))
}

/// Returns what can be done with a whole kind.
fn of_kind(call: &Call, kind: &str, is_paused: bool) -> Markup {
    let fields = [("kind", kind)];
    html! {
        section .panel #kind {
            h2 { "Kind " (kind) " " @if is_paused { (badge("bad", "paused")) } }
            @if is_paused {
                p { "No event of this kind is processed until the kind is resumed." }
                (forms::button(call, "resume-kind", "Resume the kind …", "resume-kind", &fields))
            } @else {
                (forms::button(call, "pause-kind", "Pause the kind …", "pause-kind", &fields))
            }
        }
    }
}

fn filter(call: &Call) -> Markup {
    let only = [
        ("waiting", "with waiting events"),
        ("all", "all"),
        ("failing", "failing"),
        ("paused", "paused"),
        ("quarantined", "with quarantined events"),
    ];
    let order = [("key", "key"), ("oldest", "oldest event first"), ("longest", "longest box first")];
    let seen = html! {
        (forms::text_field("kind", "Kind", &call.query))
        (forms::text_field("prefix", "Key begins with (of a kind)", &call.query))
        (forms::choice("only", "Show", &only, &call.query))
        (forms::choice("order", "Order (of waiting events)", &order, &call.query))
    };
    html! {
        (forms::filter(call, "/recipients", &seen))
        form #open .filter method="get" action=(call.link("/recipient", &[])) {
            label {
                span { "Recipient" }
                input type="text" name="r" id="field-r" placeholder="kind/key" required autocomplete="off";
            }
            button type="submit" { "Open" }
        }
    }
}

fn list(call: &Call, found: &RecipientPage) -> Markup {
    let rows: Vec<Vec<Markup>> = found.rows.iter().map(|one| row(call, one)).collect();
    let next = found.next.as_ref().map(|next| call.same_page(&RECIPIENT_FIELDS, &[("after", next.as_str())]));
    let first = call.query.get("after").map(|_| call.same_page(&RECIPIENT_FIELDS, &[("after", "")]));
    html! {
        @if !found.is_complete {
            p .notice #incomplete {
                "There are too many recipients to look at all of them: the first ones were ordered."
            }
        }
        (table(
            "recipients",
            "Recipients",
            &["Recipient", "Waiting", "Oldest", "Attempts", "Next attempt", "Quarantined", "Condition", "Last error"],
            &rows,
            "No recipient is like this.",
        ))
        (paging(first.as_deref(), next.as_deref()))
    }
}

fn row(call: &Call, row: &RecipientRow) -> Vec<Markup> {
    vec![
        html! { a href=(call.link("/recipient", &[("r", row.recipient.as_str())])) { (row.recipient.as_str()) } },
        plain(row.waiting),
        when_any(row.oldest_at),
        plain(row.attempts),
        when_any(row.next_attempt_at),
        plain(row.quarantined),
        html! {
            @if row.is_paused { (badge("bad", "paused")) }
            @if row.attempts > 0 { (badge("bad", "failing")) }
            @if !row.is_paused && row.attempts == 0 { (dash()) }
        },
        any(row.error.as_deref()),
    ]
}
