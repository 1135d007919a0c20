//! A lane: one stream that takes its share of the requests, and the answers to them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::answer::{self, Answer};
use super::refusal;
use super::waiting::{Numbers, Place, Routed};
use crate::eventbox::{Event, EventId};
use crate::peer::connectors::http::error::HttpError;
use crate::peer::{
    Arrival, ConnectorError, EndReason, Incoming, Outgoing, OutgoingEvent, PeerError, Session, Stream, StreamFacts,
    StreamId,
};

/// Most requests that wait for a lane. Further ones wait for a place in this queue, up to their deadline.
pub const LANE_QUEUE: usize = 64;

/// A request whose events are to be emitted.
pub(super) struct Job {
    pub(super) place: Place,
    pub(super) arrival: Arrival,
    /// Gone when the lane is done with the request.
    pub(super) busy: Busy,
}

/// Where requests enter a lane.
pub(super) struct Entrance {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) busy: Busy,
}

impl Entrance {
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(LANE_QUEUE);
        (Entrance { jobs, busy: Busy::default() }, receiver)
    }
}

/// Counts its clones: the requests that wait for a lane, or are emitted by it.
#[derive(Clone, Default)]
pub(super) struct Busy(Arc<()>);

impl Busy {
    pub(super) fn count(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

/// One lane of a server.
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
    pub(super) jobs: mpsc::Receiver<Job>,
}

impl Lane {
    /// Serves one stream after the other, until the server closes.
    pub(super) async fn run(mut self, session: Session) -> Result<(), ConnectorError> {
        loop {
            let facts = StreamFacts::new().with("lane", self.number.to_string());
            let mut stream = match session.open(StreamId::unique(), facts).await {
                Err(PeerError::Stopped { .. }) => return Ok(()),
                stream => stream?,
            };
            let served = self.serve(&mut stream).await;
            self.shared.waiting.tell(self.number, (0, u64::MAX), Answer::stopping());
            let is_over = self.shared.stopping.is_cancelled() || self.shared.closing.is_cancelled();
            let (reason, failed) = match served {
                Ok(()) if is_over => (EndReason::Stopped, None),
                Ok(()) => (EndReason::Finished, None),
                Err(PeerError::Framing { source, .. }) => (EndReason::Framing(source.to_string()), None),
                Err(error) => (EndReason::Failed(error.to_string()), Some(error)),
            };
            // A body is read as a whole, so that the end of a stream is never in the middle of a message.
            let ended = stream.end(reason).await;
            match failed {
                // At a stop the requests have their 503, and nothing is to be tried again.
                Some(_) if is_over => return Ok(()),
                Some(error) => return Err(error.into()),
                None if is_over => return ended.map_err(Into::into),
                None => ended?,
            }
        }
    }

    /// Emits requests and routes answers, until one of them ends.
    async fn serve(&mut self, stream: &mut Stream) -> Result<(), PeerError> {
        let over = self.shared.closing.child_token();
        let answers = Answers { shared: &self.shared, lane: self.number, stream: stream.id().clone() };
        let Stream { incoming, outgoing, .. } = stream;
        let (shared, jobs) = (&self.shared, &mut self.jobs);
        let taking = async {
            let _end = over.clone().drop_guard();
            take(shared, jobs, incoming, &over).await
        };
        let answering = async {
            let _end = over.clone().drop_guard();
            answers.run(outgoing, &over).await;
        };
        tokio::join!(taking, answering).0
    }
}

/// Emits one request after the other.
async fn take(
    shared: &Shared,
    jobs: &mut mpsc::Receiver<Job>,
    incoming: &mut Incoming,
    over: &CancellationToken,
) -> Result<(), PeerError> {
    loop {
        let job = tokio::select! {
            biased;
            () = over.cancelled() => return Ok(()),
            job = jobs.recv() => job,
        };
        let Some(Job { place: (lane, number), arrival, busy: _busy }) = job else { return Ok(()) };
        if !shared.waiting.is_wanted((lane, number)) {
            continue;
        }
        let refused = match incoming.receive(arrival).await {
            Ok(received) => refusal::of_received(received, &shared.settings),
            Err(error) => {
                let answer = refusal::of_error(&error);
                shared.waiting.tell(lane, (number, number), answer);
                match error.ends_stream() {
                    true => return Err(error),
                    false => continue,
                }
            }
        };
        match refused {
            Some(answer) => shared.waiting.tell(lane, (number, number), answer),
            None => shared.waiting.committed((lane, number)),
        }
    }
}

/// The answers of one stream.
struct Answers<'a> {
    shared: &'a Shared,
    lane: u64,
    stream: StreamId,
}

