//! The doctor: what is wrong with the database and around it.

use axum::Extension;
use axum::response::Response;
use maud::{Markup, html};

use crate::admin::{Finding, Severity};
use crate::dashboard::html::parts::{any, badge, plain, table, word};
use crate::dashboard::html::{Sheet, Tab, answer};
use crate::dashboard::web::{Call, Ctx, Failure};

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::Doctor, sheet(&ctx).await)
}

async fn sheet(call: &Call) -> Result<Sheet, Failure> {
    let with_integrity = call.query.get("integrity").is_some();
    let findings = call.database().doctor(with_integrity).await?;
    let rows: Vec<Vec<Markup>> = findings.iter().map(row).collect();
    let wrong =
        findings.iter().filter(|finding| matches!(finding.severity, Severity::Warning | Severity::Error)).count();
    let body = html! {
        p #doctor-summary {
            @match wrong {
                0 => "Nothing is wrong.",
                1 => "1 check found something wrong.",
                _ => { (wrong) " checks found something wrong." },
            }
        }
        (table("findings", "Findings", &["Severity", "Check", "Finding", "What to do"], &rows, "No check ran."))
        @if !with_integrity {
            p {
                a #integrity href=(call.link("/doctor", &[("integrity", "yes")])) {
                    "Check the integrity of the file too"
                }
                " (SQLite only: reads the whole file)."
            }
        }
    };
    Ok(Sheet::new("Doctor", body))
}

fn row(finding: &Finding) -> Vec<Markup> {
    let severity = match finding.severity {
        Severity::Ok => badge("good", "ok"),
        Severity::Note => badge("note", "note"),
        Severity::Warning => badge("bad", "warning"),
        Severity::Error => badge("bad", "error"),
    };
    vec![severity, word(finding.check), plain(&finding.sentence), any(finding.advice.as_deref())]
}
