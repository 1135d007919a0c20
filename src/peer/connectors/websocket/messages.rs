//! Messages in both directions, pings, and the goodbye.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;

use super::{MessageKind, WsLimits};
use crate::peer::connectors::wire::{
    Ended, Patience, Phase, Pulse, ReadEnd, SendError, Terms, Wire, WriteEnd, close, cut, end, end_of, next_batch,
    with_progress,
};
use crate::peer::{Batch, EndReason, Incoming, Outgoing, Stream};

type Source = SplitStream<WebSocketStream<Wire>>;
type Sink = SplitSink<WebSocketStream<Wire>, Message>;

/// How messages are exchanged.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    kind: MessageKind,
    ping: Option<Duration>,
    pong: Option<Duration>,
}

impl Manner {
    pub(super) fn new(kind: MessageKind, limits: &WsLimits) -> Self {
        Manner { kind, ping: limits.ping_interval(), pong: limits.pong_timeout() }
    }
}

/// Exchanges messages until the connection ends, says goodbye, and ends the stream.
pub(super) async fn converse(
    socket: WebSocketStream<Wire>,
    pulse: &Pulse,
    mut stream: Stream,
    terms: &Terms,
    manner: &Manner,
) -> Ended {
    let (mut sink, mut source) = socket.split();
    let unwanted = terms.stopping.child_token();
    let (phase, mut phases) = watch::channel(Phase::Open);
    let Stream { incoming, outgoing, .. } = &mut stream;
    let reading = async {
        let (end, code) = read(&mut source, incoming, pulse, terms, manner, &unwanted).await;
        // After a goodbye of the other side nothing may be sent, so there is no half-closed connection here.
        phase.send_replace(if matches!(end, ReadEnd::Unwanted) { Phase::Open } else { Phase::Cut });
        (end, code)
    };
    let writing = async {
        let end = write(&mut sink, outgoing, pulse, terms, manner, &mut phases).await;
        unwanted.cancel();
        end
    };
    let ((read, code), write) = tokio::join!(reading, writing);
    let ended = Ended::new(read, write, terms.stopping.is_cancelled());
    if let Ok(socket) = source.reunite(sink) {
        say_goodbye(socket, code.unwrap_or_else(|| code_of(&ended.reason)), terms.close).await;
    }
    end(stream, ended, terms).await
}

async fn read(
    source: &mut Source,
    incoming: &mut Incoming,
    pulse: &Pulse,
    terms: &Terms,
    manner: &Manner,
    unwanted: &CancellationToken,
) -> (ReadEnd, Option<CloseCode>) {
    let patience = Patience { idle: terms.idle, frame: terms.frame, answer: manner.pong, blind: true };
    loop {
        let message = tokio::select! {
            biased;
            () = unwanted.cancelled() => return (ReadEnd::Unwanted, None),
            message = source.next() => message,
            () = pulse.overdue(&patience) => return (ReadEnd::Idle, None),
        };
        pulse.whole();
        let data = match message {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(_))) | None => return (ReadEnd::Closed, None),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(error)) => return end_of_protocol(error),
        };
        if let Err(error) = incoming.receive(data).await
            && let Some(end) = end_of(&error)
        {
            return (end, None);
        }
        pulse.touch();
        // While the emit was under way nobody read, so a pong may have been here for long.
        pulse.listen_again();
    }
}

fn end_of_protocol(error: WsError) -> (ReadEnd, Option<CloseCode>) {
    match error {
        WsError::Io(error) => (ReadEnd::Lost(error), None),
        WsError::ConnectionClosed | WsError::AlreadyClosed => (ReadEnd::Closed, None),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            let gone = io::Error::new(io::ErrorKind::UnexpectedEof, "the other side went without a goodbye");
            (ReadEnd::Lost(gone), None)
        }
        WsError::Capacity(_) => (ReadEnd::Framing(error.to_string()), Some(CloseCode::Size)),
        WsError::Utf8(_) => (ReadEnd::Framing(error.to_string()), Some(CloseCode::Invalid)),
        error => (ReadEnd::Framing(error.to_string()), Some(CloseCode::Protocol)),
    }
}

