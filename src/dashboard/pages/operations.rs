//! The log of operations: who did what, when and why.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::Operation;
use crate::dashboard::html::parts::{any, name, paging, plain, table, when, word};
use crate::dashboard::html::{Sheet, Tab, answer, text};
use crate::dashboard::web::{Call, Ctx, Failure, PAGE_ROWS};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Operations, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let before = call.query.parsed("before", "the id of an operation")?;
    let operations = call.database().operations(before).await?;
    let rows: Vec<Vec<Markup>> = operations.iter().map(row).collect();
    let is_full = operations.len() >= PAGE_ROWS as usize;
    let last = operations.last().filter(|_| is_full).map(|operation| operation.id.to_string());
    let next = last.map(|last| call.link("/operations", &[("before", &last)]));
    let first = before.map(|_| call.link("/operations", &[]));
    let body = html! {
        (table(
            "operations",
            "Operations",
            &["When", "Who", "Action", "Target", "Touched", "Why"],
            &rows,
            "No operation was noted.",
        ))
        (paging(first.as_deref(), next.as_deref()))
    };
    Ok(Sheet::new("Operations", body))
}

fn row(operation: &Operation) -> Vec<Markup> {
    vec![
        when(operation.at),
        name(&operation.who),
        word(&operation.action),
        plain(&operation.target),
        plain(text::number(operation.touched)),
        any(operation.why.as_deref()),
    ]
}
