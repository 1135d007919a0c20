//! Sending a batch in parts, and finding out whom a refusal is about.
//!
//! Only what the server said about an event decides about that event. A refusal of several events that may be about one
//! of them is followed by requests with its halves, until the culprit stands alone and its neighbours are delivered. A
//! refusal that is about the destination ends the batch, because more requests would not help it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::chip::answer::outcome::{RetryClass, SendError};
use crate::chip::answer::refusal::Refusal;
use crate::chip::client::breaker::{BreakerState, Pass};
use crate::chip::client::message::{Settled, Work, request_bytes};
use crate::chip::client::request::{Answer, Sender};
use crate::chip::client::split::split;

/// A batch while it is sent.
struct Round {
    /// The events of the whole batch.
    events: usize,
    pieces: VecDeque<Vec<Work>>,
    settled: Vec<Settled>,
    /// Why nothing more of the batch is sent.
    stopped: Option<SendError>,
    /// Requests in a row that may have failed for an event or for the destination.
    in_vain: usize,
    /// After so many of them it is the destination.
    most_in_vain: usize,
    /// The requests that the server had taken before the first of them.
    taken: u64,
    /// Whether a part of this batch was taken.
    some_taken: bool,
    /// The smallest part of several events that was refused.
    refused: Option<usize>,
    /// Whether an event was refused alone.
    culprit: bool,
    /// Whether new credentials may be made.
    may_refresh: bool,
}

impl Round {
    fn new(pieces: VecDeque<Vec<Work>>, events: usize, taken: u64) -> Self {
        // Twice the way from the batch to a single event, so that two culprits do not pass for the destination.
        let levels = usize::try_from(usize::BITS - events.leading_zeros()).unwrap_or(usize::MAX);
        Round {
            events,
            pieces,
            settled: Vec::with_capacity(events),
            stopped: None,
            in_vain: 0,
            most_in_vain: 2 * levels + 1,
            taken,
            some_taken: false,
            refused: None,
            culprit: false,
            may_refresh: true,
        }
    }

    fn settle(&mut self, piece: Vec<Work>, error: &SendError) {
        let alone = piece.len() == 1;
        self.settled.extend(piece.into_iter().map(|work| work.settled(Err(error.clone()), alone)));
    }

    /// Settles what was not tried by itself, so that nothing is said about any of its events.
    fn settle_untried(&mut self, piece: Vec<Work>, error: &SendError) {
        self.settled.extend(piece.into_iter().map(|work| work.settled(Err(error.clone()), false)));
    }

    /// The next part. When a single event failed and nothing was taken yet, the largest: it is the most likely to be
    /// taken.
    fn next(&mut self) -> Option<Vec<Work>> {
        if self.culprit && !self.some_taken {
            let largest = (0..self.pieces.len()).max_by_key(|index| self.pieces.get(*index).map_or(0, Vec::len))?;
            return self.pieces.remove(largest);
        }
        self.pieces.pop_front()
    }

    fn halve(&mut self, mut piece: Vec<Work>) {
        self.refused = Some(self.refused.map_or(piece.len(), |refused| refused.min(piece.len())));
        let second = piece.split_off(piece.len() / 2);
        self.pieces.push_front(second);
        self.pieces.push_front(piece);
    }

    /// Takes the smallest event out and sends it first: when even that is refused, it is not the size.
    fn try_the_smallest(&mut self, mut piece: Vec<Work>) {
        let smallest = (0..piece.len()).min_by_key(|index| piece.get(*index).map_or(0, |work| work.bytes));
        let smallest = piece.swap_remove(smallest.unwrap_or(0));
        self.refused = Some(self.refused.map_or(piece.len() + 1, |refused| refused.min(piece.len() + 1)));
        let second = piece.split_off(piece.len() / 2);
        self.pieces.push_front(second);
        self.pieces.push_front(piece);
        self.pieces.push_front(vec![smallest]);
    }
}

impl Sender {
    /// Sends a batch and says what became of each event.
    pub(crate) async fn send(&self, batch: Vec<Work>) -> Vec<Settled> {
        let event_bytes: Vec<usize> = batch.iter().map(|work| work.bytes).collect();
        let parts = split(&event_bytes, self.options_bytes(), self.config().effective_request_limit());
        if parts.len() > 1 {
            if !self.may_halve() {
                let error = SendError::TransactionTooLarge { events: batch.len() };
                self.metrics().not_sent(batch.len(), event_bytes.iter().sum(), self.config());
                return batch.into_iter().map(|work| work.settled(Err(error.clone()), false)).collect();
            }
            self.metrics().split();
        }
        let events = batch.len();
        let mut rest = batch.into_iter();
        let pieces = parts.into_iter().map(|(count, _)| rest.by_ref().take(count).collect()).collect();
        let mut round = Round::new(pieces, events, self.taken.load(Ordering::Relaxed));
        while let Some(piece) = round.next() {
            self.send_piece(&mut round, piece).await;
        }
        if let (Some(refused), false, None) = (round.refused, round.culprit, &round.stopped) {
            self.sizing.refused(refused);
        }
        round.settled
    }

    fn may_halve(&self) -> bool {
        !self.config().transaction_enabled || self.config().split_transactions
    }