async fn write(
    sink: &mut Sink,
    outgoing: &mut Outgoing,
    pulse: &Pulse,
    terms: &Terms,
    manner: &Manner,
    phases: &mut watch::Receiver<Phase>,
) -> WriteEnd {
    let mut next_ping = manner.ping.map(|interval| Instant::now() + interval);
    loop {
        let ping = async {
            match next_ping {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            next = next_batch(outgoing, phases, terms.half_close) => Some(next),
            () = ping => None,
        };
        let sent = match next {
            Some(Ok(batch)) => deliver(sink, outgoing, batch, (pulse, terms, manner), phases).await,
            Some(Err(WriteEnd::Cut)) => return WriteEnd::Cut,
            Some(Err(end)) => {
                let held = outgoing.flush().map_err(SendError::Flush);
                let flushed = async {
                    let messages = held?.into_iter().map(|bytes| message(bytes, manner.kind)).collect();
                    send(sink, messages).await
                };
                return match with_progress(pulse, terms.write_timeout, flushed).await {
                    Ok(()) => end,
                    Err(error) => WriteEnd::Failed(error),
                };
            }
            None => {
                next_ping = manner.ping.map(|interval| Instant::now() + interval);
                pulse.ask();
                let ping = send(sink, vec![Ok(Message::Ping(Bytes::new()))]);
                tokio::select! {
                    sent = with_progress(pulse, terms.write_timeout, ping) => sent,
                    () = cut(phases) => return WriteEnd::Cut,
                }
            }
        };
        if let Err(error) = sent {
            return WriteEnd::Failed(error);
        }
    }
}

/// Sends the events of a batch, and tells the core what became of each.
async fn deliver(
    sink: &mut Sink,
    outgoing: &mut Outgoing,
    batch: Batch,
    (pulse, terms, manner): (&Pulse, &Terms, &Manner),
    phases: &mut watch::Receiver<Phase>,
) -> Result<(), SendError> {
    let (mut messages, mut refused) = (Vec::new(), Vec::new());
    for event in batch.events() {
        let parts: Result<Vec<_>, _> = event.encoded.iter().map(|bytes| message(bytes.clone(), manner.kind)).collect();
        match parts {
            Ok(parts) => messages.extend(parts.into_iter().map(Ok)),
            Err(error) => refused.push((event.event.id(), error)),
        }
    }
    let sent = tokio::select! {
        biased;
        sent = with_progress(pulse, terms.write_timeout, send(sink, messages)) => sent,
        () = cut(phases) => Err(SendError::Cut),
    };
    match &sent {
        Err(error) => outgoing.fail(batch, error),
        Ok(()) if refused.is_empty() => outgoing.ack(batch),
        Ok(()) => {
            let events = outgoing.detach(batch).into_iter().map(|event| event.event.id());
            let taken: Vec<_> = events.filter(|id| refused.iter().all(|(refused, _)| refused != id)).collect();
            outgoing.ack_events(&taken);
            for (id, error) in refused {
                outgoing.refuse(id, error);
            }
        }
    }
    if sent.is_ok() {
        pulse.touch();
    }
    sent
}

/// Makes a message of bytes.
fn message(bytes: Bytes, kind: MessageKind) -> Result<Message, SendError> {
    match kind {
        MessageKind::Binary => Ok(Message::Binary(bytes)),
        MessageKind::Text => Utf8Bytes::try_from(bytes).map(Message::Text).map_err(|_| SendError::NoText),
    }
}

async fn send(sink: &mut Sink, messages: Vec<Result<Message, SendError>>) -> Result<(), SendError> {
    let failed = |error| match error {
        WsError::Io(error) => SendError::Io(error),
        WsError::ConnectionClosed | WsError::AlreadyClosed => SendError::Gone,
        WsError::Protocol(ProtocolError::SendAfterClosing) => SendError::Gone,
        error => SendError::Protocol(error),
    };
    for message in messages {
        sink.feed(message?).await.map_err(failed)?;
    }
    sink.flush().await.map_err(failed)
}

/// Returns the code of the goodbye for the end of a stream.
fn code_of(reason: &EndReason) -> CloseCode {
    match reason {
        EndReason::Stopped => CloseCode::Away,
        EndReason::Idle | EndReason::Framing(_) => CloseCode::Policy,
        EndReason::Failed(_) | EndReason::Lost => CloseCode::Error,
        _ => CloseCode::Normal,
    }
}

/// Sends the goodbye if the other side has not, waits for its answer, and closes the connection.
async fn say_goodbye(mut socket: WebSocketStream<Wire>, code: CloseCode, limit: Duration) {
    let goodbye = async {
        // An error says that the goodbye is not to be sent: the other side was first, or the connection is broken.
        let _ = socket.close(Some(CloseFrame { code, reason: Utf8Bytes::default() })).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _ = timeout(limit, goodbye).await;
    close(socket.into_inner(), limit).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_must_be_utf_8() {
        let bytes = Bytes::from_static(&[0xff, 0xfe]);
        assert!(message(bytes.clone(), MessageKind::Binary).is_ok());
        assert!(message(bytes, MessageKind::Text).is_err());
        let text = message(Bytes::from_static("grüß".as_bytes()), MessageKind::Text).unwrap();
        assert_eq!(text, Message::text("grüß"));
    }

    #[test]
    fn the_end_of_a_stream_decides_the_code() {
        let codes = [
            (EndReason::Closed, 1000),
            (EndReason::Finished, 1000),
            (EndReason::Stopped, 1001),
            (EndReason::Idle, 1008),
            (EndReason::Framing(String::new()), 1008),
            (EndReason::Failed(String::new()), 1011),
        ];
        for (reason, code) in codes {
            assert_eq!(u16::from(code_of(&reason)), code, "{reason:?}");
        }
    }
}
