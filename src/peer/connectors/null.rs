//! A sink that acknowledges everything and keeps nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use serde::Deserialize;

use crate::peer::{Connector, ConnectorError, EndReason, Role, Session, StreamFacts};

/// The settings of [`Null`]: there are none.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::null::NullConfig;
///
/// assert!(serde_json::from_str::<NullConfig>("{}").is_ok());
/// assert!(serde_json::from_str::<NullConfig>(r#"{ "path": "x" }"#).is_err());
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NullConfig {}

/// A sink that acknowledges every event and counts it.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::null::Null;
///
/// let null = Null::default();
/// let counted = null.counted(); // stays readable when the connector runs
/// assert_eq!((counted.events(), counted.bytes()), (0, 0));
/// ```
#[derive(Debug, Default)]
pub struct Null {
    counted: Arc<NullCounted>,
}

/// What a [`Null`] has acknowledged.
///
/// # Examples
///
/// See [`Null`].
#[derive(Debug, Default)]
pub struct NullCounted {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl NullCounted {
    /// Returns the number of events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Returns the number of encoded bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl From<NullConfig> for Null {
    fn from(_: NullConfig) -> Self {
        Null::default()
    }
}

impl Null {
    /// Makes the sink.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::{Peer, connectors::Null};
    ///
    /// let sink = Peer::new("sink", Null::new());
    /// # let _ = sink;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Null::default()
    }

    /// Returns the counts, which go on when the connector runs.
    #[must_use]
    pub fn counted(&self) -> Arc<NullCounted> {
        Arc::clone(&self.counted)
    }
}

#[async_trait]
impl Connector for Null {
    fn name(&self) -> &'static str {
        "null"
    }

    fn endpoint(&self) -> String {
        "nowhere".to_owned()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        session.connected();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        while let Some(batch) = stream.outgoing.next().await {
            let bytes = batch.bytes().map(bytes::Bytes::len).sum::<usize>();
            self.counted.events.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.counted.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            stream.outgoing.ack(batch);
        }
        Ok(stream.end(EndReason::Stopped).await?)
    }
}
