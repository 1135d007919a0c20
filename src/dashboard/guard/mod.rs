//! What every request passes before a page sees it, and every answer after it.

mod headers;
mod host;
mod person;
mod secret;
mod session;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

pub(crate) use person::is_token;
pub(crate) use secret::Secret;
pub use session::LOGIN_TTL;
pub(crate) use session::{Cookie, Session};

use super::app::App;
use super::html::{Tab, fail};
use super::pages;
use super::web::{Call, Ctx, Failure, Fields, Visitor};

/// Largest number of bytes of a form.
pub const MAX_FORM_BYTES: usize = 1 << 20;

/// Longest time in which a form must arrive.
pub const FORM_WAIT: Duration = Duration::from_secs(30);

/// Checks a request, lets the page answer it, and secures the answer.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    app.live.start();
    let is_https = host::is_https(request.headers());
    let mut session = Session::of(request.headers(), &app.secret);
    let had_visit = session.has_visit();
    // Only pages have forms. What scripts and programs load must not replace the cookie of an open page.
    let cookie = if is_page(request.uri().path()) { session.begin() } else { None };
    let mut response = match admit(&app, request, &session, had_visit).await {
        Ok((mut request, ctx)) => {
            request.extensions_mut().insert(ctx);
            next.run(request).await
        }
        Err(refusal) => *refusal,
    };
    headers::secure(response.headers_mut());
    if let Some(cookie) = cookie {
        cookie.set(response.headers_mut(), &app.options.base_path, is_https);
    }
    response
}

/// Returns the request and what a page may know of it, or the answer that refuses it.
async fn admit(
    app: &Arc<App>,
    request: Request,
    session: &Session,
    had_visit: bool,
) -> Result<(Request, Ctx), Box<Response>> {
    let (parts, body) = request.into_parts();
    let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let path = parts.uri.path().to_owned();
    let target = parts.uri.path_and_query().map_or_else(|| path.clone(), |target| target.as_str().to_owned());
    let (visitor, form) = (Visitor::default(), Fields::default());
    let is_https = host::is_https(&parts.headers);
    let mut call = Call { app: app.clone(), visitor, path, target, query, form, is_https };
    if !host::is_known(&parts.headers, &app.options) {
        let failure = Failure::refused(
            "the request names a host under which this dashboard does not answer",
            "Open it as localhost, or name the host in the options of the dashboard (with_host).",
        );
        return Err(refusal(&call, &failure));
    }
    match person::visitor(&parts.headers, &app.options, session, &app.secret) {
        Ok(visitor) => call.visitor = visitor,
        Err(failure) => return Err(refusal(&call, &failure)),
    }
    if !call.visitor.is_known && !is_open(&call.path) {
        return Err(unknown(&call));
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let form = form_of(&call, &parts.headers, body, had_visit).await;
        call.form = form.map_err(|failure| refusal(&call, &failure))?;
    }
    Ok((Request::from_parts(parts, Body::empty()), Arc::new(call)))
}

/// Returns the form of a write that came from a page of this browser.
async fn form_of(call: &Call, headers: &HeaderMap, body: Body, had_visit: bool) -> Result<Fields, Failure> {
    const RELOAD: &str = "Load the page again, and send its form.";
    if call.app.options.read_only && !is_open(&call.path) {
        return Err(Failure::refused("this dashboard is read only", "Use one that allows actions."));
    }
    if !host::is_own_page(headers) {
        return Err(Failure::refused("the form was sent by a page of another site", RELOAD));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return Err(Failure::bad_input("the request is not a form"));
    }
    let bytes = match tokio::time::timeout(FORM_WAIT, to_bytes(body, MAX_FORM_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let text = format!("the form has over {MAX_FORM_BYTES} bytes, or did not arrive whole");
            return Err(Failure { status: StatusCode::PAYLOAD_TOO_LARGE, ..Failure::bad_input(text) });
        }
        Err(_) => {
            let text = format!("the form did not arrive within {} s", FORM_WAIT.as_secs());
            return Err(Failure { status: StatusCode::REQUEST_TIMEOUT, ..Failure::bad_input(text) });
        }
    };
    let form = Fields::parse(&bytes);
    let given = form.get("csrf").unwrap_or_default();
    if !had_visit || !call.app.secret.is_same(given, &call.visitor.csrf) {
        let text = "the form does not belong to this browser, or is older than the last start of the dashboard";
        return Err(Failure::refused(text, RELOAD));
    }
    Ok(form)
}

/// Returns whether a person whom the dashboard does not know may ask for a path: to log in and out, and to load files.
fn is_open(path: &str) -> bool {
    matches!(path, "/login" | "/logout") || path.starts_with("/static/")
}

/// Returns whether a path is a page that may have forms.
fn is_page(path: &str) -> bool {
    path != "/live" && !path.starts_with("/api/") && !path.starts_with("/static/")
}

fn refusal(call: &Call, failure: &Failure) -> Box<Response> {
    Box::new(fail(call, Tab::None, failure))
}

/// Answers a person whom the dashboard does not know: with the login form, or with an error for a program.
fn unknown(call: &Call) -> Box<Response> {
    let mut response = if is_page(&call.path) {
        pages::login::form(call, StatusCode::UNAUTHORIZED, None)
    } else {
        let advice = "Send the header Authorization: Bearer, or log in on the page.";
        fail(call, Tab::None, &Failure::unknown_person("the request has no valid token", advice))
    };
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"eventbox\""));
    Box::new(response)
}
