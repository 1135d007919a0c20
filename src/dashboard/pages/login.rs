//! Logging in with the token, and out.

use std::time::Duration;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;

use crate::dashboard::guard::{Cookie, is_token};
use crate::dashboard::html::{Sheet, Tab, forms, page as whole_page};
use crate::dashboard::web::{Call, Ctx};

/// Wait before the answer to a wrong token, so that guessing is slow.
const WRONG_TOKEN_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn page(Extension(ctx): Extension<Ctx>) -> Response {
    if ctx.visitor.is_known {
        return Redirect::to(&ctx.link("/", &[])).into_response();
    }
    form(&ctx, StatusCode::OK, None)
}

/// Answers with the login form, which leads to the page that was asked for.
pub(crate) fn form(call: &Call, status: StatusCode, problem: Option<&str>) -> Response {
    let next = call.form.get("next").map_or_else(|| asked_for(call), str::to_owned);
    let body = html! {
        @if let Some(problem) = problem {
            div .notice.bad #failure role="alert" { p { (problem) } }
        }
        form #login .confirm method="post" action=(call.link("/login", &[])) {
            (forms::csrf(call))
            (forms::hidden(&[("next", &next)]))
            label {
                span { "Token" }
                input #token type="password" name="token" autocomplete="current-password" required;
            }
            button type="submit" { "Log in" }
        }
        p { "The token is the one with which this dashboard was started." }
        @if next != "/" {
            p { a href=(call.link(&next, &[])) { "Load the page again, if you have logged in already" } }
        }
    };
    whole_page(call, status, Tab::None, &Sheet::new("Log in", body))
}

/// Returns the page to which a login leads: its path below the base path, with its query.
fn asked_for(call: &Call) -> String {
    let is_form = matches!(call.path.as_str(), "/login" | "/logout" | "/confirm" | "/do");
    if is_form || !is_own(&call.target) { "/".to_owned() } else { call.target.clone() }
}

pub(super) async fn enter(Extension(ctx): Extension<Ctx>) -> Response {
    let given = ctx.form.get("token").unwrap_or_default();
    let is_right = ctx.app.options.token.as_ref().is_some_and(|token| is_token(given, token, &ctx.app.secret));
    if !is_right {
        tracing::warn!("someone tried to log in to the dashboard with a wrong token");
        tokio::time::sleep(WRONG_TOKEN_WAIT).await;
        return form(&ctx, StatusCode::UNAUTHORIZED, Some("This is not the token."));
    }
    let next = ctx.form.get("next").filter(|next| is_own(next)).unwrap_or("/");
    let mut response = Redirect::to(&ctx.link(next, &[])).into_response();
    Cookie::login(&ctx.app.secret).set(response.headers_mut(), &ctx.app.options.base_path, ctx.is_https);
    response
}

pub(super) async fn leave(Extension(ctx): Extension<Ctx>) -> Response {
    let mut response = Redirect::to(&ctx.link("/", &[])).into_response();
    Cookie::logout().set(response.headers_mut(), &ctx.app.options.base_path, ctx.is_https);
    response
}

/// Returns whether an address is a path of the dashboard, and not another site.
fn is_own(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~%?&=+*:".contains(&byte);
    path.starts_with('/') && !path.starts_with("//") && path.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn a_login_leads_to_no_other_site() {
        for own in ["/", "/recipient?r=order%2F7&show=1", "/dead"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/a\nb", "javascript:1", "/é"]
        {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
