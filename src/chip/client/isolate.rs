//! Sends a batch in requests that are small enough, and isolates the event that a refusal is about.
//!
//! Only the server's answer for an event decides about that event. After a refusal of several events that may be about
//! one of them, their halves follow in requests of their own, until the culprit stands alone and its neighbours are
//! delivered. A refusal that is about the destination ends the batch, because more requests would not help.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::chip::answer::outcome::SendError;
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::breaker::{BreakerState, Pass};
use crate::chip::client::queue::{Queued, Resolved};
use crate::chip::client::request::{Answer, Requests};

/// Sends a batch, and returns each event with its result.
pub(crate) async fn send_batch(requests: &Requests, batch: Vec<Queued>) -> Vec<Resolved> {
    let event_bytes: Vec<usize> = batch.iter().map(|queued| queued.bytes).collect();
    let counts = split(&event_bytes, requests.options_bytes(), requests.config().effective_request_limit());
    if counts.len() > 1 {
        if !may_halve(requests) {
            let error = SendError::TransactionTooLarge { events: batch.len() };
            requests.metrics().not_sent(batch.len(), event_bytes.iter().sum(), requests.config());
            return batch.into_iter().map(|queued| queued.resolved(Err(error.clone()), false)).collect();
        }
        requests.metrics().split();
    }
    let events = batch.len();
    let mut rest = batch.into_iter();
    let pieces = counts.into_iter().map(|count| rest.by_ref().take(count).collect()).collect();
    let mut sending = BatchSend::new(requests, pieces, events);
    while let Some(piece) = sending.next() {
        sending.send_piece(piece).await;
    }
    if let (Some(refused), false, None) = (sending.refused, sending.culprit, &sending.stopped) {
        requests.sizing.refused(refused);
    }
    sending.resolved
}

/// Returns whether a batch may go in several requests.
fn may_halve(requests: &Requests) -> bool {
    !requests.config().transaction_enabled || requests.config().split_transactions
}

/// A batch while it is sent.
struct BatchSend<'a> {
    requests: &'a Requests,
    /// Number of events of the whole batch.
    events: usize,
    pieces: VecDeque<Vec<Queued>>,
    resolved: Vec<Resolved>,
    /// Error that ended the batch.
    stopped: Option<SendError>,
    /// Requests in a row that may have failed for an event or for the destination.
    in_vain: usize,
    /// Number of such requests from which on the destination is the cause.
    most_in_vain: usize,
    /// Requests that the server had taken before the first of them.
    taken: u64,
    /// Whether the server took a part of this batch.
    some_taken: bool,
    /// Number of events of the smallest refused part with several events.
    refused: Option<usize>,
    /// Whether the server refused an event alone.
    culprit: bool,
    /// Whether a refusal may lead to new credentials.
    may_refresh: bool,
}

impl<'a> BatchSend<'a> {
    fn new(requests: &'a Requests, pieces: VecDeque<Vec<Queued>>, events: usize) -> Self {
        // Twice the halvings from the batch to a single event, so that two culprits do not look like the destination.
        let levels = usize::try_from(usize::BITS - events.leading_zeros()).unwrap_or(usize::MAX);
        BatchSend {
            requests,
            events,
            pieces,
            resolved: Vec::with_capacity(events),
            stopped: None,
            in_vain: 0,
            most_in_vain: 2 * levels + 1,
            taken: requests.taken.load(Ordering::Relaxed),
            some_taken: false,
            refused: None,
            culprit: false,
            may_refresh: true,
        }
    }

    fn resolve(&mut self, piece: Vec<Queued>, error: &SendError) {
        let alone = piece.len() == 1;
        self.resolved.extend(piece.into_iter().map(|queued| queued.resolved(Err(error.clone()), alone)));
    }

    /// Resolves events that had no request, so that the error says nothing about any of them.
    fn resolve_untried(&mut self, piece: Vec<Queued>, error: &SendError) {
        self.resolved.extend(piece.into_iter().map(|queued| queued.resolved(Err(error.clone()), false)));
    }

    /// Returns the next part. When a single event failed and the server took nothing yet, returns the largest part,
    /// which the server most likely takes.
    fn next(&mut self) -> Option<Vec<Queued>> {
        if self.culprit && !self.some_taken {
            let largest = (0..self.pieces.len()).max_by_key(|index| self.pieces.get(*index).map_or(0, Vec::len))?;
            return self.pieces.remove(largest);
        }
        self.pieces.pop_front()
    }

