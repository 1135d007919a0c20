//! The context of a trace: taken from the sender's span, stored with the event, and linked to the span of the turn.
//!
//! Without the feature `opentelemetry` the library only sees spans of `tracing`, which have no context. Events then
//! have only the context that their senders set.

#[cfg(feature = "opentelemetry")]
use std::collections::HashSet;

use super::Event;
use crate::error::Misuse;
use crate::text::shortened;

/// `vv-tttttttttttttttttttttttttttttttt-ssssssssssssssss-ff`
const TRACEPARENT_BYTES: usize = 55;

/// Most spans that a turn's span is linked to: the default limit of the SDK of OpenTelemetry.
#[cfg(feature = "opentelemetry")]
const MAX_LINKS: usize = 128;

/// Parts of a `traceparent`.
#[cfg_attr(not(feature = "opentelemetry"), allow(dead_code, reason = "only a link needs the parts"))]
struct Parts<'a> {
    trace: &'a str,
    span: &'a str,
    flags: &'a str,
}

/// Checks the form of a `traceparent`, and that its version and ids are not the forbidden values.
pub(crate) fn check(traceparent: &str) -> Result<(), Misuse> {
    match parts(traceparent) {
        Some(_) => Ok(()),
        None => Err(Misuse::NotATraceparent { text: shortened(traceparent).to_string() }),
    }
}

fn parts(traceparent: &str) -> Option<Parts<'_>> {
    if traceparent.len() != TRACEPARENT_BYTES {
        return None;
    }
    let mut fields = traceparent.split('-');
    let mut field = |digits: usize| {
        let field = fields.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (field.len() == digits && field.bytes().all(is_hex)).then_some(field)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    (version != "ff" && !is_zero(trace) && !is_zero(span)).then_some(Parts { trace, span, flags })
}

/// Returns the context of the current span.
#[cfg(not(feature = "opentelemetry"))]
pub(crate) fn current() -> Option<String> {
    None
}

/// Returns the context of the current span, also of a span that only OpenTelemetry knows.
#[cfg(feature = "opentelemetry")]
pub(crate) fn current() -> Option<String> {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let mut context = tracing::Span::current().context();
    if !context.span().span_context().is_valid() {
        context = Context::current();
    }
    let span = context.span();
    let span = span.span_context();
    let of = |flags: u8| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    span.is_valid().then(|| of(span.trace_flags().to_u8()))
}

/// Spans that a turn's span is linked to; a retry of the turn links none twice.
#[derive(Debug, Default)]
pub(crate) struct Links {
    #[cfg(feature = "opentelemetry")]
    known: HashSet<Box<str>>,
}

impl Links {
    /// Links the span of the turn to the spans in which these events were emitted.
    #[cfg(not(feature = "opentelemetry"))]
    #[allow(clippy::unused_self, reason = "there is nothing to link")]
    pub(crate) fn add(&mut self, _events: &[Event]) {}

    /// Links the span of the turn to the spans in which these events were emitted, [`MAX_LINKS`] at most. These are
    /// links instead of parents, because a turn has many events and one parent.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn add(&mut self, events: &[Event]) {
        use tracing_opentelemetry::OpenTelemetrySpanExt;

        let turn = tracing::Span::current();
        // When the span of the turn is filtered out, the current one is a span of the caller.
        if turn.metadata().is_none_or(|metadata| metadata.name() != crate::eventbox::turn::TURN_SPAN) {
            return;
        }
        for traceparent in events.iter().filter_map(Event::traceparent) {
            if self.known.len() >= MAX_LINKS {
                return;
            }
            if let Some(context) = parts(traceparent).and_then(|parts| remote(&parts))
                && self.known.insert(traceparent.into())
            {
                turn.add_link(context);
            }
        }
    }
}

#[cfg(feature = "opentelemetry")]
fn remote(parts: &Parts<'_>) -> Option<opentelemetry::trace::SpanContext> {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

    let flags = TraceFlags::new(u8::from_str_radix(parts.flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(parts.trace).ok()?, SpanId::from_hex(parts.span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_recommendation_allows_is_a_traceparent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(check(good).is_ok());
        assert!(check(&good.replace("00-4", "01-4")).is_ok(), "a later version of the same form");
        for bad in [
            String::new(),
            good.to_uppercase(),
            good.replace("00-4", "ff-4"),
            good.replace('-', "_"),
            good.replace("-01", "-0g"),
            format!("{good}-00"),
            format!("{good}\n"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace("3577", "35é"),
            "x".repeat(1 << 20),
        ] {
            let misuse = check(&bad).expect_err(&bad);
            assert!(misuse.to_string().len() < 500, "{misuse}");
        }
    }
}
