//! The updates of one page, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{StreamExt, unfold};
use tokio::time::{Instant, timeout_at};

use crate::dashboard::html::{Tab, fail};
use crate::dashboard::web::{Ctx, Failure};

/// Largest number of pages that listen at the same time.
pub const MAX_LISTENERS: usize = 64;

/// Longest time of one stream of updates; the page then opens another. So an open page delays the graceful stop of a
/// service that mounts the router by at most this time.
pub const LISTEN_FOR: Duration = Duration::from_secs(30);

/// Time after which a page opens another stream.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Sends the overview to a page, every time it was read, until the page closes or [`LISTEN_FOR`] passes.
pub(crate) async fn listen(Extension(ctx): Extension<Ctx>) -> Response {
    let live = &ctx.app.live;
    let Ok(place) = live.shared.places.clone().try_acquire_owned() else {
        let failure = Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headline: "Too many pages listen",
            text: format!("{MAX_LISTENERS} pages listen for live updates already"),
            advice: "Close some of them. Pages show the same without live updates.",
        };
        return fail(&ctx, Tab::None, &failure);
    };
    let until = Instant::now() + LISTEN_FOR;
    let begun = (live.shared.updates.subscribe(), place);
    let updates = unfold(begun, move |(mut updates, place)| async move {
        // An error says that the dashboard ended.
        timeout_at(until, updates.changed()).await.ok()?.ok()?;
        let update = updates.borrow_and_update().clone();
        Some((Ok::<_, Infallible>(Event::default().event("overview").data(update)), (updates, place)))
    });
    let first = futures_util::stream::iter([Ok(Event::default().retry(REOPEN_AFTER).comment("live"))]);
    let stream = first.chain(updates).take_until(live.ending.clone().cancelled_owned());
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}
