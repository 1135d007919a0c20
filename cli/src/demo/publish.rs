//! The Chip Ingress that receives the messages of the emitters.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::ingress::{Ingress, IngressHandle};
/// Time limit of a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The receiver of the messages.
pub(crate) enum Receiver {
    /// A server in this process.
    BuiltIn(IngressHandle),
    /// Another server, at this address.
    Elsewhere(String),
}

/// The messages that the built-in server received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) keys: BTreeSet<String>,
    pub(crate) duplicates: u64,
    /// Number of messages with other content under a known key.
    pub(crate) conflicts: u64,
}

impl Receiver {
    pub(crate) async fn start(elsewhere: Option<&str>, store: &Path) -> Result<Self> {
        if let Some(address) = elsewhere {
            return Ok(Receiver::Elsewhere(address.to_owned()));
        }
        let server = Ingress::builder().store_file(store).serve("127.0.0.1:0").await;
        Ok(Receiver::BuiltIn(server.context("start the built-in ingress")?))
    }

    pub(crate) fn endpoint(&self) -> String {
        match self {
            Receiver::BuiltIn(server) => server.local_addr().to_string(),
            Receiver::Elsewhere(address) => address.clone(),
        }
    }

    pub(crate) async fn received(&self) -> Result<Option<Received>> {
        let Receiver::BuiltIn(server) = self else { return Ok(None) };
        let counts = server.log().counts().await.context("read the messages of the ingress")?;
        let keys = server.log().keys().await.context("read the messages of the ingress")?;
        let (duplicates, conflicts) = (counts.duplicates, counts.conflicts);
        Ok(Some(Received { keys: keys.into_iter().collect(), duplicates, conflicts }))
    }

    pub(crate) async fn stop(&self) {
        if let Receiver::BuiltIn(server) = self {
            server.stop(STOP_DEADLINE).await;
        }
    }
}

impl Received {
    /// Describes the differences between the received keys and the expected ones.
    pub(crate) fn differences(&self, expected: &BTreeSet<String>) -> Vec<String> {
        let missing = expected.difference(&self.keys).map(|key| format!("message {key} did not arrive"));
        let extra = self.keys.difference(expected).map(|key| format!("message {key} should not exist"));
        let conflicts =
            (self.conflicts > 0).then(|| format!("{} messages took a key that had other content", self.conflicts));
        missing.chain(extra).chain(conflicts).collect()
    }
}
