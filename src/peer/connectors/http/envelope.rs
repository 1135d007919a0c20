//! The envelopes: a request or a response as a JSON object, with a body that is JSON, a text, or base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::HttpError;
use super::headers::Headers;

/// A request that came in, as the value of an event.
#[derive(Debug, Serialize)]
pub(super) struct RequestIn<'a> {
    pub(super) request: u64,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) query: Option<&'a str>,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub(super) headers: Headers,
    #[serde(flatten)]
    pub(super) content: Content,
}

/// The answer to a request that came in, written by the code of the recipient.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResponseOut {
    pub(super) request: Option<u64>,
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) headers: Headers,
    body: Option<Box<RawValue>>,
    body_base64: Option<String>,
}

/// A request to make, written by the code of a recipient.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestOut {
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) query: Option<String>,
    #[serde(default)]
    pub(super) headers: Headers,
    body: Option<Box<RawValue>>,
    body_base64: Option<String>,
    pub(super) correlation: Option<Box<RawValue>>,
}

/// The response to a request that was made, as the value of an event.
#[derive(Debug, Serialize)]
pub(super) struct ResponseIn<'a> {
    pub(super) request: String,
    pub(super) status: u16,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub(super) headers: Headers,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation: Option<&'a RawValue>,
    #[serde(flatten)]
    pub(super) content: Content,
}

/// A body in an envelope. JSON stands in it byte by byte, so that no number loses digits.
#[derive(Debug, Default, Serialize)]
pub(super) struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl Content {
    /// Embeds a body: as JSON when it is said to be JSON and is, else as a text, else in base64.
    pub(super) fn of(bytes: &[u8], is_json: bool) -> Self {
        if bytes.is_empty() {
            return Content::default();
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Content { body: None, body_base64: Some(STANDARD.encode(bytes)) };
        };
        let json = is_json.then(|| RawValue::from_string(text.trim().to_owned()).ok()).flatten();
        let body = json.or_else(|| serde_json::value::to_raw_value(text).ok());
        Content { body, body_base64: None }
    }
}

/// A body that an envelope contains.
#[derive(Debug, PartialEq)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    /// Whether the bytes are a JSON value of the envelope.
    pub(super) is_json: bool,
}

impl ResponseOut {
    pub(super) fn body(&self) -> Result<Body, HttpError> {
        extract(self.body.as_deref(), self.body_base64.as_deref())
    }
}

impl RequestOut {
    pub(super) fn body(&self) -> Result<Body, HttpError> {
        extract(self.body.as_deref(), self.body_base64.as_deref())
    }
}

/// Reads the value of an event as an envelope.
pub(super) fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(value).map_err(|source| HttpError::Envelope { source })
}

/// Returns the bytes of a body: of a JSON text its characters, of another JSON value its text in JSON.
fn extract(body: Option<&RawValue>, base64: Option<&str>) -> Result<Body, HttpError> {
    let refused = |problem: &str| HttpError::part("body", problem);
    match (body, base64) {
        (Some(_), Some(_)) => Err(refused("there is a body and a body_base64: give one of them")),
        (None, None) => Ok(Body { bytes: Bytes::new(), is_json: false }),
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).map_err(|_| refused("body_base64 is no base64"))?;
            Ok(Body { bytes: bytes.into(), is_json: false })
        }
        (Some(json), None) if json.get().starts_with('"') => {
            let text: String = serde_json::from_str(json.get()).map_err(|source| HttpError::Envelope { source })?;
            Ok(Body { bytes: text.into(), is_json: false })
        }
        (Some(json), None) => Ok(Body { bytes: json.get().to_owned().into(), is_json: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(bytes: &[u8], is_json: bool) -> String {
        serde_json::to_string(&Content::of(bytes, is_json)).unwrap()
    }

    #[test]
    fn a_body_is_embedded_by_its_content() {
        assert_eq!(embedded(b"", true), "{}");
        assert_eq!(embedded(b"{\"id\":12345678901234567890123}", true), r#"{"body":{"id":12345678901234567890123}}"#);
        assert_eq!(embedded(b"{\"id\":1", true), r#"{"body":"{\"id\":1"}"#);
        assert_eq!(embedded(b"12", false), r#"{"body":"12"}"#);
        assert_eq!(embedded(&[0xff, 0], true), r#"{"body_base64":"/wA="}"#);
    }

    #[test]
    fn a_body_is_extracted_as_it_was_written() {
        let answer: ResponseOut = read(br#"{"body":{"b":1e400,"a":"x"}}"#).unwrap();
        assert_eq!(answer.body().unwrap(), Body { bytes: r#"{"b":1e400,"a":"x"}"#.into(), is_json: true });
        let answer: ResponseOut = read(br#"{"body":"a\nb","status":201,"request":7}"#).unwrap();
        assert_eq!(answer.body().unwrap(), Body { bytes: "a\nb".into(), is_json: false });
        assert_eq!((answer.status, answer.request), (Some(201), Some(7)));
        let answer: ResponseOut = read(br#"{"body_base64":"/wA="}"#).unwrap();
        assert_eq!(answer.body().unwrap().bytes, [0xff, 0].as_slice());
    }

    #[test]
    fn a_wrong_envelope_is_refused() {
        for wrong in [r#"{"body":1,"body_base64":""}"#, r#"{"body_base64":"%"}"#] {
            assert!(read::<ResponseOut>(wrong.as_bytes()).unwrap().body().is_err(), "{wrong}");
        }
        for wrong in ["", "[", "[]", "7", r#"{"url":"http://elsewhere/"}"#, r#"{"headers":{"a":1}}"#] {
            assert!(read::<RequestOut>(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
