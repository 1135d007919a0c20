//! Sending one batch: in parts that fit, each with its results, halved where the server asks for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::batch::{Callback, Sent};
use super::batch_config::{BatchConfig, EmptyResults};
use super::breaker::Breaker;
use super::metrics::{BatchMetrics, RequestStatus};
use super::outcome::{EventErrorCode, RetryClass, SendError};
use super::seqnum::Sequences;
use super::split::{RequestSize, field_bytes, split};
use super::transport::Transport;
use crate::clock::from_now;
use crate::cloudevent::CloudEvent;
use crate::proto::chipingress::pb::{CloudEventBatch, PublishOptions, PublishResponse};

/// An event on its way, with what is to happen when its fate is known. Dropping it is a fate too.
pub(super) struct Work {
    event: Option<CloudEvent>,
    /// The size of the event.
    bytes: usize,
    send_before: Option<Instant>,
    queued_at: Instant,
    callback: Option<Callback>,
}

impl Work {
    pub(super) fn new(event: CloudEvent, send_before: Option<Instant>, callback: Option<Callback>) -> Self {
        let bytes = event.encoded_len();
        Work { event: Some(event), bytes, send_before, queued_at: Instant::now(), callback }
    }

    /// Forgets the callback: the caller is told in another way.
    pub(super) fn refuse(mut self) {
        self.callback = None;
    }

    fn settled(self, result: Result<(), SendError>, alone: bool) -> Settled {
        Settled { work: self, result, alone }
    }

