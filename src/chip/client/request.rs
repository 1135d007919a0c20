//! One request: through the breaker, within its deadline, repeated once with new credentials, counted and logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::chip::answer::outcome::{EventErrorCode, RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::breaker::{Breaker, Pass};
use crate::chip::client::config::{BatchConfig, EmptyResults};
use crate::chip::client::failures::Failures;
use crate::chip::client::isolate::{field_bytes, request_bytes};
use crate::chip::client::queue::Queued;
use crate::chip::client::seqnum::Sequences;
use crate::chip::client::sizing::Sizing;
use crate::chip::metrics::{BatchMetrics, RequestStatus};
use crate::chip::transport::Transport;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::proto::chipingress::pb::{CloudEventBatch, PublishOptions, PublishResponse};
use crate::proto::io::cloudevents::v1::CloudEvent as Wire;

/// Sends single requests over a transport.
pub(crate) struct Requests {
    transport: Arc<dyn Transport>,
    config: BatchConfig,
    breaker: Breaker,
    abandoned: CancellationToken,
    metrics: BatchMetrics,
    failures: Arc<Failures>,
    pub(crate) sizing: Sizing,
    /// Requests that the server took.
    pub(crate) taken: AtomicU64,
    /// Bytes of the largest of them; 0 when a limit of the server may have changed since.
    pub(crate) largest_taken: AtomicUsize,
    warned_of_empty: AtomicBool,
    sequences: Arc<Sequences>,
}

/// Result of a request, with its pass; without a pass no request was made.
pub(crate) struct Answer<T> {
    pub(crate) result: Result<T, SendError>,
    pub(crate) pass: Option<Pass>,
}

impl<T> Answer<T> {
    fn not_made(error: SendError) -> Self {
        Answer { result: Err(error), pass: None }
    }
}

