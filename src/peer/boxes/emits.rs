//! The emits of all streams of a process, in shared groups.
//!
//! A stream waits for its emit before it reads on, so events of one stream are never in two groups, and their order is
//! the order of arrival. A group is emitted whole or not at all. Each event has a name, so a group whose outcome is
//! unknown is emitted again.

use std::num::NonZeroUsize;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Misuse, Result};
use crate::eventbox::{Emitted, MAX_EMIT_EVENTS, emit_all_on};
use crate::peer::boxes::door::Emission;
use crate::retry::endless_pauses;
use crate::store::{Backend, Durability};

/// Most requests that wait; a further stream waits for room, and does not read on.
const QUEUE: usize = 4_096;

/// Most events of a group.
const GROUP_EVENTS: usize = 1_000;

/// Most bytes of the values of a group; a single request may be larger.
const GROUP_BYTES: usize = 4 << 20;

/// Groups that commit at once where the engine has many writers.
const GROUPS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// First and longest pause before a group is emitted again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The queue in front of the groups.
#[derive(Debug)]
pub(in crate::peer) struct Emits {
    queue: mpsc::Sender<Request>,
}

/// The emit of one stream.
struct Request {
    events: Vec<Emission>,
    bytes: usize,
    durability: Durability,
    answer: oneshot::Sender<Result<Vec<Emitted>>>,
}

impl Emits {
    /// Starts the loop. It ends when the queue has no sender, or at `closing`, which also ends retries.
    pub(in crate::peer) fn start<B: Backend>(
        pool: Pool<B>,
        closing: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let work = tokio::spawn(run(pool, requests, closing));
        (Emits { queue }, work)
    }

    /// Emits events in order, all or none. They may be durable sooner than asked for.
    pub(in crate::peer) async fn emit(&self, events: Vec<Emission>, durability: Durability) -> Result<Vec<Emitted>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let stopped = |count| Error::misuse(format!("emit {count} events"), Misuse::Stopped { what: "peer" });
        let count = events.len();
        let bytes = events.iter().map(|(_, event)| event.value().len()).sum();
        let (answer, outcome) = oneshot::channel();
        let sent = self.queue.send(Request { events, bytes, durability, answer }).await;
        sent.map_err(|_| stopped(count))?;
        outcome.await.unwrap_or_else(|_| Err(stopped(count)))
    }
}

async fn run<B: Backend>(pool: Pool<B>, mut requests: mpsc::Receiver<Request>, closing: CancellationToken) {
    let most = if B::ONE_WRITER { 1 } else { GROUPS.get() };
    let mut groups = JoinSet::new();
    let mut next = None;
    loop {
        while groups.len() >= most {
            groups.join_next().await;
        }
        let first = match next.take() {
            Some(first) => first,
            None => tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
                () = closing.cancelled() => break,
            },
        };
        let group;
        (group, next) = fill(first, &mut requests);
        groups.spawn(emit_group(pool.clone(), group, closing.clone()));
    }
    while groups.join_next().await.is_some() {}
}

/// Takes the requests that wait, as many as fit. Returns the one that did not fit, too.
fn fill(first: Request, requests: &mut mpsc::Receiver<Request>) -> (Vec<Request>, Option<Request>) {
    let (mut events, mut bytes) = (first.events.len(), first.bytes);
    let mut group = vec![first];
    while let Ok(request) = requests.try_recv() {
        events += request.events.len();
        bytes += request.bytes;
        if events > GROUP_EVENTS.min(MAX_EMIT_EVENTS) || bytes > GROUP_BYTES {
            return (group, Some(request));
        }
        group.push(request);
    }
    (group, None)
}

async fn emit_group<B: Backend>(pool: Pool<B>, mut group: Vec<Request>, closing: CancellationToken) {
    if group.len() > 1 {
        let mut events: Vec<Emission> = Vec::new();
        let mut counts = Vec::new();
        for request in &mut group {
            counts.push(request.events.len());
            events.append(&mut request.events);
        }
        let is_deferred = group.iter().all(|request| request.durability == Durability::Deferred);
        let durability = if is_deferred { Durability::Deferred } else { Durability::Immediate };
        let emitted = emit_again(&pool, &events, durability, &closing).await;
        let Err(error) = emitted else {
            return answer(group, &counts, emitted.unwrap_or_default());
        };
        tracing::debug!(%error, "a group of emits was refused: its streams are emitted one by one");
        let mut events = events.into_iter();
        for (request, count) in group.iter_mut().zip(counts) {
            request.events = events.by_ref().take(count).collect();
        }
    }
    for Request { events, durability, answer, .. } in group {
        let _ = answer.send(emit_again(&pool, &events, durability, &closing).await);
    }
}

fn answer(group: Vec<Request>, counts: &[usize], emitted: Vec<Emitted>) {
    let mut emitted = emitted.into_iter();
    for (request, count) in group.into_iter().zip(counts) {
        let _ = request.answer.send(Ok(emitted.by_ref().take(*count).collect()));
    }
}

/// Emits events, again and again while the database is the reason that they are not emitted.
async fn emit_again<B: Backend>(
    pool: &Pool<B>,
    events: &[Emission],
    durability: Durability,
    closing: &CancellationToken,
) -> Result<Vec<Emitted>> {
    let mut pauses = endless_pauses(PAUSES.0, PAUSES.1);
    loop {
        let error = match emit_all_on(pool, events, durability).await {
            Err(error) if error.is_transient() || matches!(error, Error::Unknown { .. }) => error,
            outcome => return outcome,
        };
        let pause = pauses.next().unwrap_or(PAUSES.1);
        tokio::select! {
            () = closing.cancelled() => return Err(error),
            () = tokio::time::sleep(pause) => {}
        }
    }
}
