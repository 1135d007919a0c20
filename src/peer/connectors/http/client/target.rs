//! What a request goes to: a method, and a path below the declared endpoint. An event cannot leave the endpoint.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use serde_json::value::RawValue;

use super::config::Settings;
use crate::peer::OutgoingEvent;
use crate::peer::connectors::http::envelope::{self, RequestOut};
use crate::peer::connectors::http::error::HttpError;
use crate::peer::connectors::http::{Format, headers};

/// Header with the id of the event.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request, ready to be sent.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) request: Request<Full<Bytes>>,
    /// What the event gives to the event of its response.
    pub(super) correlation: Option<Box<RawValue>>,
}

impl Outbound {
    /// Returns method and URL, for errors; without the query, which may hold secrets.
    pub(super) fn describe(&self) -> String {
        let uri = self.request.uri();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        format!("{} {}://{authority}{}", self.request.method(), uri.scheme_str().unwrap_or("http"), uri.path())
    }
}

/// Makes the request of an event.
pub(super) fn request(event: &OutgoingEvent, settings: &Settings) -> Result<Outbound, HttpError> {
    let id = event.event.id().to_string();
    match settings.config.request_format {
        Format::Raw => {
            let body = event.encoded.concat().into();
            let (method, uri) = (settings.method.clone(), uri(settings, &settings.config.path, None)?);
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, settings.content_type.clone())]);
            Ok(Outbound { request: assemble(settings, &id, method, uri, headers, body), correlation: None })
        }
        Format::Envelope => of_envelope(event.event.value(), &id, settings),
    }
}

fn of_envelope(value: &[u8], id: &str, settings: &Settings) -> Result<Outbound, HttpError> {
    let envelope: RequestOut = envelope::read(value)?;
    let method = envelope.method.as_deref().map_or_else(|| Ok(settings.method.clone()), method)?;
    let uri = uri(settings, envelope.path.as_deref().unwrap_or(&settings.config.path), envelope.query.as_deref())?;
    let mut headers = headers::read(&envelope.headers, |name| is_taken(settings, name))?;
    let body = envelope.body()?;
    if !body.bytes.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, if body.is_json { json } else { settings.content_type.clone() });
    }
    let request = assemble(settings, id, method, uri, headers, body.bytes);
    Ok(Outbound { request, correlation: envelope.correlation })
}

/// Returns whether a header is not the event's to set: it would name another host, or replace what is declared.
fn is_taken(settings: &Settings, name: &HeaderName) -> bool {
    let is_key = settings.config.idempotency_key && *name == IDEMPOTENCY_KEY;
    *name == HOST || *name == AUTHORIZATION || is_key || settings.fixed.contains_key(name)
}