impl Requests {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        config: BatchConfig,
        breaker: Breaker,
        abandoned: CancellationToken,
        metrics: BatchMetrics,
        sequences: Arc<Sequences>,
    ) -> Self {
        let failures = Arc::new(Failures::new(transport.destination()));
        Requests {
            transport,
            sizing: Sizing::new(config.batch_size.get()),
            config,
            breaker,
            abandoned,
            metrics,
            failures,
            taken: AtomicU64::new(0),
            largest_taken: AtomicUsize::new(0),
            warned_of_empty: AtomicBool::new(false),
            sequences,
        }
    }

    pub(crate) fn config(&self) -> &BatchConfig {
        &self.config
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub(crate) fn metrics(&self) -> &BatchMetrics {
        &self.metrics
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(crate) fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    fn options(&self) -> PublishOptions {
        PublishOptions { transaction_enabled: Some(self.config.transaction_enabled) }
    }

    pub(crate) fn options_bytes(&self) -> usize {
        field_bytes(self.options().encoded_len())
    }

    /// Sends events in one request.
    pub(crate) async fn request(
        &self,
        mut piece: Vec<Queued>,
        may_refresh: bool,
    ) -> (Vec<Queued>, Answer<Vec<Result<(), SendError>>>) {
        let Some(pass) = self.breaker.pass() else {
            return (piece, Answer::not_made(SendError::CircuitOpen));
        };
        let bytes = request_bytes(self.options_bytes(), &piece);
        let events = piece.iter_mut().filter_map(|queued| queued.event.take()).map(CloudEvent::into_wire).collect();
        let batch = CloudEventBatch { events, options: Some(self.options()) };
        let answer = self.answered(Call::Batch(&batch), bytes, may_refresh).await;
        let result = answer.map(|response| self.results(&batch, response));
        for (queued, event) in piece.iter_mut().zip(batch.events) {
            queued.event = Some(CloudEvent::trusted(event));
        }
        (piece, Answer { result, pass: Some(pass) })
    }

    /// Sends one event by the unary call, under a new number.
    pub(crate) async fn send_alone(&self, mut event: CloudEvent) -> (CloudEvent, Result<(), SendError>) {
        self.sequences.stamp(&mut event);
        let Some(pass) = self.breaker.pass() else { return (event, Err(SendError::CircuitOpen)) };
        let bytes = event.encoded_len();
        let wire = event.into_wire();
        let answer = self.answered(Call::Alone(&wire), bytes, true).await;
        let result = answer.and_then(|response| {
            let result = result_of(response);
            self.log_refused(std::slice::from_ref(&result));
            result
        });
        self.note(pass, &result, 1);
        (CloudEvent::trusted(wire), result)
    }

    /// Makes a call, and repeats it once with new credentials when the server refused the old ones.
    async fn answered(&self, call: Call<'_>, bytes: usize, may_refresh: bool) -> Result<PublishResponse, SendError> {
        // Both attempts share one deadline, which is before the end of the claims.
        let deadline = from_now(self.config.publish_timeout);
        let mut answer = self.within(deadline, call, bytes).await;
        if let Err(SendError::Status(status)) = &answer
            && may_refresh
            && matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
            && timeout_at(deadline, self.transport.refresh_credentials()).await.is_ok()
        {
            answer = self.within(deadline, call, bytes).await;
        }
        if let Err(error @ SendError::Status(_)) = &answer {
            self.failures.request(error.code(), call.events(), &error.to_string());
        }
        answer
    }

    /// Makes one call of the transport within the deadline.
    async fn within(&self, deadline: Instant, call: Call<'_>, bytes: usize) -> Result<PublishResponse, SendError> {
        let started = Instant::now();
        let limit = deadline.saturating_duration_since(started);
        let late = || Status::deadline_exceeded("the request took longer than publish_timeout");
        let answer = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => return Err(SendError::Shutdown),
            answer = timeout_at(deadline, call.make(&*self.transport, limit)) => answer.unwrap_or_else(|_| Err(late())),
        };
        // The channel has the same deadline, and reports it under another code.
        let answer = answer.map_err(|status| match status.code() {
            Code::Cancelled if Instant::now() + CLOCK_GRAIN >= deadline => late(),
            _ => status,
        });
        let status = match &answer {
            Ok(response) if response.results.iter().any(|result| result.error.is_some()) => RequestStatus::Partial,
            Ok(_) => RequestStatus::Success,
            Err(_) => RequestStatus::Failure,
        };
        self.metrics.request(status, call.events(), bytes, started.elapsed(), &self.config);
        if answer.is_ok() {
            self.taken.fetch_add(1, Ordering::Relaxed);
            self.largest_taken.fetch_max(bytes, Ordering::Relaxed);
            self.sizing.answered(call.events(), started.elapsed(), self.config.publish_timeout);
        }
        answer.map_err(SendError::Status)
    }

    /// Returns the result of each event, by position.
    fn results(&self, batch: &CloudEventBatch, response: PublishResponse) -> Vec<Result<(), SendError>> {
        let (wanted, got) = (batch.events.len(), response.results.len());
        if self.config.transaction_enabled {
            return vec![Ok(()); wanted];
        }
        let renamed =
            response.results.iter().zip(&batch.events).any(|(result, event)| {
                !result.event_id.is_empty() && !event.id.is_empty() && result.event_id != event.id
            });
        if got != wanted || renamed {
            self.metrics.mismatch();
            let empty = got == 0 && self.config.empty_results == EmptyResults::Success;
            if !empty || !self.warned_of_empty.swap(true, Ordering::Relaxed) {
                tracing::warn!(wanted, got, renamed, "the results of a batch do not match its events");
            }
            if empty {
                return vec![Ok(()); wanted];
            }
        }
        let mut results: Vec<_> = response
            .results
            .into_iter()
            .take(wanted)
            .map(|result| match result.error {
                None => Ok(()),
                Some(error) => Err(SendError::Event { code: EventErrorCode(error.error_code), reason: error.reason }),
            })
            .collect();
        results.resize_with(wanted, || {
            let reason = format!("server returned {got} results for {wanted} events");
            Err(SendError::Event { code: EventErrorCode::RESULTS_MISMATCH, reason })
        });
        self.log_refused(&results);
        results
    }

    /// Logs the events that the server refused, by their codes.
    fn log_refused(&self, results: &[Result<(), SendError>]) {
        let mut refused = BTreeMap::new();
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            refused.entry(error.code()).or_insert((0, error)).0 += 1;
        }
        for (code, (events, error)) in refused {
            self.failures.events(code, events, &error.to_string());
        }
    }

    /// Notes that the destination answers. After an outage requests begin small.
    pub(crate) fn took(&self, pass: Pass) {
        if pass.success() {
            self.sizing.restart();
        }
    }

    /// Notes the result of a request with this number of events for the breaker and for the size of requests.
    pub(crate) fn note<T>(&self, pass: Pass, result: &Result<T, SendError>, events: usize) {
        let error = match result {
            Ok(_) | Err(SendError::Event { .. }) => {
                return self.took(pass);
            }
            Err(error) => error,
        };
        match error.refusal() {
            Refusal::NotMade => return drop(pass),
            Refusal::Event => return self.took(pass),
            Refusal::Slow => self.sizing.late(events),
            Refusal::Destination | Refusal::SizeOrRate | Refusal::EventOrDestination => self.sizing.failed(events),
        }
        self.breaker.note_error(&error.to_string());
        let opened = match error.retry_after() {
            Some(wait) if error.refusal() == Refusal::Destination => pass.pause(wait),
            _ => {
                let certain = error.refusal() == Refusal::Destination && error.class(false) == RetryClass::Endpoint;
                pass.failure(certain)
            }
        };
        self.metrics.opened(opened, error);
    }
}

/// A call of the transport.
#[derive(Clone, Copy)]
enum Call<'a> {
    Batch(&'a CloudEventBatch),
    Alone(&'a Wire),
}

impl Call<'_> {
    fn events(&self) -> usize {
        match self {
            Call::Batch(batch) => batch.events.len(),
            Call::Alone(_) => 1,
        }
    }

    async fn make(&self, transport: &dyn Transport, limit: Duration) -> Result<PublishResponse, Status> {
        match self {
            Call::Batch(batch) => transport.publish_batch(batch, limit).await,
            Call::Alone(event) => transport.publish(event, limit).await,
        }
    }
}

/// Most by which the channel's deadline may differ from that of this client.
const CLOCK_GRAIN: Duration = Duration::from_millis(20);

/// Returns the result of a unary publish, which may be an error in an OK answer.
fn result_of(response: PublishResponse) -> Result<(), SendError> {
    match response.results.into_iter().next().and_then(|result| result.error) {
        None => Ok(()),
        Some(error) => Err(SendError::Event { code: EventErrorCode(error.error_code), reason: error.reason }),
    }
}