    fn halve(&mut self, mut piece: Vec<Queued>) {
        self.refused = Some(self.refused.map_or(piece.len(), |refused| refused.min(piece.len())));
        let second = piece.split_off(piece.len() / 2);
        self.pieces.push_front(second);
        self.pieces.push_front(piece);
    }

    /// Makes the smallest event the next part. If the server refuses even that event, size is not the reason.
    fn try_the_smallest(&mut self, mut piece: Vec<Queued>) {
        let smallest = (0..piece.len()).min_by_key(|index| piece.get(*index).map_or(0, |queued| queued.bytes));
        let smallest = piece.swap_remove(smallest.unwrap_or(0));
        self.refused = Some(self.refused.map_or(piece.len() + 1, |refused| refused.min(piece.len() + 1)));
        let second = piece.split_off(piece.len() / 2);
        self.pieces.push_front(second);
        self.pieces.push_front(piece);
        self.pieces.push_front(vec![smallest]);
    }

    async fn send_piece(&mut self, piece: Vec<Queued>) {
        let (piece, late): (Vec<_>, Vec<_>) = piece.into_iter().partition(|queued| !queued.is_late());
        self.resolve_untried(late, &SendError::ClaimOver);
        if piece.is_empty() {
            return;
        }
        let limit = self.requests.config().request_limit();
        let bytes = request_bytes(self.requests.options_bytes(), &piece);
        if piece.len() == 1 && bytes > limit {
            self.requests.metrics().not_sent(1, bytes, self.requests.config());
            return self.resolve(piece, &SendError::TooLarge { bytes, limit });
        }
        if let Some(error) = self.stopped.clone() {
            return self.resolve_untried(piece, &error);
        }
        let piece = self.cut(piece);
        let (piece, Answer { result, pass }) = self.requests.request(piece, self.may_refresh).await;
        let Some(pass) = pass else {
            let error = result.err().unwrap_or(SendError::CircuitOpen);
            return self.resolve_untried(piece, &error);
        };
        match result {
            Ok(results) => {
                self.requests.took(pass);
                (self.some_taken, self.in_vain) = (true, 0);
                let alone = piece.len() == 1;
                self.resolved
                    .extend(piece.into_iter().zip(results).map(|(queued, result)| queued.resolved(result, alone)));
            }
            Err(error) => self.refused(piece, &error, pass),
        }
    }

    /// Cuts a part to the size that the destination can take now. A probe of the breaker is a single event, the one
    /// with the fewest attempts.
    fn cut(&mut self, mut piece: Vec<Queued>) -> Vec<Queued> {
        let probe = self.requests.breaker().state() == BreakerState::HalfOpen;
        let most = if probe { 1 } else { self.requests.sizing.limit() };
        if piece.len() <= most || !may_halve(self.requests) {
            return piece;
        }
        if probe {
            let offset = fastrand::usize(..piece.len());
            piece.rotate_left(offset);
            let least = (0..piece.len()).min_by_key(|index| piece.get(*index).map_or(0, |queued| queued.attempt));
            piece.swap(0, least.unwrap_or(0));
        }
        let rest = piece.split_off(most);
        self.pieces.push_front(rest);
        piece
    }

    fn refused(&mut self, piece: Vec<Queued>, error: &SendError, pass: Pass) {
        let events = piece.len();
        let halves = events > 1 && may_halve(self.requests);
        if matches!(error, SendError::Status(status) if status.code() == tonic::Code::PermissionDenied) {
            // The new credentials did not help.
            self.may_refresh = false;
        }
        match error.refusal() {
            Refusal::NotMade => self.resolve_untried(piece, error),
            Refusal::EventOrDestination => self.refused_in_doubt(piece, error, pass),
            Refusal::SizeOrRate => self.refused_for_size_or_rate(piece, error, pass),
            Refusal::Event if halves => {
                self.requests.took(pass);
                self.halve(piece);
            }
            Refusal::Event => {
                self.culprit = true;
                if events > 1 {
                    self.requests.sizing.refused(events);
                }
                self.requests.took(pass);
                self.resolve(piece, error);
            }
            Refusal::Slow => {
                self.requests.note(pass, &Err::<(), _>(error.clone()), events);
                self.resolve(piece, error);
            }
            Refusal::Destination => self.stop(piece, error, pass),
        }
    }

    /// Ends a batch that the destination does not take now.
    fn stop(&mut self, piece: Vec<Queued>, error: &SendError, pass: Pass) {
        self.requests.note(pass, &Err::<(), _>(error.clone()), piece.len());
        self.resolve(piece, error);
        self.stopped = Some(error.clone());
    }