    async fn send_piece(&self, round: &mut Round, piece: Vec<Work>) {
        let (piece, late): (Vec<_>, Vec<_>) = piece.into_iter().partition(|work| !work.too_late());
        round.settle_untried(late, &SendError::ClaimOver);
        if piece.is_empty() {
            return;
        }
        let limit = self.config().request_limit();
        let bytes = request_bytes(self.options_bytes(), &piece);
        if piece.len() == 1 && bytes > limit {
            self.metrics().not_sent(1, bytes, self.config());
            return round.settle(piece, &SendError::TooLarge { bytes, limit });
        }
        if let Some(error) = round.stopped.clone() {
            return round.settle_untried(piece, &error);
        }
        let piece = self.cut(round, piece);
        let (piece, Answer { result, pass }) = self.request(piece, round.may_refresh).await;
        let Some(pass) = pass else {
            let error = result.err().unwrap_or(SendError::CircuitOpen);
            return round.settle_untried(piece, &error);
        };
        match result {
            Ok(results) => {
                self.took(pass);
                (round.some_taken, round.in_vain) = (true, 0);
                let alone = piece.len() == 1;
                round.settled.extend(piece.into_iter().zip(results).map(|(work, result)| work.settled(result, alone)));
            }
            Err(error) => self.refused(round, piece, &error, pass),
        }
    }

    /// Cuts a part to the size that the destination can take now; a probe of the breaker is a single event, the least
    /// tried one.
    fn cut(&self, round: &mut Round, mut piece: Vec<Work>) -> Vec<Work> {
        let probe = self.breaker().state() == BreakerState::HalfOpen;
        let most = if probe { 1 } else { self.sizing.limit() };
        if piece.len() <= most || !self.may_halve() {
            return piece;
        }
        if probe {
            let offset = fastrand::usize(..piece.len());
            piece.rotate_left(offset);
            let least = (0..piece.len()).min_by_key(|index| piece.get(*index).map_or(0, |work| work.attempt));
            piece.swap(0, least.unwrap_or(0));
        }
        let rest = piece.split_off(most);
        round.pieces.push_front(rest);
        piece
    }

    fn refused(&self, round: &mut Round, piece: Vec<Work>, error: &SendError, pass: Pass) {
        let events = piece.len();
        let halves = events > 1 && self.may_halve();
        if matches!(error, SendError::Status(status) if status.code() == tonic::Code::PermissionDenied) {
            // New credentials were made and did not help.
            round.may_refresh = false;
        }
        match error.refusal() {
            Refusal::NotMade => round.settle_untried(piece, error),
            Refusal::EventOrDestination => self.refused_in_doubt(round, piece, error, pass),
            Refusal::SizeOrRate => self.refused_for_size_or_rate(round, piece, error, pass),
            Refusal::Event if halves => {
                self.took(pass);
                round.halve(piece);
            }
            Refusal::Event => {
                round.culprit = true;
                if events > 1 {
                    self.sizing.refused(events);
                }
                self.took(pass);
                round.settle(piece, error);
            }
            Refusal::Slow => {
                self.note(pass, &Err::<(), _>(error.clone()), events);
                round.settle(piece, error);
            }
            Refusal::Destination => self.stop(round, piece, error, pass),
        }
    }

    /// Ends a batch that the destination does not take now.
    fn stop(&self, round: &mut Round, piece: Vec<Work>, error: &SendError, pass: Pass) {
        self.note(pass, &Err::<(), _>(error.clone()), piece.len());
        round.settle(piece, error);
        round.stopped = Some(error.clone());
    }

    /// A refusal for the size of a request or for the rate of requests. What is not larger than what was taken is not
    /// too large.
    fn refused_for_size_or_rate(&self, round: &mut Round, piece: Vec<Work>, error: &SendError, pass: Pass) {
        let bytes = request_bytes(self.options_bytes(), &piece);
        let taken = self.largest_taken.load(Ordering::Relaxed);
        if bytes <= taken {
            // The server may have another limit since then: the next refusal is looked at without what was taken
            // before.
            self.largest_taken.store(0, Ordering::Relaxed);
            self.stop(round, piece, error, pass);
        } else if piece.len() > 1 && self.may_halve() {
            if round.some_taken { round.halve(piece) } else { round.try_the_smallest(piece) }
        } else if round.some_taken {
            round.culprit = true;
            self.took(pass);
            round.settle(piece, error);
        } else {
            self.stop(round, piece, error, pass);
        }
    }

    /// A refusal that is about an event or about the destination. It is the destination when nothing at all is taken.
    fn refused_in_doubt(&self, round: &mut Round, piece: Vec<Work>, error: &SendError, pass: Pass) {
        let taken = self.taken.load(Ordering::Relaxed);
        round.in_vain = if round.taken == taken { round.in_vain + 1 } else { 1 };
        let answers = round.some_taken || round.taken != taken;
        round.taken = taken;
        let alone = piece.len() == 1;
        if round.in_vain >= round.most_in_vain {
            self.metrics().opened(pass.failure(true), error);
            round.settle(piece, error);
            round.stopped = Some(error.clone());
        } else if alone {
            round.culprit = true;
            if pass.is_probe() || (round.events == 1 && !answers) {
                self.metrics().opened(pass.failure(false), error);
            } else if answers {
                self.took(pass);
            }
            round.settle(piece, error);
        } else if self.may_halve() {
            round.halve(piece);
        } else {
            // A smaller batch has fewer neighbours of the culprit.
            self.sizing.refused(piece.len());
            self.metrics().opened(pass.failure(false), error);
            round.settle(piece, error);
        }
    }

    /// The destination is there; after an outage requests begin small.
    fn took(&self, pass: Pass) {
        if pass.success() {
            self.sizing.restart();
        }
    }

    /// Tells the breaker and the size of requests how a request of so many events went.
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
        let opened = match error.retry_after() {
            Some(wait) if error.refusal() == Refusal::Destination => pass.hold(wait),
            _ => {
                let certain = error.refusal() == Refusal::Destination && error.class(false) == RetryClass::Endpoint;
                pass.failure(certain)
            }
        };
        self.metrics().opened(opened, error);
    }
}
