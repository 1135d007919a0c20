//! A client whose lives and acknowledgements a test controls.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::EventId;
use eventbox::peer::{
    Connector, ConnectorError, EndReason, Peer, PeerLimits, Reconnect, Role, Session, Stream, StreamFacts,
};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};

use crate::support::{SOON, eventually};

/// The client. Clones are the same client.
#[derive(Clone)]
pub(super) struct Tap(Arc<Shared>);

struct Shared {
    /// Whether lives may open their streams.
    is_open: watch::Sender<bool>,
    /// A change loses the connections.
    cuts: watch::Sender<u64>,
    /// One permit acknowledges one event.
    acks: Semaphore,
    write: mpsc::UnboundedSender<Vec<u8>>,
    read: Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
    seen: SyncMutex<Seen>,
}

/// What the other side of the client has seen.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Values in the order in which they went out.
    pub(super) taken: Vec<String>,
    /// Most events that went out and were not acknowledged.
    pub(super) most_held: usize,
    /// Streams that ended.
    pub(super) ended: usize,
}

impl Tap {
    /// Makes a client that connects at once, and acknowledges nothing.
    pub(super) fn new() -> Self {
        let (write, read) = mpsc::unbounded_channel();
        Tap(Arc::new(Shared {
            is_open: watch::Sender::new(true),
            cuts: watch::Sender::new(0),
            acks: Semaphore::new(0),
            write,
            read: Mutex::new(read),
            seen: SyncMutex::default(),
        }))
    }

    /// Makes a client that waits before it opens its stream.
    pub(super) fn shut() -> Self {
        let tap = Tap::new();
        tap.0.is_open.send_replace(false);
        tap
    }

    /// Lets the lives open their streams.
    pub(super) fn open(&self) {
        self.0.is_open.send_replace(true);
    }

    /// Loses the connection.
    pub(super) fn cut(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Acknowledges the next events, in order.
    pub(super) fn acknowledge(&self, events: usize) {
        self.0.acks.add_permits(events);
    }

    pub(super) fn arrive(&self, bytes: &str) {
        self.0.write.send(bytes.as_bytes().to_vec()).unwrap();
    }

    pub(super) fn seen(&self) -> Seen {
        self.0.seen.lock().unwrap().clone()
    }

    /// Waits until these values went out.
    pub(super) async fn takes(&self, values: &[&str]) {
        eventually(SOON, async || self.seen().taken == values).await;
    }

    /// Returns the peer of the client, which connects again soon.
    pub(super) fn peer(&self, id: &str, in_flight: usize) -> Peer {
        let mut limits = PeerLimits::default();
        limits.in_flight = NonZeroUsize::new(in_flight).unwrap();
        let soon = Duration::from_millis(10);
        Peer::new(id, self.clone()).limits(limits).reconnect(Reconnect::default().with_initial(soon).with_cap(soon))
    }
}

#[async_trait]
impl Connector for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn endpoint(&self) -> String {
        "memory".to_owned()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let (mut is_open, stopping) = (self.0.is_open.subscribe(), session.stopping());
        tokio::select! {
            _ = is_open.wait_for(|is_open| *is_open) => {}
            () = stopping.cancelled() => return Ok(()),
        }
        let mut cuts = self.0.cuts.subscribe();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        session.connected();
        let reason = self.0.serve(&mut stream, &mut cuts).await;
        let is_lost = reason != EndReason::Stopped;
        stream.end(reason).await?;
        self.0.seen.lock().unwrap().ended += 1;
        if is_lost { Err(ConnectorError::lost("memory", io::Error::other("cut"))) } else { Ok(()) }
    }
}

impl Shared {
    async fn serve(&self, stream: &mut Stream, cuts: &mut watch::Receiver<u64>) -> EndReason {
        let (mut held, mut is_closing) = (VecDeque::<EventId>::new(), false);
        let mut read = self.read.lock().await;
        let Stream { incoming, outgoing, .. } = stream;
        while !is_closing || !held.is_empty() {
            tokio::select! {
                _ = cuts.changed() => return EndReason::Failed("cut".to_owned()),
                Some(bytes) = read.recv() => drop(incoming.receive(bytes).await.unwrap()),
                permit = self.acks.acquire(), if !held.is_empty() => {
                    permit.unwrap().forget();
                    outgoing.ack_events(&[held.pop_front().unwrap()]);
                }
                batch = outgoing.next(), if !is_closing => match batch {
                    Some(batch) => {
                        let mut seen = self.seen.lock().unwrap();
                        for event in outgoing.detach(batch) {
                            held.push_back(event.event.id());
                            seen.taken.push(String::from_utf8(event.encoded.concat()).unwrap());
                        }
                        seen.most_held = seen.most_held.max(held.len());
                    }
                    None => is_closing = true,
                },
            }
        }
        EndReason::Stopped
    }
}