    /// Handles a refusal for the size of a request or for the rate of requests. A request that is not larger than an
    /// accepted one is not too large.
    fn refused_for_size_or_rate(&mut self, piece: Vec<Queued>, error: &SendError, pass: Pass) {
        let bytes = request_bytes(self.requests.options_bytes(), &piece);
        let taken = self.requests.largest_taken.load(Ordering::Relaxed);
        if bytes <= taken {
            // The server may have a lower limit since then, so the next refusal does not count earlier requests.
            self.requests.largest_taken.store(0, Ordering::Relaxed);
            self.stop(piece, error, pass);
        } else if piece.len() > 1 && may_halve(self.requests) {
            if self.some_taken { self.halve(piece) } else { self.try_the_smallest(piece) }
        } else if self.some_taken {
            self.culprit = true;
            self.requests.took(pass);
            self.resolve(piece, error);
        } else {
            self.stop(piece, error, pass);
        }
    }

    /// Handles a refusal that is about an event or about the destination. It is about the destination when the server
    /// takes nothing at all.
    fn refused_in_doubt(&mut self, piece: Vec<Queued>, error: &SendError, pass: Pass) {
        let taken = self.requests.taken.load(Ordering::Relaxed);
        self.in_vain = if self.taken == taken { self.in_vain + 1 } else { 1 };
        let answers = self.some_taken || self.taken != taken;
        self.taken = taken;
        let alone = piece.len() == 1;
        if self.in_vain >= self.most_in_vain {
            self.requests.metrics().opened(pass.failure(true), error);
            self.resolve(piece, error);
            self.stopped = Some(error.clone());
        } else if alone {
            self.culprit = true;
            if pass.is_probe() || (self.events == 1 && !answers) {
                self.requests.metrics().opened(pass.failure(false), error);
            } else if answers {
                self.requests.took(pass);
            }
            self.resolve(piece, error);
        } else if may_halve(self.requests) {
            self.halve(piece);
        } else {
            // A smaller batch has fewer neighbours of the culprit.
            self.requests.sizing.refused(piece.len());
            self.requests.metrics().opened(pass.failure(false), error);
            self.resolve(piece, error);
        }
    }
}

/// Returns the number of events of each request, in order. Each request has as many events as fit into `limit`, and at
/// least one; with limit 0 there is one request.
fn split(event_bytes: &[usize], options: usize, limit: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    let (mut count, mut size) = (0, options);
    for bytes in event_bytes.iter().map(|bytes| field_bytes(*bytes)) {
        if limit > 0 && count > 0 && size + bytes > limit {
            counts.push(count);
            (count, size) = (0, options);
        }
        (count, size) = (count + 1, size + bytes);
    }
    if count > 0 {
        counts.push(count);
    }
    counts
}

/// Returns the size of a request with these events, whose options take `options_bytes`.
pub(crate) fn request_bytes(options_bytes: usize, events: &[Queued]) -> usize {
    options_bytes + events.iter().map(|queued| field_bytes(queued.bytes)).sum::<usize>()
}

/// Returns the size of a length-delimited field whose number is below 16.
pub(crate) fn field_bytes(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of these cases are sizes, so a negative one cannot be written.
    #[test]
    fn requests_take_as_many_events_as_fit_in_order() {
        let split = |event_bytes: &[usize], limit| split(event_bytes, 4, limit);
        assert!(split(&[], 100).is_empty());
        assert_eq!(split(&[50; 7], 0), [7]);
        assert_eq!(split(&[10; 5], 1_000), [5]);
        assert_eq!(split(&[50; 3], 60), [1, 1, 1]);
        assert_eq!(split(&[50; 5], 4 + 2 * 52), [2, 2, 1]);
        assert_eq!(split(&[500, 10, 10], 100), [1, 2]);
    }

    #[test]
    fn sizes_are_those_of_the_encoded_message() {
        use crate::CloudEvent;
        use crate::proto::chipingress::pb::{CloudEventBatch, PublishOptions};
        use prost::Message;
        let options = PublishOptions { transaction_enabled: Some(false) };
        let options_bytes = field_bytes(options.encoded_len());
        for payload_bytes in [0, 1, 100, 127, 128, 20_000] {
            let event = CloudEvent::builder("a", "b").payload(vec![7; payload_bytes]).build().unwrap().into_wire();
            let events = vec![event; 3];
            let bytes = events.iter().map(|event| field_bytes(event.encoded_len())).sum::<usize>();
            let batch = CloudEventBatch { events, options: Some(options) };
            assert_eq!(options_bytes + bytes, batch.encoded_len());
        }
    }
}
