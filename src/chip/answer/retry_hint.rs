//! Pause that a server asks for: `RetryInfo` in the details of a status, or `retry-after` in its metadata.

use std::time::{Duration, SystemTime};

use prost::Message;
use tonic::Status;

use crate::clock;

/// Longest pause that a server can ask for. A longer one is cut.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Type of the detail with the pause.
const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// Metadata of HTTP with the pause.
const RETRY_AFTER: &str = "retry-after";

/// The part of `google.rpc.Status` that is read.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// Returns the pause that the server asked for, at most [`MAX_RETRY_AFTER`]; `None` when it asked for none.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    let wait = from_details(status.details()).or_else(|| {
        let value = status.metadata().get(RETRY_AFTER)?.to_str().ok()?;
        from_header(value.trim(), clock::now())
    })?;
    Some(wait.min(MAX_RETRY_AFTER))
}

fn from_details(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let info = status.details.iter().find(|any| any.type_url.rsplit('/').next() == Some(RETRY_INFO))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Duration::try_from(delay).ok()
}

/// Reads seconds, with a fraction or without, or a date of HTTP.
fn from_header(value: &str, now: SystemTime) -> Option<Duration> {
    match value.parse::<f64>() {
        Ok(seconds) if !seconds.is_finite() => None,
        Ok(seconds) => Duration::try_from_secs_f64(seconds.min(MAX_RETRY_AFTER.as_secs_f64())).ok(),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn with_info(seconds: i64, nanos: i32) -> Status {
        let info = RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos }) };
        let any = |type_url: &str, value: Vec<u8>| prost_types::Any { type_url: type_url.to_owned(), value };
        let details = RpcStatus {
            details: vec![
                any("type.googleapis.com/google.rpc.Help", Vec::new()),
                any("type.googleapis.com/google.rpc.RetryInfo", info.encode_to_vec()),
            ],
        };
        Status::with_details(Code::Unavailable, "busy", details.encode_to_vec().into())
    }

    fn with_header(value: &str) -> Status {
        let mut status = Status::unavailable("busy");
        status.metadata_mut().insert(RETRY_AFTER, value.parse().unwrap());
        status
    }

    #[test]
    fn both_ways_of_asking_are_understood() {
        assert_eq!(retry_after(&with_info(3, 500_000_000)), Some(Duration::from_millis(3_500)));
        assert_eq!(retry_after(&with_header("7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&with_header("0.5")), Some(Duration::from_millis(500)));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_420);
        assert_eq!(from_header("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(from_header("Wed, 21 Oct 2015 07:26:00 GMT", now), Some(Duration::ZERO));
    }

    #[test]
    fn a_hint_that_is_no_wait_is_none_and_a_long_one_is_cut() {
        assert_eq!(retry_after(&Status::unavailable("busy")), None);
        for wrong in ["soon", "-1", "NaN", ""] {
            assert_eq!(retry_after(&with_header(wrong)), None, "{wrong}");
        }
        assert_eq!(retry_after(&with_info(-3, 0)), None);
        assert_eq!(retry_after(&Status::with_details(Code::Internal, "x", vec![0xff; 9].into())), None);
        for long in [with_info(1 << 40, 0), with_header("1e300"), with_header("100000")] {
            assert_eq!(retry_after(&long), Some(MAX_RETRY_AFTER));
        }
    }
}
