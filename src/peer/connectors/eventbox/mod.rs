//! Another database of eventboxes: what is in the box of a stream here is emitted there, exactly once.
//!
//! For a device with an SQLite file at the edge and a Postgres server as the hub. The edge collects events while it has
//! no connection, for as long as its disk allows, and delivers them afterwards.
//!
//! # Who gets an event
//!
//! The value travels unchanged. The recipient at the hub is declared, as a [`Template`]: its
//! places are `{peer}`, `{stream}`, `{edge}`, `{name}` (of the event, if it has one) and JSON pointers into the value,
//! `{/order/id}`. An event for which the template gives no recipient, or that the hub could never take, goes into the
//! quarantine of the edge.
//!
//! # Exactly once
//!
//! An event has the name `edge:event id` at the hub. That makes a re-send harmless while the event is there, and for
//! the tombstone delay after that. It is not enough: an edge may lose its connection or stop after the hub has
//! committed and before the edge has noted it, and come back weeks later.
//!
//! So the hub remembers which events it has of each stream of each edge, in the row `from:edge` of its checkpoints. The
//! row moves by compare-and-set in the transaction of the emit. An edge says with each batch which is the oldest event
//! that may still be in its box; the hub forgets those before it, because they can not come again. So the row holds the
//! ids of one window, and not a high-water mark: an event that commits late at the edge has a smaller id than events
//! that were sent before it, and is not lost.
//!
//! The name of the edge must not be that of another edge. If it is, no event is lost, but a re-send after the tombstone
//! delay may come twice.

mod delivered;
mod hub;
mod mapped;

use async_trait::async_trait;
use serde::Deserialize;

use self::hub::{Hub, Source};
use self::mapped::{Mapped, map};
use crate::error::Error;
use crate::eventbox::EventId;
use crate::peer::{
    Batch, CodecNeed, Connector, ConnectorError, EndReason, PeerError, Role, Session, Stream, StreamFacts, Template,
};

pub use hub::HUB_CONNECTIONS;

/// Most bytes of the name of an edge.
pub const MAX_EDGE_BYTES: usize = 64;

/// The settings of [`Eventbox`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::eventbox::EventboxConfig;
///
/// let config: EventboxConfig = serde_json::from_str(
///     r#"{ "url": "postgres://truck@hub/fleet", "edge": "truck-17", "to": "truck/{/truck}" }"#,
/// )?;
/// assert_eq!(config.edge, "truck-17");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EventboxConfig {
    /// The hub: `postgres://…`, or the path of an SQLite file. Its eventboxes must be migrated.
    pub url: String,
    /// Name of this database at the hub. No other edge may have it.
    pub edge: String,
    /// Recipient of the events at the hub.
    pub to: Template,
}

/// A sink into another database of eventboxes: see [the module](self).
///
/// # Examples
///
/// ```
/// use eventbox::peer::{Connector, connectors::eventbox::{Eventbox, EventboxConfig}};
///
/// let config = EventboxConfig::new("postgres://truck:secret@hub/fleet", "truck-17", "truck/{/truck}".parse()?);
/// let hub = Eventbox::new(config)?;
/// assert_eq!(hub.endpoint(), "postgres://hub/fleet");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Eventbox {
    config: EventboxConfig,
}

impl EventboxConfig {
    /// Returns the settings for a hub.
    ///
    /// # Examples
    ///
    /// See [`Eventbox`].
    #[must_use]
    pub fn new(url: impl Into<String>, edge: impl Into<String>, to: Template) -> Self {
        EventboxConfig { url: url.into(), edge: edge.into(), to }
    }
}

impl std::fmt::Debug for EventboxConfig {
    /// Writes the settings without the password in the URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("EventboxConfig");
        shown.field("url", &hub::shown(&self.url)).field("edge", &self.edge).field("to", &self.to.to_string()).finish()
    }
}

impl std::fmt::Debug for Eventbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

impl Eventbox {
    /// Checks the settings of a sink.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when the name of the edge is not 1 to [`MAX_EDGE_BYTES`] visible characters without `:` and
    /// `/`, or the engine of the URL is not built in.
    pub fn new(config: EventboxConfig) -> Result<Self, PeerError> {
        let refused = |problem: String| PeerError::setup("eventbox", problem);
        let edge = &config.edge;
        let is_fit = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/');
        if edge.is_empty() || edge.len() > MAX_EDGE_BYTES || !edge.bytes().all(is_fit) {
            let problem = format!("`edge` is {edge:?}: write 1 to {MAX_EDGE_BYTES} visible characters without : and /");
            return Err(refused(problem));
        }
        hub::check(&config.url).map_err(refused)?;
        Ok(Eventbox { config })
    }

    async fn deliver_all(&self, session: &Session, hub: &Hub, stream: &mut Stream) {
        let source = Source::new(&self.config.edge, session.peer(), session.stream().as_str());
        while let Some(batch) = stream.outgoing.next().await {
            let oldest = stream.outgoing.oldest();
            let Mapped { events, refused } = map(&self.config, session, &batch);
            let delivered = hub.deliver(&source, oldest, events).await;
            if refused.is_empty() {
                match delivered {
                    Ok(()) => stream.outgoing.ack(batch),
                    Err(error) => stream.outgoing.fail(batch, &error),
                }
            } else {
                settle(stream, batch, refused, delivered);
            }
        }
    }
}

/// Gives each event of a batch its own outcome.
fn settle(stream: &mut Stream, batch: Batch, refused: Vec<(EventId, String)>, delivered: Result<(), Error>) {
    let mut events = stream.outgoing.detach(batch);
    events.retain(|event| refused.iter().all(|(id, _)| *id != event.event.id()));
    for (id, problem) in refused {
        stream.outgoing.refuse(id, problem);
    }
    match delivered {
        Ok(()) => {
            let ids: Vec<EventId> = events.iter().map(|event| event.event.id()).collect();
            stream.outgoing.ack_events(&ids);
        }
        Err(error) => stream.outgoing.fail_events(events, &error),
    }
}

#[async_trait]
impl Connector for Eventbox {
    fn name(&self) -> &'static str {
        "eventbox"
    }

    fn endpoint(&self) -> String {
        hub::shown(&self.config.url)
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn codec_need(&self) -> CodecNeed {
        CodecNeed::Structured
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let hub = Hub::connect(&self.config.url).await;
        let hub = hub.map_err(|error| ConnectorError::connect(format!("connect to {}", self.endpoint()), error))?;
        session.connected();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        self.deliver_all(&session, &hub, &mut stream).await;
        hub.close().await;
        Ok(stream.end(EndReason::Stopped).await?)
    }
}
