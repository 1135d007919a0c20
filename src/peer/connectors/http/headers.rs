//! Headers in settings and envelopes: their names, their values, and those that nobody may set.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::error::HttpError;

/// Most header lines of an envelope.
pub const MAX_ENVELOPE_HEADERS: usize = 64;

/// Most headers that a setting may list.
pub const MAX_LISTED_HEADERS: usize = 32;

/// Headers of one connection (RFC 9110 §7.6.1), and those that say where a message ends.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers of an envelope: a name has one value, or a list of them.
pub(super) type Headers = BTreeMap<String, Values>;

/// The value of a header, or its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Values {
    /// One line.
    One(String),
    /// Several lines of the same name.
    Many(Vec<String>),
}

impl Values {
    fn lines(&self) -> &[String] {
        match self {
            Values::One(line) => std::slice::from_ref(line),
            Values::Many(lines) => lines,
        }
    }
}

/// Returns whether the header belongs to one connection, so that neither settings nor events may set it.
pub(super) fn is_of_the_connection(name: &HeaderName) -> bool {
    OF_THE_CONNECTION.contains(&name.as_str())
}

/// Reads the headers of an envelope. `is_taken` tells which other names the envelope may not set.
pub(super) fn read(given: &Headers, is_taken: impl Fn(&HeaderName) -> bool) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for (name, values) in given {
        let refused = |problem: &str| HttpError::part("headers", format!("{name:?} {problem}"));
        let parsed: HeaderName = name.parse().map_err(|_| refused("is no name of a header"))?;
        if is_of_the_connection(&parsed) || is_taken(&parsed) {
            return Err(refused("is not the event's to set"));
        }
        for line in values.lines() {
            let value = HeaderValue::from_str(line).map_err(|_| refused("has a value with control characters"))?;
            headers.append(&parsed, value);
        }
    }
    match headers.len() <= MAX_ENVELOPE_HEADERS {
        true => Ok(headers),
        false => Err(HttpError::part("headers", format!("there are more than {MAX_ENVELOPE_HEADERS}"))),
    }
}

/// Returns the listed headers of a message, as an envelope has them. Values that are no UTF-8 are shown with `U+FFFD`.
pub(super) fn pick(headers: &HeaderMap, listed: &[HeaderName]) -> Headers {
    let mut picked = Headers::new();
    for name in listed {
        let mut lines: Vec<String> = headers.get_all(name).iter().map(text).collect();
        match lines.len() {
            0 => continue,
            1 => picked.insert(name.to_string(), Values::One(lines.remove(0))),
            _ => picked.insert(name.to_string(), Values::Many(lines)),
        };
    }
    picked
}

/// Returns the value of a header as a text.
pub(super) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Returns whether a content type is JSON: `application/json`, or one that ends with `+json`.
pub(super) fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let Some(text) = content_type.and_then(|value| value.to_str().ok()) else { return false };
    let essence = text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// Reads a list of names from the settings.
pub(super) fn names(listed: &[String]) -> Result<Vec<HeaderName>, String> {
    if listed.len() > MAX_LISTED_HEADERS {
        return Err(format!("headers lists {} names, over the limit of {MAX_LISTED_HEADERS}", listed.len()));
    }
    listed.iter().map(|name| name.parse().map_err(|_| format!("{name:?} is no name of a header"))).collect()
}

/// Returns the key of a header for the mapping. It lives as long as the process, because keys of fields are static; the
/// settings list few.
pub(super) fn field_of(name: &HeaderName) -> &'static str {
    Box::leak(format!("header.{name}").into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Headers {
        Headers::from([(name.to_owned(), Values::One(value.to_owned()))])
    }

    #[test]
    fn headers_of_the_connection_are_refused() {
        for name in OF_THE_CONNECTION.into_iter().chain(["Transfer-Encoding", "CONNECTION", "host"]) {
            assert!(read(&one(name, "x"), |name| name == http::header::HOST).is_err(), "{name}");
        }
        assert_eq!(read(&one("x-tenant", "a"), |_| false).unwrap().len(), 1);
    }

    #[test]
    fn a_value_cannot_begin_another_header() {
        for value in ["a\r\nx-admin: yes", "a\nb", "a\0b"] {
            assert!(read(&one("x-tenant", value), |_| false).is_err(), "{value:?}");
        }
        for name in ["", "a b", "a:b", "a\r\nb", "ä"] {
            assert!(read(&one(name, "x"), |_| false).is_err(), "{name:?}");
        }
    }

    #[test]
    fn several_lines_of_one_name_are_kept() {
        let cookies = Values::Many(vec!["a=1".to_owned(), "b=2".to_owned()]);
        let headers = read(&Headers::from([("set-cookie".to_owned(), cookies.clone())]), |_| false).unwrap();
        assert_eq!(pick(&headers, &[http::header::SET_COOKIE])["set-cookie"], cookies);
        let many = Values::Many(vec![String::new(); MAX_ENVELOPE_HEADERS + 1]);
        assert!(read(&Headers::from([("x".to_owned(), many)]), |_| false).is_err());
    }

    #[test]
    fn json_is_known_by_its_type() {
        for (text, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/cloudevents+json", true),
            ("text/plain", false),
            ("application/jsonp", false),
        ] {
            assert_eq!(is_json(Some(&HeaderValue::from_str(text).unwrap())), expected, "{text}");
        }
        assert!(!is_json(None));
    }
}
