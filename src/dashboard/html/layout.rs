//! The frame of every page.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::forms;
use crate::dashboard::actions;
use crate::dashboard::web::{Call, Failure};

/// A place of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Overview,
    Recipients,
    Dead,
    Outbox,
    Shards,
    Peers,
    Doctor,
    Operations,
    /// A page that the navigation does not list.
    None,
}

/// The places of the navigation: their paths, names and ids.
const TABS: [(Tab, &str, &str, &str); 8] = [
    (Tab::Overview, "/", "Overview", "nav-overview"),
    (Tab::Recipients, "/recipients", "Recipients", "nav-recipients"),
    (Tab::Dead, "/dead", "Dead letters", "nav-dead"),
    (Tab::Outbox, "/outbox", "Outbox", "nav-outbox"),
    (Tab::Shards, "/shards", "Shards and members", "nav-shards"),
    (Tab::Peers, "/peers", "Peers", "nav-peers"),
    (Tab::Doctor, "/doctor", "Doctor", "nav-doctor"),
    (Tab::Operations, "/operations", "Operations", "nav-operations"),
];

/// The content of a page.
pub(crate) struct Sheet {
    /// Headline, also the title of the window.
    pub(crate) headline: String,
    /// Content below the headline.
    pub(crate) body: Markup,
}

impl Sheet {
    /// Makes a page of a headline and a content.
    pub(crate) fn new(headline: impl Into<String>, body: Markup) -> Self {
        Sheet { headline: headline.into(), body }
    }
}

/// Answers with a page, or with what went wrong.
pub(crate) fn answer(call: &Call, tab: Tab, made: Result<Sheet, Failure>) -> Response {
    match made {
        Ok(sheet) => page(call, StatusCode::OK, tab, &sheet),
        Err(failure) => fail(call, tab, &failure),
    }
}

/// Answers with a page that tells what went wrong. A request for data gets it as JSON.
pub(crate) fn fail(call: &Call, tab: Tab, failure: &Failure) -> Response {
    if call.wants_json() {
        let text = serde_json::json!({ "error": failure.text, "advice": failure.advice }).to_string();
        return json(failure.status, text);
    }
    let body = html! {
        div .notice.bad #failure role="alert" {
            p #failure-text { (failure.text) }
            p { (failure.advice) }
        }
        p { a href=(call.link("/", &[])) { "To the overview" } }
    };
    page(call, failure.status, tab, &Sheet::new(failure.headline, body))
}

/// Answers with JSON.
pub(crate) fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// Answers with a page.
pub(crate) fn page(call: &Call, status: StatusCode, tab: Tab, sheet: &Sheet) -> Response {
    let options = &call.app.options;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (sheet.headline) " · " (options.title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href=(call.link("/static/app.css", &[]));
                script defer src=(call.link("/static/app.js", &[])) {}
            }
            body {
                a .skip href="#main" { "Skip to the content" }
                header {
                    p .brand { a href=(call.link("/", &[])) { (options.title) } }
                    @if call.visitor.is_known { (navigation(call, tab)) }
                    div .person {
                        @if options.read_only { span .badge #read-only { "read only" } }
                        @if call.visitor.is_known { span #who { (call.visitor.who) } }
                        @if call.visitor.has_login {
                            form method="post" action=(call.link("/logout", &[])) #logout {
                                (forms::csrf(call))
                                button type="submit" { "Log out" }
                            }
                        }
                    }
                }
                main #main tabindex="-1" {
                    h1 { (sheet.headline) }
                    (done(call))
                    (sheet.body)
                }
            }
        }
    };
    (status, Html(markup.into_string())).into_response()
}

fn navigation(call: &Call, tab: Tab) -> Markup {
    html! {
        nav aria-label="Pages" {
            ul {
                @for (of, path, name, id) in TABS {
                    li {
                        a id=(id) href=(call.link(path, &[])) aria-current=[(of == tab).then_some("page")] { (name) }
                    }
                }
            }
        }
    }
}

/// Returns the result of the action that led to this page. Only known words and a number come from the address.
fn done(call: &Call) -> Markup {
    let touched = call.query.get("n").and_then(|number| number.parse().ok());
    let sentence = call.query.get("did").zip(touched).and_then(|(code, touched)| actions::done(code, touched));
    html! {
        @if let Some(sentence) = sentence {
            div .notice.good #done role="status" { p { (sentence) } }
        }
    }
}
