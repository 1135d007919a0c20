//! The HTTP client: each event is a request, and its response may be an event.

mod config;
mod dial;
mod exchange;
mod target;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::config::{HttpClientConfig, Responses};
use self::config::{NAME, Settings};
use self::dial::Dial;
pub use self::exchange::MAX_RETRY_AFTER;
use self::exchange::{Outcome, Sender, Success, exchange};
use super::envelope::{Content, ResponseIn};
use super::error::HttpError;
use super::{Format, headers};
use crate::eventbox::Event;
use crate::peer::{
    Arrival, Batch, Connector, ConnectorError, EndReason, Incoming, Outgoing, OutgoingEvent, PeerError, Role, Session,
    Stream, StreamFacts,
};

/// Time without a request after which a connection is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Makes a request of each event of its streams, in their order.
///
/// The endpoint is declared. An event is the body of a request with the declared method and path, or an envelope with
/// `method`, `path`, `query`, `headers`, `body` or `body_base64`, and `correlation`. An envelope that names another
/// host is refused into the quarantine; redirections are not followed.
///
/// | Status | The event |
/// | --- | --- |
/// | 200 to 299 | is consumed |
/// | 408, 425, 429, 500 to 599, or no response | stays, and is sent again |
/// | others | goes into the quarantine of its stream |
///
/// A request that is sent again waits for the back-off of its stream, and for the `retry-after` of the server, cut to
/// [`MAX_RETRY_AFTER`].
///
/// A request may be sent again after a crash, or when its response was lost. It has the id of its event as
/// `idempotency-key`, so that the server can take it once. With [`Responses::Emit`] the response arrives on the same
/// stream before the event is consumed, under the id of the event: once, however often the request was sent. In an
/// envelope it has `request`, the id of the event, `status`, the listed `headers`, its body, and the `correlation` of
/// the request unchanged.
///
/// # Units and limits
///
/// See [`HttpClientConfig`]. `concurrency` requests of a stream are sent at a time; above 1 the order between them is
/// given up.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Connector;
/// use eventbox::peer::connectors::http::{HttpClient, HttpClientConfig};
///
/// let client = HttpClient::new(HttpClientConfig::to("https://hooks.example/in"))?;
/// assert_eq!((client.name(), client.endpoint().as_str()), ("http-client", "https://hooks.example/in"));
/// assert!(HttpClient::new(HttpClientConfig::to("hooks.example")).is_err(), "that is no URL");
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct HttpClient {
    settings: Arc<Settings>,
}

impl HttpClient {
    /// Makes a client. It connects when its peer starts.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when a setting is wrong.
    pub fn new(config: HttpClientConfig) -> Result<Self, PeerError> {
        Ok(HttpClient { settings: Arc::new(Settings::check(config)?) })
    }
}

#[async_trait]
impl Connector for HttpClient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.settings.config.endpoint.clone()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    fn has_whole_messages(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let settings = &self.settings;
        let dial = Dial::new(settings);
        let attempt = format!("connect to {}", self.endpoint());
        // A connection is opened only to see that there is a server: the peer waits with events until there is one.
        drop(dial.dial().await.map_err(|source| ConnectorError::connect(attempt, source))?);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.config.concurrency)
            .pool_timer(TokioTimer::new());
        let sender: Sender = builder.build(dial);
        let facts = StreamFacts::new().with("endpoint", self.endpoint());
        let mut stream = session.open(session.stream().clone(), facts).await?;
        session.connected();
        let served = Serving { sender, settings, stopping: session.stopping() }.run(&mut stream).await;
        let reason = match &served {
            Ok(()) if session.stopping().is_cancelled() => EndReason::Stopped,
            Ok(()) => EndReason::Finished,
            Err(error) => EndReason::Failed(error.to_string()),
        };
        let ended = stream.end(reason).await;
        served.and(ended).map_err(Into::into)
    }
}

/// The client at work on one stream.
struct Serving<'a> {
    sender: Sender,
    settings: &'a Settings,
    stopping: CancellationToken,
}

