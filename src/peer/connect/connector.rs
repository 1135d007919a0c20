//! The contract between the core and the part of a peer that knows a protocol.

use async_trait::async_trait;

use crate::peer::connect::session::Session;
use crate::peer::error::ConnectorError;
use crate::peer::framing::CodecSpec;

/// What a connector needs from a codec.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CodecNeed {
    /// Values travel as bytes, unless the peer sets a codec.
    Bytes,
    /// Values travel in this codec, unless the peer sets another one.
    Default(CodecSpec),
    /// Values are whole already: a codec and interceptors are refused.
    Structured,
}

/// Who opens the streams of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// It waits for others: one session has many streams.
    Server,
    /// It dials: each session has one stream, which the core names.
    Client,
}

/// The part of a peer that knows a protocol. Implement it for a type of your own.
///
/// The core does everything else: it frames and decodes, emits, acknowledges to the eventboxes, connects again, stops
/// what fails, counts. A connector moves bytes between a socket and the halves of a [`Stream`](crate::peer::Stream).
///
/// # What must hold
///
/// * [`run`](Connector::run) is one life of the connection. It returns `Ok` after [`Session::stopping`] when everything
///   is flushed, or when nothing will ever come again. It returns an error when the connection failed or was lost; then
///   the core runs it again, by the [`Reconnect`](crate::peer::Reconnect) of the peer.
/// * It calls [`Session::connected`] once it is connected or bound.
/// * It acknowledges to the outside only after [`Incoming::receive`](crate::peer::Incoming::receive) has returned, and
///   to the core only what the other side has.
/// * It reads no more after [`Session::stopping`], and ends each stream when
///   [`Outgoing::next`](crate::peer::Outgoing::next) returns `None`.
///
/// # Cancel safety
///
/// At the deadline of a stop the future is dropped. Its streams end as lost, and what they had not acknowledged is sent
/// again.
///
/// # Examples
///
/// A source of one event:
///
/// ```
/// use async_trait::async_trait;
/// use eventbox::peer::{Arrival, Connector, ConnectorError, EndReason, Role, Session, StreamFacts};
///
/// struct Once(&'static str);
///
/// #[async_trait]
/// impl Connector for Once {
///     fn name(&self) -> &'static str {
///         "once"
///     }
///
///     fn endpoint(&self) -> String {
///         "memory".to_owned()
///     }
///
///     fn role(&self) -> Role {
///         Role::Client
///     }
///
///     async fn run(&self, session: Session) -> Result<(), ConnectorError> {
///         let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
///         session.connected();
///         stream.incoming.receive(Arrival::value(self.0).id("once")).await?;
///         stream.end(EndReason::Finished).await?;
///         Ok(())
///     }
/// }
/// # let _: Box<dyn Connector> = Box::new(Once("departed"));
/// ```
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Returns the name of the type: `tcp-server`.
    fn name(&self) -> &'static str;

    /// Returns the declared endpoint, for people. It holds no secret.
    fn endpoint(&self) -> String;

    /// Returns who opens the streams.
    fn role(&self) -> Role;

    /// Returns what the connector needs from a codec: none unless overridden.
    fn codec_need(&self) -> CodecNeed {
        CodecNeed::Bytes
    }

    /// Returns whether the id of a stream means the same stream after a restart, as of a file. Then events that were
    /// not sent wait for it. False unless overridden; the only stream of a client counts as true.
    fn keeps_stream_ids(&self) -> bool {
        self.role() == Role::Client
    }

    /// Returns whether each arrival, and each event that goes out, is a message of its own, as in HTTP. Then
    /// interceptors and codec begin and end with it, so that no part of one message gets into the next. False unless
    /// overridden.
    fn has_whole_messages(&self) -> bool {
        false
    }

    /// Runs one life of the connection.
    ///
    /// # Errors
    ///
    /// The reason why the connection failed or was lost; [`ConnectorError::Refused`] when another attempt is useless.
    async fn run(&self, session: Session) -> Result<(), ConnectorError>;
}
