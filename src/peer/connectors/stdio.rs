//! The standard input and output of the process.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::peer::{Connector, ConnectorError, EndReason, PeerError, Role, Session, Stream, StreamFacts};

/// Bytes that are read from the standard input at once.
pub const STDIN_READ_BYTES: usize = 64 << 10;

/// Pieces of the standard input that wait for their emit. Then the reader waits, and with it the program that writes.
pub const STDIN_PIECES: usize = 4;

/// Batches that wait for the thread that writes the standard output.
const BATCHES: usize = 1;

/// Whether a connector of this process has the standard input and output.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The settings of [`Stdio`]: which of both it uses.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::stdio::StdioConfig;
///
/// let config: StdioConfig = serde_json::from_str(r#"{ "output": false }"#)?;
/// assert_eq!((config.input, config.output), (true, false));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StdioConfig {
    /// Whether to read the standard input. True unless set.
    pub input: bool,
    /// Whether to write what is to be sent to the standard output. True unless set.
    pub output: bool,
}

impl Default for StdioConfig {
    fn default() -> Self {
        StdioConfig { input: true, output: true }
    }
}

/// The standard input as a source, and the standard output as a sink. A process has one such connector.
///
/// The stream is finished when the input has ended and, with the output, at the stop. The output is flushed before a
/// batch is acknowledged. A closed output ends the peer, because nothing opens it again.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::stdio::{Stdio, StdioConfig};
///
/// let stdio = Stdio::new(StdioConfig::default())?;
/// assert!(Stdio::new(StdioConfig::default()).is_err(), "a process has one");
/// drop(stdio);
/// assert!(Stdio::new(StdioConfig::default()).is_ok());
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct Stdio {
    config: StdioConfig,
    /// The reader, which outlives a life of the connector: two would take each other's bytes.
    input: Mutex<Option<Pieces>>,
}

impl Stdio {
    /// Takes the standard input and output.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when another connector of this process has them, or the settings use none of both.
    pub fn new(config: StdioConfig) -> Result<Self, PeerError> {
        if !config.input && !config.output {
            return Err(PeerError::setup("stdio", "set `input`, `output` or both"));
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(PeerError::setup("stdio", "another peer of this process has the standard input and output"));
        }
        Ok(Stdio { config, input: Mutex::default() })
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Connector for Stdio {
    fn name(&self) -> &'static str {
        "stdio"
    }

    fn endpoint(&self) -> String {
        "standard input and output".to_owned()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let mut held = self.input.lock().await;
        let input = self.config.input.then(|| held.get_or_insert_with(|| read_from(std::io::stdin())));
        let output = self.config.output.then(|| write_to(std::io::stdout()));
        session.connected();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        let ended = serve(&session, &mut stream, input, output).await;
        let reason = match &ended {
            Ok(reason) => reason.clone(),
            Err(error) => EndReason::Failed(error.to_string()),
        };
        stream.end(reason).await?;
        ended.map(|_| ())
    }
}

type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;
type Writes = mpsc::Sender<(Vec<Bytes>, oneshot::Sender<std::io::Result<()>>)>;

/// Reads and writes at once, until both are finished.
async fn serve(
    session: &Session,
    stream: &mut Stream,
    mut input: Option<&mut Pieces>,
    output: Option<Writes>,
) -> Result<EndReason, ConnectorError> {
    let stopping = session.stopping();
    loop {
        tokio::select! {
            piece = next_piece(&mut input), if input.is_some() && !stopping.is_cancelled() => match piece {
                Some(Ok(bytes)) => {
                    stream.incoming.receive(bytes).await?;
                }
                Some(Err(error)) => return Err(ConnectorError::lost("standard input", error)),
                None if output.is_none() => return Ok(EndReason::Finished),
                None => input = None,
            },
            batch = stream.outgoing.next() => {
                let Some(batch) = batch else { break };
                let Some(output) = &output else {
                    for event in stream.outgoing.detach(batch) {
                        stream.outgoing.refuse(event.event.id(), "the peer does not write: set `output`");
                    }
                    continue;
                };
                let parts = batch.bytes().cloned().collect();
                match write(output, parts).await {
                    Ok(()) => stream.outgoing.ack(batch),
                    Err(error) => {
                        stream.outgoing.fail(batch, &error);
                        return Err(ended(error));
                    }
                }
            }
        }
    }
    if let Some(output) = &output {
        let rest = stream.outgoing.flush()?;
        write(output, rest).await.map_err(ended)?;
    }
    Ok(EndReason::Stopped)
}

/// A closed output stays closed, so another attempt is useless.
fn ended(error: std::io::Error) -> ConnectorError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => ConnectorError::refused("the standard output was closed"),
        _ => ConnectorError::lost("standard output", error),
    }
}

async fn next_piece(input: &mut Option<&mut Pieces>) -> Option<std::io::Result<Bytes>> {
    match input {
        Some(pieces) => pieces.recv().await,
        None => None,
    }
}

async fn write(output: &Writes, parts: Vec<Bytes>) -> std::io::Result<()> {
    let (answer, answered) = oneshot::channel();
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    output.send((parts, answer)).await.map_err(|_| gone())?;
    answered.await.unwrap_or_else(|_| Err(gone()))
}

/// Reads in a thread of its own. A read from a terminal may never return, and must not keep a runtime from its end.
fn read_from(mut input: impl Read + Send + 'static) -> Pieces {
    let (pieces, received) = mpsc::channel(STDIN_PIECES);
    std::thread::spawn(move || {
        let mut buffer = vec![0; STDIN_READ_BYTES];
        loop {
            let piece = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default())),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if pieces.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    received
}

/// Writes in a thread of its own, for the same reason.
fn write_to(mut output: impl Write + Send + 'static) -> Writes {
    let (batches, mut received) = mpsc::channel::<(Vec<Bytes>, oneshot::Sender<std::io::Result<()>>)>(BATCHES);
    std::thread::spawn(move || {
        while let Some((parts, answer)) = received.blocking_recv() {
            let written = parts.iter().try_for_each(|part| output.write_all(part)).and_then(|()| output.flush());
            // The send fails only when the peer is gone.
            let _ = answer.send(written);
        }
    });
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_is_read_to_its_end() {
        let mut pieces = read_from(std::io::Cursor::new(vec![7; STDIN_READ_BYTES + 3]));
        let mut read = 0;
        while let Some(piece) = pieces.recv().await {
            read += piece.unwrap().len();
        }
        assert_eq!(read, STDIN_READ_BYTES + 3);
    }

    #[tokio::test]
    async fn a_closed_output_is_noticed() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let error = write(&write_to(Closed), vec![Bytes::from_static(b"x")]).await.unwrap_err();
        assert!(ended(error).is_permanent());
        assert!(write(&write_to(std::io::sink()), vec![Bytes::from_static(b"x")]).await.is_ok());
    }
}
