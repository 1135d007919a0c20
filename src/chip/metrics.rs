//! Records the instruments of a batch client.

use std::time::Duration;

use metrics::{Label, counter, gauge, histogram};

use crate::chip::answer::outcome::SendError;
use crate::chip::client::config::BatchConfig;
use crate::chip::instruments as names;
use crate::instrument::whole;

/// Outcome of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestStatus {
    Success,
    Partial,
    Failure,
}

impl RequestStatus {
    fn label(self) -> Label {
        let status = match self {
            RequestStatus::Success => "success",
            RequestStatus::Partial => "partial",
            RequestStatus::Failure => "failure",
        };
        Label::from_static_parts("status", status)
    }
}

/// The instruments of a batch client.
#[derive(Debug, Clone)]
pub(crate) struct BatchMetrics {
    client: Vec<Label>,
}

impl BatchMetrics {
    pub(crate) fn new(client_name: Option<&str>) -> Self {
        BatchMetrics { client: client_label(client_name) }
    }

    fn with(&self, labels: impl IntoIterator<Item = Label>) -> Vec<Label> {
        self.client.iter().cloned().chain(labels).collect()
    }

    pub(crate) fn config_info(&self, config: &BatchConfig) {
        let millis = |duration: Duration| duration.as_millis().to_string();
        let labels = self.with([
            Label::new("max_batch_size", config.batch_size.to_string()),
            Label::new("message_buffer_size", config.message_buffer.to_string()),
            Label::new("max_concurrent_sends", config.max_concurrent_sends.to_string()),
            Label::new("batch_interval_ms", millis(config.batch_interval)),
            Label::new("max_publish_timeout_ms", millis(config.publish_timeout)),
            Label::new("shutdown_timeout_ms", millis(config.shutdown_timeout)),
            Label::new("clone_event", "false"),
            Label::new("transaction_enabled", config.transaction_enabled.to_string()),
            Label::new("max_grpc_request_size_bytes", config.request_limit().to_string()),
        ]);
        gauge!(names::BATCH_CONFIG, labels).set(1.0);
    }

    /// Counts a request.
    pub(crate) fn request(
        &self,
        status: RequestStatus,
        events: usize,
        bytes: usize,
        took: Duration,
        config: &BatchConfig,
    ) {
        counter!(names::BATCH_REQUESTS, self.with([status.label()])).increment(1);
        histogram!(names::BATCH_LATENCY, self.with([status.label()])).record(took.as_secs_f64() * 1000.0);
        let size = Label::new("max_batch_size", config.batch_size.to_string());
        histogram!(names::BATCH_MESSAGES, self.with([size])).record(whole(events));
        let limit = Label::new("max_grpc_request_size_bytes", config.request_limit().to_string());
        histogram!(names::BATCH_BYTES, self.with([limit])).record(whole(bytes));
    }

    /// Counts a request that was too large to be made.
    pub(crate) fn not_sent(&self, events: usize, bytes: usize, config: &BatchConfig) {
        self.request(RequestStatus::Failure, events, bytes, Duration::ZERO, config);
    }

    pub(crate) fn split(&self) {
        counter!(names::BATCH_SPLITS, self.client.clone()).increment(1);
    }

    /// Counts an opening of the breaker for an error, if it opened.
    pub(crate) fn opened(&self, opened: bool, error: &SendError) {
        if opened {
            counter!(names::BREAKER_OPENED, self.with([Label::new("code", error.code())])).increment(1);
        }
    }

    pub(crate) fn mismatch(&self) {
        counter!(names::BATCH_MISMATCH, self.client.clone()).increment(1);
    }
}

/// Returns the label of a client; none without a name.
pub(crate) fn client_label(name: Option<&str>) -> Vec<Label> {
    name.map(|name| Label::new("client_name", name.to_owned())).into_iter().collect()
}