    fn too_late(&self) -> bool {
        self.send_before.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn call(&mut self, result: Result<(), SendError>, alone: bool) {
        if let Some(callback) = self.callback.take() {
            let sent = Sent { result, alone, elapsed: self.queued_at.elapsed(), event: self.event.take() };
            if catch_unwind(AssertUnwindSafe(|| callback(sent))).is_err() {
                tracing::error!("the callback of an event panicked");
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.call(Err(SendError::Shutdown), false);
    }
}

/// An event whose fate is known.
pub(super) struct Settled {
    work: Work,
    result: Result<(), SendError>,
    alone: bool,
}

impl Settled {
    pub(super) fn run(mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.work.call(result, self.alone);
    }
}

/// Sends batches over a transport.
pub(super) struct Sender {
    transport: Arc<dyn Transport>,
    config: BatchConfig,
    breaker: Option<Breaker>,
    abandoned: CancellationToken,
    metrics: BatchMetrics,
    warned_of_empty: AtomicBool,
    sequences: Sequences,
}

impl Sender {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        config: BatchConfig,
        breaker: Option<Breaker>,
        abandoned: CancellationToken,
        metrics: BatchMetrics,
    ) -> Self {
        Sender {
            transport,
            config,
            breaker,
            abandoned,
            metrics,
            warned_of_empty: AtomicBool::new(false),
            sequences: Sequences::new(),
        }
    }

    pub(super) fn config(&self) -> &BatchConfig {
        &self.config
    }

    pub(super) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub(super) fn metrics(&self) -> &BatchMetrics {
        &self.metrics
    }

    /// Numbers an event; every way to the wire goes through here.
    pub(super) fn stamp(&self, event: &mut CloudEvent) {
        self.sequences.stamp(event);
    }

    pub(super) fn forget_numbers(&self) {
        self.sequences.clear();
    }

    fn options(&self) -> PublishOptions {
        PublishOptions { transaction_enabled: Some(self.config.transaction_enabled) }
    }

    /// Sends a batch and says what became of each event.
    pub(super) async fn send(&self, batch: Vec<Work>) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(batch.len());
        let event_bytes: Vec<usize> = batch.iter().map(|work| work.bytes).collect();
        let options_bytes = field_bytes(self.options().encoded_len());
        let parts = split(&event_bytes, options_bytes, self.config.effective_request_limit());
        if parts.len() > 1 {
            if self.config.transaction_enabled && !self.config.split_transactions {
                let error = SendError::TransactionTooLarge { events: batch.len() };
                self.metrics.not_sent(batch.len(), event_bytes.iter().sum(), &self.config);
                return batch.into_iter().map(|work| work.settled(Err(error.clone()), false)).collect();
            }
            self.metrics.split();
        }
        let mut rest = batch.into_iter();
        for (count, size) in parts {
            let part: Vec<Work> = rest.by_ref().take(count).collect();
            self.send_part(part, size, &mut settled).await;
        }
        settled
    }

    /// Sends a part; when the server will not have it as a whole, sends its halves, until the culprit stands alone.
    async fn send_part(&self, part: Vec<Work>, size: RequestSize, settled: &mut Vec<Settled>) {
        let limit = self.config.request_limit();
        if let ([_], true) = (part.as_slice(), size.bytes() > limit) {
            self.metrics.not_sent(1, size.bytes(), &self.config);
            let error = SendError::TooLarge { bytes: size.bytes(), limit };
            settled.extend(part.into_iter().map(|work| work.settled(Err(error.clone()), true)));
            return;
        }
        let may_halve = !self.config.transaction_enabled || self.config.split_transactions;
        let mut pieces = VecDeque::from([part]);
        let mut rate_limited = None;
        while let Some(piece) = pieces.pop_front() {
            let (piece, late): (Vec<_>, Vec<_>) = piece.into_iter().partition(|work| !work.too_late());
            settled.extend(late.into_iter().map(|work| work.settled(Err(SendError::ClaimOver), false)));
            if piece.is_empty() {
                continue;
            }
            if let Some(error) = &rate_limited {
                settled.extend(piece.into_iter().map(|work| work.settled(Err(SendError::clone(error)), false)));
                continue;
            }
            let (mut piece, outcome) = self.request(piece).await;
            let alone = piece.len() == 1;
            match outcome {
                Ok(results) => {
                    settled.extend(piece.into_iter().zip(results).map(|(work, result)| work.settled(result, alone)));
                }
                Err(error) if error.wants_bisection() && !alone && may_halve => {
                    let second = piece.split_off(piece.len() / 2);
                    pieces.push_front(second);
                    pieces.push_front(piece);
                }
                Err(error) => {
                    // One event of a reasonable size that is too much means that the server has enough for now.
                    if alone && error.wants_bisection() && error.class(true) == RetryClass::Transient {
                        rate_limited = Some(error.clone());
                    }
                    settled.extend(piece.into_iter().map(|work| work.settled(Err(error.clone()), alone)));
                }
            }
        }
    }

    /// One request, repeated once with new credentials if the old ones were refused.
    async fn request(&self, mut piece: Vec<Work>) -> (Vec<Work>, Result<Vec<Result<(), SendError>>, SendError>) {
        let pass = match &self.breaker {
            None => None,
            Some(breaker) => match breaker.pass() {
                Some(pass) => Some(pass),
                None => return (piece, Err(SendError::CircuitOpen)),
            },
        };
        let options_bytes = field_bytes(self.options().encoded_len());
        let bytes = options_bytes + piece.iter().map(|work| field_bytes(work.bytes)).sum::<usize>();
        let events = piece.iter_mut().filter_map(|work| work.event.take()).map(CloudEvent::into_wire).collect();
        let batch = CloudEventBatch { events, options: Some(self.options()) };
        // Both attempts end by one deadline, which is before the claim of the rows ends.
        let deadline = from_now(self.config.publish_timeout);
        let mut answer = self.publish(&batch, bytes, deadline).await;
        if let Err(Some(status)) = &answer
            && matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
            && timeout_at(deadline, self.transport.refresh_credentials()).await.is_ok()
        {
            answer = self.publish(&batch, bytes, deadline).await;
        }
        let outcome = match answer {
            Ok(response) => Ok(self.results(&batch, response)),
            Err(Some(status)) => Err(SendError::Status(status)),
            Err(None) => Err(SendError::Shutdown),
        };
        if let Some(pass) = pass {
            match &outcome {
                Err(SendError::Shutdown) => drop(pass),
                Err(error) if error.wants_bisection() => pass.success(),
                Err(error) => pass.failure(error.class(false) == RetryClass::Endpoint),
                Ok(_) => pass.success(),
            }
        }
        for (work, event) in piece.iter_mut().zip(batch.events) {
            work.event = Some(CloudEvent::trusted(event));
        }
        (piece, outcome)
    }

    /// One call of the transport within the deadline; `Err(None)` when the client was stopped in the middle of it.
    async fn publish(
        &self,
        batch: &CloudEventBatch,
        bytes: usize,
        deadline: Instant,
    ) -> Result<PublishResponse, Option<Status>> {
        let started = Instant::now();
        let limit = deadline.saturating_duration_since(started);
        let call = timeout_at(deadline, self.transport.publish_batch(batch, limit));
        let answer = tokio::select! {
            answer = call => answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the request took longer than publish_timeout"))),
            () = self.abandoned.cancelled() => return Err(None),
        };
        let status = match &answer {
            Ok(response) if response.results.iter().any(|result| result.error.is_some()) => RequestStatus::Partial,
            Ok(_) => RequestStatus::Success,
            Err(_) => RequestStatus::Failure,
        };
        self.metrics.request(status, batch.events.len(), bytes, started.elapsed(), &self.config);
        answer.map_err(Some)
    }

    /// The result of each event, by position.
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
        results
    }
}
