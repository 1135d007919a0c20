//! The two steps of an action: a page that says what it will touch, and the action itself.

use axum::Extension;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::{Action, FIELDS};
use crate::admin::Count;
use crate::dashboard::database::{By, Effect};
use crate::dashboard::html::{Sheet, Tab, answer, fail, forms};
use crate::dashboard::web::{Call, Ctx, Failure};

/// Number of touched things from which an action may take longer than people expect.
const LONG: u64 = 10_000;

/// Rehearses an action and asks for confirmation.
pub(crate) async fn ask(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, Tab::None, confirmation(&ctx).await)
}

async fn confirmation(call: &Call) -> Result<Sheet, Failure> {
    let action = Action::parse(&call.form)?;
    let by = By { who: call.visitor.who.clone(), why: None, is_rehearsal: true };
    let effect = call.database().perform(&action, &by).await?;
    let body = match effect {
        Effect::Touched(0) => nothing(call, &action, &action.nothing()),
        Effect::Nothing(sentence) => nothing(call, &action, sentence),
        Effect::Touched(touched) => question(call, &action, touched, &html! {}),
        Effect::Delivery { waiting } => question(call, &action, 1, &in_the_outbox(waiting)),
    };
    Ok(Sheet::new(action.title(), body))
}

fn in_the_outbox(waiting: Count) -> Markup {
    html! { p #waiting { "Such messages in the outbox now: " (waiting.to_string()) "." } }
}

fn question(call: &Call, action: &Action, touched: u64, more: &Markup) -> Markup {
    let repeated: Vec<(&str, &str)> = FIELDS.iter().filter_map(|name| Some((*name, call.form.text(name)?))).collect();
    html! {
        p #will { (action.will(touched)) }
        (more)
        @if touched >= LONG {
            p { "Keep the page open: an action that is cut off stops between two slices. What is done stays done." }
        }
        form #confirm .confirm method="post" action=(call.link("/do", &[])) {
            (forms::csrf(call))
            (forms::hidden(&repeated))
            label {
                span { "Why? (optional, for the log of operations)" }
                input #why type="text" name="why" maxlength="1000" autocomplete="off";
            }
            div .choices {
                button #confirm-button type="submit" .danger[action.is_destructive()] { (action.title()) }
                a #go-back href=(home(call, action, &[])) { "Go back without a change" }
            }
        }
    }
}

fn nothing(call: &Call, action: &Action, sentence: &str) -> Markup {
    html! {
        div .notice #nothing role="status" {
            p { "There is nothing to do. " (sentence) }
        }
        p { a #go-back href=(home(call, action, &[])) { "Go back" } }
    }
}

/// Performs an action, and leads back to the page that it belongs to.
pub(crate) async fn perform(Extension(ctx): Extension<Ctx>) -> Response {
    match performed(&ctx).await {
        Ok(to) => Redirect::to(&to).into_response(),
        Err(failure) => fail(&ctx, Tab::None, &failure),
    }
}

/// Returns the address of the page that says what was done.
async fn performed(call: &Call) -> Result<String, Failure> {
    let action = Action::parse(&call.form)?;
    let why = call.form.get("why").map(str::to_owned);
    let by = By { who: call.visitor.who.clone(), why, is_rehearsal: false };
    let touched = match call.database().perform(&action, &by).await? {
        Effect::Touched(0) => return Err(unchanged(action.nothing())),
        Effect::Nothing(sentence) => return Err(unchanged(sentence.to_owned())),
        Effect::Touched(touched) => touched,
        Effect::Delivery { .. } => 1,
    };
    tracing::info!(who = by.who, action = action.code(), touched, "an operator acted on the dashboard");
    Ok(home(call, &action, &[("did", action.code()), ("n", &touched.to_string())]))
}

fn unchanged(text: String) -> Failure {
    let advice = "It may have changed since the page was made. Go back and load it again.";
    Failure { status: StatusCode::CONFLICT, headline: "Nothing was changed", text, advice }
}

fn home(call: &Call, action: &Action, more: &[(&str, &str)]) -> String {
    let (path, parameters) = action.home();
    let mut parameters: Vec<(&str, &str)> = parameters;
    parameters.extend(more);
    call.link(path, &parameters)
}
