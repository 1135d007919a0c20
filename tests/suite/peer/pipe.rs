//! A server whose connections are channels, so that a test schedules everything that a network would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use eventbox::peer::{
    Arrival, Connector, ConnectorError, EndReason, PeerError, Role, Session, Stream, StreamFacts, StreamId,
};
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::TaskTracker;

use crate::support::SOON;

/// What the other side does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Answers {
    Acknowledge,
    /// It takes the bytes and says nothing.
    Silent,
    Fail,
    /// It refuses values that contain `bad`.
    Refuse,
}

/// The server. Clones are the same server.
#[derive(Clone)]
pub(super) struct Pipes {
    connecting: mpsc::UnboundedSender<Other>,
    connected: Arc<Mutex<mpsc::UnboundedReceiver<Other>>>,
    keeps_ids: bool,
}

/// The server's end of a connection.
struct Other {
    id: StreamId,
    read: mpsc::UnboundedReceiver<Arrival>,
    write: mpsc::UnboundedSender<Bytes>,
    answers: Arc<AtomicU8>,
}

/// The client's end of a connection. A drop closes it.
pub(super) struct Pipe {
    write: Option<mpsc::UnboundedSender<Arrival>>,
    read: mpsc::UnboundedReceiver<Bytes>,
    answers: Arc<AtomicU8>,
}

impl Pipes {
    pub(super) fn new() -> Self {
        let (connecting, connected) = mpsc::unbounded_channel();
        Pipes { connecting, connected: Arc::new(Mutex::new(connected)), keeps_ids: false }
    }

    /// Makes a server whose streams keep their ids.
    pub(super) fn keeping_ids() -> Self {
        Pipes { keeps_ids: true, ..Pipes::new() }
    }

    /// Connects with an id of the stream.
    pub(super) fn connect(&self, id: &str) -> Pipe {
        let (write, read_there) = mpsc::unbounded_channel();
        let (write_there, read) = mpsc::unbounded_channel();
        let answers = Arc::new(AtomicU8::new(Answers::Acknowledge as u8));
        let id = StreamId::new(id).unwrap();
        let other = Other { id, read: read_there, write: write_there, answers: Arc::clone(&answers) };
        self.connecting.send(other).ok().unwrap();
        Pipe { write: Some(write), read, answers }
    }
}

impl Pipe {
    pub(super) fn send(&self, arrival: impl Into<Arrival>) {
        self.write.as_ref().unwrap().send(arrival.into()).unwrap();
    }

    pub(super) fn line(&self, line: &str) {
        self.send(format!("{line}\n").into_bytes());
    }

    /// Ends the writing.
    pub(super) fn close(&mut self) {
        self.write = None;
    }

    pub(super) fn answer(&self, answers: Answers) {
        self.answers.store(answers as u8, Ordering::Relaxed);
    }

    /// Returns the next bytes of the server; `None` when it has closed.
    pub(super) async fn next(&mut self) -> Option<String> {
        let next = tokio::time::timeout(SOON, self.read.recv()).await.expect("the server sends or closes in time");
        next.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Returns what has arrived so far.
    pub(super) fn arrived(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.read.try_recv().ok()).map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
    }
}

#[async_trait]
impl Connector for Pipes {
    fn name(&self) -> &'static str {
        "pipes"
    }

    fn endpoint(&self) -> String {
        "memory".to_owned()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    fn keeps_stream_ids(&self) -> bool {
        self.keeps_ids
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let mut connected = self.connected.lock().await;
        let tasks = TaskTracker::new();
        session.connected();
        loop {
            tokio::select! {
                Some(other) = connected.recv() => {
                    let session = session.clone();
                    tasks.spawn(async move { serve(session, other).await });
                }
                () = session.stopping().cancelled_owned() => break,
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

async fn serve(session: Session, mut other: Other) -> Result<(), PeerError> {
    let facts = StreamFacts::new().with("remote", "pipe");
    let mut stream = session.open(other.id.clone(), facts).await?;
    let reason = carry(&session, &mut stream, &mut other).await;
    stream.end(reason).await
}

async fn carry(session: &Session, stream: &mut Stream, other: &mut Other) -> EndReason {
    let Stream { incoming, outgoing, .. } = stream;
    let stopping = session.stopping();
    loop {
        tokio::select! {
            arrival = other.read.recv(), if !stopping.is_cancelled() => match arrival {
                Some(arrival) => match incoming.receive(arrival).await {
                    Err(error) if error.ends_stream() => return EndReason::Framing(error.to_string()),
                    _ => {}
                },
                None => return EndReason::Closed,
            },
            batch = outgoing.next() => {
                let Some(batch) = batch else { return EndReason::Stopped };
                for bytes in batch.bytes() {
                    if other.write.send(bytes.clone()).is_err() {
                        return EndReason::Failed("the other side is gone".to_owned());
                    }
                }
                match other.answers.load(Ordering::Relaxed) {
                    answers if answers == Answers::Acknowledge as u8 => outgoing.ack(batch),
                    answers if answers == Answers::Fail as u8 => {
                        outgoing.fail(batch, &std::io::Error::other("not now"));
                    }
                    answers if answers == Answers::Refuse as u8 => {
                        for event in outgoing.detach(batch) {
                            if String::from_utf8_lossy(event.event.value()).contains("bad") {
                                outgoing.refuse(event.event.id(), "it is bad");
                            } else {
                                outgoing.ack_events(&[event.event.id()]);
                            }
                        }
                    }
                    _ => drop(batch),
                }
            }
        }
    }
}
