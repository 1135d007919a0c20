//! The script and the style sheet.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};

type File = ([(HeaderName, HeaderValue); 1], &'static str);

pub(super) async fn script() -> File {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"))], include_str!("../static/app.js"))
}

pub(super) async fn styles() -> File {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], include_str!("../static/app.css"))
}
