//! One request: the checks, its body, its events, and the wait for its answer.

#![allow(clippy::result_large_err, reason = "an answer is made once for each request")]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::answer::{Answer, AnswerBody, response};
use super::config::{HttpMode, Settings};
use super::lane::Job;
use super::routes::Served;
use super::waiting::{Entered, Place, Reply, Ticket};
use crate::eventbox::MAX_VALUE_BYTES;
use crate::peer::Arrival;
use crate::peer::connectors::http::envelope::{Content, RequestIn};
use crate::peer::connectors::http::{Format, headers};

/// Header with which a client names a request that it may send again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;

/// Answers a request.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let is_head = request.method() == Method::HEAD;
    let reply = tokio::select! {
        // An answer that came is not lost to the stop.
        biased;
        reply = handle(shared, remote, request) => reply,
        () = shared.closing.cancelled() => Err(Answer::stopping()),
    };
    match reply {
        Ok(reply) => response(&reply.answer, reply.receipt, is_head),
        Err(refused) => response(&refused, None, is_head),
    }
}

async fn handle(shared: &Arc<Shared>, remote: SocketAddr, request: Request<Incoming>) -> Result<Reply, Answer> {
    let settings = &shared.settings;
    let (parts, body) = request.into_parts();
    check(shared, &parts)?;
    let _place = shared
        .places
        .try_acquire()
        .map_err(|_| Answer::say(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time").try_again())?;
    let key = key(settings, &parts)?;
    let body = read(settings, body).await?;
    let began = Instant::now();
    let (place, entrance) = shared.next_place().ok_or_else(Answer::stopping)?;
    let ticket = match shared.waiting.enter(place, key.as_deref().map(Arc::from)) {
        Entered::Answered(answer) => return Ok(Reply { answer, receipt: None }),
        Entered::Joined(ticket) => ticket,
        Entered::New(ticket) => {
            let arrival = arrival(settings, place, remote, &parts, &body, key)?;
            let job = Job { place, arrival, busy: entrance.busy.clone() };
            let queued = timeout_at(began + settings.emit_deadline, entrance.jobs.send(job)).await;
            queued.map_err(|_| too_slow())?.map_err(|_| Answer::stopping())?;
            ticket
        }
    };
    wait(shared, ticket, began).await
}

fn check(shared: &Shared, parts: &Parts) -> Result<(), Answer> {
    let settings = &shared.settings;
    if shared.stopping.is_cancelled() {
        return Err(Answer::stopping());
    }
    let given = parts.headers.get(AUTHORIZATION).and_then(|given| given.to_str().ok());
    if settings.token.as_ref().is_some_and(|token| !token.is_in(given)) {
        return Err(Answer::unauthorized());
    }
    match settings.routes.served(parts.uri.path(), &parts.method) {
        Served::Yes => Ok(()),
        Served::UnknownPath => Err(Answer::say(StatusCode::NOT_FOUND, "nothing is served at this path")),
        Served::OtherMethods(methods) => Err(Answer::method_not_allowed(&methods)),
    }
}

/// Returns the id that a repeated request has too. Method and path are in it, so that two different requests with one
/// key are two.
fn key(settings: &Settings, parts: &Parts) -> Result<Option<String>, Answer> {
    let given = parts.headers.get(IDEMPOTENCY_KEY).filter(|_| settings.config.idempotency_key);
    let Some(given) = given else { return Ok(None) };
    let is_fine = |key: &&str| !key.is_empty() && key.len() <= MAX_IDEMPOTENCY_KEY_BYTES;
    let key = given.to_str().ok().map(str::trim).filter(is_fine).ok_or_else(|| {
        let why = format!("idempotency-key is not 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible characters");
        Answer::say(StatusCode::BAD_REQUEST, &why)
    })?;
    let target = Sha256::digest(format!("{} {}", parts.method, parts.uri.path()));
    let target: String = target.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(format!("{key}@{target}")))
}

async fn read(settings: &Settings, body: Incoming) -> Result<Bytes, Answer> {
    let limit = settings.config.max_body_bytes;
    let too_large = || Answer::say(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is over {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match timeout(settings.body_timeout, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Answer::say(StatusCode::BAD_REQUEST, "the body is not whole")),
        Err(_) => Err(Answer::say(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

fn arrival(
    settings: &Settings,
    place: Place,
    remote: SocketAddr,
    parts: &Parts,
    body: &Bytes,
    key: Option<String>,
) -> Result<Arrival, Answer> {
    let (_, number) = place;
    let arrival = match settings.config.request_format {
        Format::Raw => Arrival::bytes(body.clone()),
        Format::Envelope => Arrival::value(envelope(settings, number, parts, body)?),
    };
    let arrival = arrival.number(number).field("method", parts.method.as_str()).field("path", parts.uri.path());
    let mut arrival = arrival.field("remote", remote.to_string());
    if let Some(query) = parts.uri.query() {
        arrival = arrival.field("query", query);
    }
    if let Some(content_type) = parts.headers.get(CONTENT_TYPE) {
        arrival = arrival.field("content_type", headers::text(content_type));
    }
    for (name, field) in settings.headers.iter().zip(&settings.header_fields) {
        if let Some(value) = parts.headers.get(name) {
            arrival = arrival.field(field, headers::text(value));
        }
    }
    let arrival = match settings.config.mode {
        HttpMode::Answer => arrival.acknowledged_by_answer(),
        HttpMode::Accept => arrival,
    };
    Ok(match key {
        Some(key) => arrival.id(key).of_peer(),
        None => arrival,
    })
}

fn envelope(settings: &Settings, number: u64, parts: &Parts, body: &Bytes) -> Result<Vec<u8>, Answer> {
    let envelope = RequestIn {
        request: number,
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: headers::pick(&parts.headers, &settings.headers),
        content: Content::of(body, is_json(&parts.headers)),
    };
    // It cannot fail: every key is a text.
    let envelope = serde_json::to_vec(&envelope).unwrap_or_default();
    match envelope.len() <= MAX_VALUE_BYTES {
        true => Ok(envelope),
        false => {
            Err(Answer::say(StatusCode::PAYLOAD_TOO_LARGE, &format!("an event has at most {MAX_VALUE_BYTES} bytes")))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers::is_json(headers.get(CONTENT_TYPE))
}

/// Waits until the events are committed, and then for the answer.
async fn wait(shared: &Shared, mut ticket: Ticket, began: Instant) -> Result<Reply, Answer> {
    let (emitted, answered) = (began + shared.settings.emit_deadline, began + shared.settings.answer_deadline);
    if let Some(reply) = ticket.reply_until(emitted.min(answered)).await {
        return Ok(reply);
    }
    if !shared.waiting.is_committed(ticket.place()) {
        return Err(too_slow());
    }
    let late = || Answer::say(StatusCode::GATEWAY_TIMEOUT, "the request is stored, but no answer came in time");
    ticket.reply_until(answered).await.ok_or_else(late)
}

fn too_slow() -> Answer {
    Answer::say(StatusCode::SERVICE_UNAVAILABLE, "the events could not be stored in time").try_again()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::connectors::http::HttpServerConfig;

    fn key_of(method: Method, path: &str, text: &str) -> Result<Option<String>, Answer> {
        let request = Request::builder().method(method).uri(path).header(IDEMPOTENCY_KEY, text).body(()).unwrap();
        key(&Settings::check(HttpServerConfig::at("127.0.0.1:0")).unwrap(), &request.into_parts().0)
    }

    #[test]
    fn a_key_is_one_of_its_method_and_path() {
        let first = key_of(Method::POST, "/orders?a=1", "k").unwrap().unwrap();
        assert!(first.starts_with("k@") && first.len() == 18, "{first}");
        assert_eq!(key_of(Method::POST, "/orders", "k").unwrap().unwrap(), first);
        assert_ne!(key_of(Method::PUT, "/orders", "k").unwrap().unwrap(), first);
        assert_ne!(key_of(Method::POST, "/refunds", "k").unwrap().unwrap(), first);
    }

    #[test]
    fn a_wrong_key_is_refused() {
        for wrong in ["", " ", &"k".repeat(MAX_IDEMPOTENCY_KEY_BYTES + 1), "ä"] {
            assert_eq!(key_of(Method::POST, "/", wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