fn assemble(
    settings: &Settings,
    id: &str,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Request<Full<Bytes>> {
    headers.extend(settings.fixed.clone());
    if let Some(id) = HeaderValue::from_str(id).ok().filter(|_| settings.config.idempotency_key) {
        headers.insert(IDEMPOTENCY_KEY, id);
    }
    let mut request = Request::new(Full::new(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
    request
}

/// Reads a method. `CONNECT` and `TRACE` are for proxies.
pub(super) fn method(text: &str) -> Result<Method, HttpError> {
    let refused = || HttpError::part("method", format!("{text:?} is no method that a client may use"));
    let method: Method = text.parse().map_err(|_| refused())?;
    match method == Method::CONNECT || method == Method::TRACE {
        true => Err(refused()),
        false => Ok(method),
    }
}

/// Returns the URL below the endpoint.
fn uri(settings: &Settings, path: &str, query: Option<&str>) -> Result<Uri, HttpError> {
    let endpoint = &settings.endpoint;
    if !path.is_empty() {
        check_path(path)?;
    }
    let mut target = format!("{}{path}", endpoint.base);
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        check_query(query)?;
        target.push('?');
        target.push_str(query);
    }
    let built = Uri::builder().scheme(endpoint.scheme.clone()).authority(endpoint.authority.clone());
    let uri = built.path_and_query(target).build().map_err(|_| HttpError::part("path", "it is no path of a URL"))?;
    // Whatever the checks missed, no event names a host.
    match uri.authority() == Some(&endpoint.authority) && uri.path().starts_with(&endpoint.base) {
        true => Ok(uri),
        false => Err(HttpError::part("path", "it leaves the declared endpoint")),
    }
}

/// Checks a path: it begins with one slash, stays below the endpoint, and has no part of another URL.
pub(super) fn check_path(path: &str) -> Result<(), HttpError> {
    let refused = |problem: &str| Err(HttpError::part("path", problem));
    if !path.starts_with('/') {
        return refused("begin it with a slash; the endpoint is declared, and an event does not name it");
    }
    if path.starts_with("//") {
        return refused("it begins with two slashes, as if it named a host");
    }
    if path.contains(['\\', '?', '#']) || path.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
        return refused("it has a backslash, a question mark, a hash, a space or a control character: use %XX");
    }
    if !path.is_ascii() {
        return refused("it has characters that are not ASCII: use %XX");
    }
    let is_dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    // Servers may take these for slashes too.
    let decoded = path.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    match decoded.split('/').any(is_dots) {
        true => refused("it has a segment . or .., which would leave the endpoint"),
        false => Ok(()),
    }
}

fn check_query(query: &str) -> Result<(), HttpError> {
    let is_fine = query.chars().all(|letter| letter.is_ascii_graphic() && !['#', '\\'].contains(&letter));
    match is_fine {
        true => Ok(()),
        false => Err(HttpError::part("query", "it has characters that no query has: use %XX")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::HttpClientConfig;
    use super::*;

    fn settings(endpoint: &str) -> Settings {
        let mut config = HttpClientConfig::to(endpoint);
        config.request_format = Format::Envelope;
        config.token = Some(crate::peer::connectors::Token::text("token"));
        Settings::check(config).unwrap()
    }

    fn made(value: &str) -> Result<Outbound, HttpError> {
        of_envelope(value.as_bytes(), "id-1", &settings("https://hooks.example:8443/in"))
    }

    #[test]
    fn an_envelope_is_a_request_to_the_endpoint() {
        let made = made(
            r#"{"method":"PUT","path":"/a%20b/c","query":"x=1&y=/","headers":{"x-a":"b"},
                "body":{"n":1},"correlation":[7]}"#,
        )
        .unwrap();
        assert_eq!(made.describe(), "PUT https://hooks.example:8443/in/a%20b/c");
        assert_eq!(made.request.uri().query(), Some("x=1&y=/"));
        let headers = made.request.headers();
        assert!(headers["x-a"] == "b" && headers["content-type"] == "application/json");
        assert!(headers["authorization"] == "Bearer token" && headers["idempotency-key"] == "id-1");
        assert_eq!(made.correlation.unwrap().get(), "[7]");
    }

    #[test]
    fn what_an_envelope_does_not_name_is_declared() {
        let made = of_envelope(b"{}", "id-1", &settings("http://127.0.0.1:80")).unwrap();
        assert_eq!(made.describe(), "POST http://127.0.0.1:80/");
    }

    /// Bad input: no event names an endpoint.
    #[test]
    fn an_event_cannot_leave_its_endpoint() {
        for path in [
            "//elsewhere/x",
            "http://elsewhere/",
            "https://hooks.example:8443/in",
            "elsewhere",
            "@elsewhere/",
            ":80/",
            "/\\elsewhere",
            "\\\\elsewhere",
            "/../admin",
            "/a/../../admin",
            "/%2e%2e/admin",
            "/.%2E/admin",
            "/a%2f..%2fadmin",
            "/a%5c..%5cadmin",
            "/./a",
            "/a?b=c",
            "/a#b",
            "/a b",
            "/a\r\nhost: elsewhere",
            "/ä",
        ] {
            let value = serde_json::json!({ "path": path }).to_string();
            assert!(matches!(made(&value), Err(HttpError::Part { part: "path", .. })), "{path}");
        }
        for value in [
            r#"{"url":"http://elsewhere/"}"#,
            r#"{"host":"elsewhere"}"#,
            r#"{"headers":{"Host":"elsewhere"}}"#,
            r#"{"headers":{"authorization":"Bearer other"}}"#,
            r#"{"headers":{"idempotency-key":"mine"}}"#,
            r#"{"headers":{"transfer-encoding":"chunked"}}"#,
            r#"{"headers":{"proxy-authorization":"x"}}"#,
            r#"{"method":"CONNECT"}"#,
            r#"{"method":"GET /x HTTP/1.1\r\nhost: elsewhere\r\n\r\nGET"}"#,
            r#"{"query":"a b"}"#,
            r##"{"query":"a#b"}"##,
        ] {
            assert!(made(value).is_err(), "{value}");
        }
    }
}
