//! The pages, and the routes to them.

mod api;
mod dead;
mod destinations;
mod doctor;
mod files;
pub(crate) mod login;
mod operations;
mod outbox;
pub(crate) mod overview;
mod peers;
mod recipient;
mod recipients;
mod shards;

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::app::App;
use super::guard::guard;
use super::html::{Tab, fail};
use super::web::{Ctx, Failure};
use super::{actions, live};

/// Returns the routes of the dashboard, each behind the checks of every request.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(overview::page))
        .route("/recipients", get(recipients::page))
        .route("/recipient", get(recipient::page))
        .route("/dead", get(dead::page))
        .route("/outbox", get(outbox::page))
        .route("/shards", get(shards::page))
        .route("/peers", get(peers::page))
        .route("/doctor", get(doctor::page))
        .route("/operations", get(operations::page))
        .route("/confirm", post(actions::ask))
        .route("/do", post(actions::perform))
        .route("/login", get(login::page).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/live", get(live::listen))
        .route("/static/app.js", get(files::script))
        .route("/static/app.css", get(files::styles))
        .nest("/api", api::routes())
        .fallback(missing)
        .layer(from_fn_with_state(app, guard))
}

async fn missing(Extension(ctx): Extension<Ctx>) -> Response {
    fail(&ctx, Tab::None, &Failure::no_such_page())
}