/// Why the rest of a batch is not sent now.
struct Pause {
    error: HttpError,
    at_least: Option<Duration>,
}

impl Serving<'_> {
    async fn run(&self, stream: &mut Stream) -> Result<(), PeerError> {
        let Stream { incoming, outgoing, .. } = stream;
        while let Some(batch) = outgoing.next().await {
            let Some(pause) = self.send(incoming, outgoing, &batch).await? else {
                // Each event has its outcome, so that the batch says only that the server is there.
                drop(outgoing.detach(batch));
                continue;
            };
            if let Some(at_least) = pause.at_least {
                tokio::select! {
                    () = sleep(at_least) => {}
                    () = self.stopping.cancelled() => {}
                }
            }
            // Events of the batch that are acknowledged or refused already do not come again.
            outgoing.fail(batch, &pause.error);
            if self.stopping.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// Sends the events of a batch, up to the first one that has to wait.
    async fn send(
        &self,
        incoming: &mut Incoming,
        outgoing: &mut Outgoing,
        batch: &Batch,
    ) -> Result<Option<Pause>, PeerError> {
        let mut events = batch.events().iter();
        let (mut running, mut pause) = (FuturesUnordered::new(), None);
        loop {
            while pause.is_none() && running.len() < self.settings.config.concurrency {
                let Some(event) = events.next() else { break };
                running.push(self.exchange(event));
            }
            let Some((event, outcome)) = running.next().await else { return Ok(pause) };
            match outcome {
                Outcome::Done(success) => {
                    let emitted = self.emit(incoming, event, &success).await;
                    // A response that cannot be read would be the same the next time.
                    if matches!(emitted, Ok(()) | Err(PeerError::Framing { .. })) {
                        outgoing.ack_events(&[event.id()]);
                    }
                    emitted?;
                }
                Outcome::Refused(error) => outgoing.refuse(event.id(), error),
                Outcome::Retry(error, at_least) => {
                    let at_least = at_least.max(pause.and_then(|pause: Pause| pause.at_least));
                    pause = Some(Pause { error, at_least });
                }
            }
        }
    }

    async fn exchange<'e>(&self, event: &'e OutgoingEvent) -> (&'e Event, Outcome) {
        (&event.event, exchange(&self.sender, self.settings, event).await)
    }

    /// Lets a response arrive, if that is asked for. It has the id of its request, so it arrives once.
    async fn emit(&self, incoming: &mut Incoming, request: &Event, response: &Success) -> Result<(), PeerError> {
        if self.settings.config.responses == Responses::Ignore {
            return Ok(());
        }
        match incoming.receive(arrival(self.settings, request, response)).await {
            // It went to the err port; the request has been made all the same.
            Err(error) if !error.ends_stream() => Ok(()),
            received => received.map(|_| ()),
        }
    }
}

fn arrival(settings: &Settings, request: &Event, response: &Success) -> Arrival {
    let (id, status) = (request.id().to_string(), response.status.as_u16());
    let content_type = response.headers.get(http::header::CONTENT_TYPE);
    let arrival = match settings.config.response_format {
        Format::Raw => Arrival::bytes(response.body.clone()),
        Format::Envelope => {
            let envelope = ResponseIn {
                request: id.clone(),
                status,
                headers: headers::pick(&response.headers, &settings.listed),
                correlation: response.correlation.as_deref(),
                content: Content::of(&response.body, headers::is_json(content_type)),
            };
            // It cannot fail: every key is a text.
            Arrival::value(serde_json::to_vec(&envelope).unwrap_or_default())
        }
    };
    let mut arrival = arrival.id(&id).caused_by(request).field("request", id).field("status", status.to_string());
    if let Some(content_type) = content_type {
        arrival = arrival.field("content_type", headers::text(content_type));
    }
    for (name, field) in settings.listed.iter().zip(&settings.header_fields) {
        if let Some(value) = response.headers.get(name) {
            arrival = arrival.field(field, headers::text(value));
        }
    }
    arrival
}