impl Answers<'_> {
    async fn run(&self, outgoing: &mut Outgoing, over: &CancellationToken) {
        let mut sent = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => break,
                Some((id, is_taken)) = sent.next(), if !sent.is_empty() => self.settle(outgoing, id, is_taken),
                batch = outgoing.next() => {
                    let Some(batch) = batch else { break };
                    for event in outgoing.detach(batch) {
                        if let Some(receiver) = self.route(outgoing, &event) {
                            sent.push(taken(event.event.id(), receiver, self.shared.write_timeout));
                        }
                    }
                }
            }
        }
        while let Some((id, is_taken)) = sent.next().await {
            self.settle(outgoing, id, is_taken);
        }
    }

    fn settle(&self, outgoing: &mut Outgoing, id: EventId, is_taken: bool) {
        match is_taken {
            true => outgoing.ack_events(&[id]),
            false => {
                self.refuse(outgoing, id, HttpError::unroutable("its client went away before it had the response"));
            }
        }
    }

    fn refuse(&self, outgoing: &mut Outgoing, id: EventId, error: HttpError) {
        if matches!(error, HttpError::Unroutable { .. }) {
            self.shared.count_unroutable();
        }
        outgoing.refuse(id, error);
    }

    /// Gives an event to the requests that it answers. The receiver tells whether a connection took it.
    fn route(&self, outgoing: &mut Outgoing, event: &OutgoingEvent) -> Option<oneshot::Receiver<()>> {
        let routed = match answer::read(event, &self.shared.settings) {
            Ok((answer, named)) => self.numbers(&event.event, named).map(|numbers| (answer, numbers)),
            Err(error) => {
                let named = answer::named_request(event.event.value());
                if let Ok(numbers) = self.numbers(&event.event, named) {
                    let why = Answer::say(StatusCode::BAD_GATEWAY, "the answer to this request could not be read");
                    numbers.iter().for_each(|numbers| self.shared.waiting.tell(self.lane, *numbers, why.clone()));
                }
                Err(error)
            }
        };
        let (answer, numbers) = match routed {
            Ok(routed) => routed,
            Err(error) => {
                self.refuse(outgoing, event.event.id(), error);
                return None;
            }
        };
        match self.shared.waiting.route(self.lane, &numbers, answer) {
            Routed::Sent(receiver) => Some(receiver),
            Routed::Nobody => {
                let (first, last) = (numbers.first().map(|range| range.0), numbers.last().map(|range| range.1));
                let problem = format!(
                    "no request of {} to {} waits: it has an answer, its deadline has passed, or its client went away",
                    first.unwrap_or_default(),
                    last.unwrap_or_default()
                );
                self.refuse(outgoing, event.event.id(), HttpError::unroutable(problem));
                None
            }
        }
    }

    /// Returns the numbers of the requests that an event answers: the one that it names, else those that caused it.
    fn numbers(&self, event: &Event, named: Option<u64>) -> Result<Vec<Numbers>, HttpError> {
        if let Some(number) = named {
            return Ok(vec![(number, number)]);
        }
        let origin = event.origin();
        let ranges = origin.map(|origin| origin.of_stream(&self.shared.peer, self.stream.as_str()));
        let numbers: Vec<Numbers> = ranges.unwrap_or_default().iter().map(|range| (range.first, range.last)).collect();
        if !numbers.is_empty() {
            return Ok(numbers);
        }
        Err(HttpError::unroutable(format!(
            "no request of stream {} has caused it, and it names none: answer in the turn of the request, or with an \
             envelope that has its request",
            self.stream
        )))
    }
}

/// Waits until a connection has taken a response.
async fn taken(id: EventId, receiver: oneshot::Receiver<()>, limit: Duration) -> (EventId, bool) {
    (id, matches!(timeout(limit, receiver).await, Ok(Ok(()))))
}
