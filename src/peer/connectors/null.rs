//! A sink that takes everything.

use async_trait::async_trait;

use crate::peer::{Connector, ConnectorError, EndReason, Role, Session, StreamFacts};

/// A sink that takes everything, for tests and for measuring the rest.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Peer;
/// use eventbox::peer::connectors::Null;
///
/// let sink = Peer::new("sink", Null::new());
/// # let _ = sink;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Null(());

impl Null {
    /// Makes the sink.
    #[must_use]
    pub fn new() -> Self {
        Null::default()
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
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        session.connected();
        while let Some(batch) = stream.outgoing.next().await {
            stream.outgoing.ack(batch);
        }
        stream.end(EndReason::Stopped).await?;
        Ok(())
    }
}
