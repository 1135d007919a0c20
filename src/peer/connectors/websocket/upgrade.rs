//! The upgrade of a connection to WebSocket: who is let in.

use std::time::Duration;

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, ORIGIN, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE,
};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::peer::connectors::token::Expected;
use crate::peer::connectors::wire::Wire;

/// Whom a server lets in.
pub(super) struct Door {
    pub(super) path: Option<String>,
    pub(super) origins: Vec<String>,
    pub(super) token: Option<Expected>,
    pub(super) subprotocol: Option<HeaderValue>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The request is not for WebSocket.
    #[error("the other side sent no WebSocket request over plain HTTP; it may speak TLS")]
    NoHttp,
    /// The server refused.
    #[error("the WebSocket request was refused with status {0}")]
    Refused(StatusCode),
    /// The request breaks the protocol, or the connection broke.
    #[error("the WebSocket request failed")]
    Failed(#[source] WsError),
    /// The client is too slow.
    #[error("the WebSocket request was not complete within {0:?}")]
    Slow(Duration),
}

impl Door {
    /// Runs the upgrade. Returns the connection and the path that the client asked for.
    pub(super) async fn open(
        &self,
        wire: Wire,
        config: WebSocketConfig,
        limit: Duration,
    ) -> Result<(WebSocketStream<Wire>, String), UpgradeError> {
        let mut path = String::new();
        let callback = Asked { door: self, path: &mut path };
        let upgrade = Box::pin(accept_hdr_async_with_config(wire, callback, Some(config)));
        match timeout(limit, upgrade).await {
            Ok(Ok(socket)) => Ok((socket, path)),
            Ok(Err(WsError::Http(response))) => Err(UpgradeError::Refused(response.status())),
            Ok(Err(WsError::Protocol(ProtocolError::HttparseError(_)))) => Err(UpgradeError::NoHttp),
            Ok(Err(error)) => Err(UpgradeError::Failed(error)),
            Err(_) => Err(UpgradeError::Slow(limit)),
        }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if self.path.as_ref().is_some_and(|wanted| wanted != path) {
            return Err((StatusCode::NOT_FOUND, "there is nothing at this path\n"));
        }
        let has_origin = || text(ORIGIN).is_some_and(|origin| self.origins.iter().any(|wanted| wanted == origin));
        if !self.origins.is_empty() && !has_origin() {
            return Err((StatusCode::FORBIDDEN, "pages of this origin may not connect\n"));
        }
        if self.token.as_ref().is_some_and(|token| !token.is_in(text(AUTHORIZATION))) {
            return Err((StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer with the token\n"));
        }
        if self.subprotocol.as_ref().is_some_and(|wanted| !is_offered(headers, wanted)) {
            return Err((StatusCode::BAD_REQUEST, "offer the subprotocol of this endpoint\n"));
        }
        Ok(())
    }
}

fn is_offered(headers: &HeaderMap, wanted: &HeaderValue) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim().as_bytes() == wanted.as_bytes())
}

/// A request to a door.
struct Asked<'a> {
    door: &'a Door,
    path: &'a mut String,
}

impl Callback for Asked<'_> {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        match self.door.check(request.uri().path(), request.headers()) {
            Ok(()) => {
                request.uri().path().clone_into(self.path);
                if let Some(subprotocol) = &self.door.subprotocol {
                    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
                }
                Ok(response)
            }
            Err((status, text)) => Err(refusal(status, text)),
        }
    }
}

fn refusal(status: StatusCode, text: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"eventbox\""));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(HeaderName, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn each_condition_has_its_status() {
        let door = Door {
            path: Some("/events".to_owned()),
            origins: vec!["https://shop.example".to_owned()],
            token: Some(Expected::new("secret")),
            subprotocol: Some(HeaderValue::from_static("v2")),
        };
        let all =
            [(ORIGIN, "https://shop.example"), (AUTHORIZATION, "Bearer secret"), (SEC_WEBSOCKET_PROTOCOL, "v1, v2")];
        assert!(door.check("/events", &headers(&all)).is_ok());
        let status = |path: &str, list: &[(HeaderName, &'static str)]| door.check(path, &headers(list)).unwrap_err().0;
        assert_eq!(status("/other", &all), StatusCode::NOT_FOUND);
        assert_eq!(status("/events", &all[1..]), StatusCode::FORBIDDEN);
        assert_eq!(status("/events", &[all[0].clone(), all[2].clone()]), StatusCode::UNAUTHORIZED);
        assert_eq!(status("/events", &all[..2]), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn an_open_door_asks_for_nothing() {
        let door = Door { path: None, origins: Vec::new(), token: None, subprotocol: None };
        assert!(door.check("/anything", &HeaderMap::new()).is_ok());
    }
}
