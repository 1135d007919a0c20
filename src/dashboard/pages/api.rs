//! The same data as JSON, for programs. It is never a payload.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde::Serialize;

use crate::dashboard::html::{Tab, fail, json};
use crate::dashboard::web::{Ctx, Failure, dead_filter, letter_id, message_filter, recipient_query};
use crate::error::BoxError;

/// Returns the routes below `/api`.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/overview", get(overview))
        .route("/recipients", get(recipients))
        .route("/recipient", get(recipient))
        .route("/why", get(why))
        .route("/dead", get(dead))
        .route("/outbox", get(outbox))
        .route("/messages", get(messages))
        .route("/members", get(members))
        .route("/shards", get(shards))
        .route("/peers", get(peers))
        .route("/streams", get(streams))
        .route("/doctor", get(doctor))
        .route("/operations", get(operations))
}

/// Answers with a value as JSON.
fn answer<T: Serialize>(ctx: &Ctx, made: Result<T, Failure>) -> Response {
    let text = made.and_then(|value| serde_json::to_string(&value).map_err(|error| unwritten(&error.into())));
    match text {
        Ok(text) => json(StatusCode::OK, text),
        Err(failure) => fail(ctx, Tab::None, &failure),
    }
}

fn unwritten(error: &BoxError) -> Failure {
    Failure {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        headline: "The answer cannot be written as JSON",
        text: format!("write the answer as JSON: {error}"),
        advice: "Look at the page instead.",
    }
}

async fn overview(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, ctx.database().overview().await.map_err(Failure::from))
}

async fn recipients(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async { Ok(ctx.database().recipients(&recipient_query(&ctx.query)?).await?) };
    answer(&ctx, found.await)
}

async fn recipient(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async { Ok(ctx.database().inspect(&ctx.query.required_recipient()?).await?) };
    answer(&ctx, found.await)
}

async fn why(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async { Ok(ctx.database().why(&ctx.query.required_recipient()?).await?) };
    answer(&ctx, found.await)
}

async fn dead(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async {
        let (filter, after) = (dead_filter(&ctx.query)?, letter_id(&ctx.query, "after")?);
        Ok(ctx.database().dead(&filter, after).await?)
    };
    answer(&ctx, found.await)
}

async fn outbox(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, ctx.database().message_groups().await.map_err(Failure::from))
}

async fn messages(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async {
        let after = letter_id(&ctx.query, "after")?;
        Ok(ctx.database().messages(&message_filter(&ctx.query), after).await?)
    };
    answer(&ctx, found.await)
}

async fn members(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, ctx.database().members().await.map_err(Failure::from))
}

async fn shards(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, ctx.database().shard_views().await.map_err(Failure::from))
}

async fn peers(Extension(ctx): Extension<Ctx>) -> Response {
    answer(&ctx, ctx.database().peers().await.map_err(Failure::from))
}

async fn streams(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async { Ok(ctx.database().streams(ctx.query.required("peer")?, ctx.query.get("after")).await?) };
    answer(&ctx, found.await)
}

async fn doctor(Extension(ctx): Extension<Ctx>) -> Response {
    let with_integrity = ctx.query.get("integrity").is_some();
    answer(&ctx, ctx.database().doctor(with_integrity).await.map_err(Failure::from))
}

async fn operations(Extension(ctx): Extension<Ctx>) -> Response {
    let found = async {
        let before = ctx.query.parsed("before", "the id of an operation")?;
        Ok(ctx.database().operations(before).await?)
    };
    answer(&ctx, found.await)
}
