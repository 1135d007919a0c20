//! The way out: the emitter, and the Chip Ingress that gets what it sends.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::emitter::{DurableEmitter, Stored};
use eventbox::ingress::{Ingress, IngressHandle};
use sqlx::Pool;

use super::tables::DemoTables;

/// How long delivering the rest may take: longer than a killed run can hold the messages that it was about to send.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// How long stopping may take.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Who gets the messages.
pub(crate) enum Receiver {
    /// A server in this process.
    BuiltIn(IngressHandle),
    /// Somebody else, at this address.
    Elsewhere(String),
}

/// What the built-in server got.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) keys: BTreeSet<String>,
    pub(crate) duplicates: u64,
    /// Messages under a key that was taken, with other content.
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

    fn endpoint(&self) -> String {
        match self {
            Receiver::BuiltIn(server) => server.local_addr().to_string(),
            Receiver::Elsewhere(address) => address.clone(),
        }
    }

    pub(crate) async fn received(&self) -> Result<Option<Received>> {
        let Receiver::BuiltIn(server) = self else { return Ok(None) };
        let counts = server.log().counts().await.context("read what the ingress got")?;
        let keys = server.log().keys().await.context("read what the ingress got")?;
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
    /// How the keys differ from the expected ones, in words.
    pub(crate) fn differences(&self, expected: &BTreeSet<String>) -> Vec<String> {
        let missing = expected.difference(&self.keys).map(|key| format!("message {key} did not arrive"));
        let extra = self.keys.difference(expected).map(|key| format!("message {key} should not exist"));
        let conflicts =
            (self.conflicts > 0).then(|| format!("{} messages took a key that had other content", self.conflicts));
        missing.chain(extra).chain(conflicts).collect()
    }
}

/// The emitter of a run.
pub(crate) struct Publishing<B: DemoTables>(Arc<DurableEmitter<B>>);

impl<B: DemoTables> Clone for Publishing<B> {
    fn clone(&self) -> Self {
        Publishing(Arc::clone(&self.0))
    }
}

impl<B: DemoTables> Publishing<B> {
    pub(crate) async fn start(pool: &Pool<B>, receiver: &Receiver) -> Result<Self> {
        let endpoint = receiver.endpoint();
        let built = DurableEmitter::builder(pool.clone(), endpoint.as_str()).build();
        let emitter = built.with_context(|| format!("cannot publish to {endpoint:?}: give --ingress HOST:PORT"))?;
        emitter.start().await.context("start the emitter")?;
        Ok(Publishing(Arc::new(emitter)))
    }

    /// Sends what a turn published, from memory. What does not fit now is sent from the outbox later.
    pub(crate) fn deliver(&self, stored: Vec<Stored>) {
        for stored in stored {
            self.0.deliver(stored);
        }
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.0.stats().delivered
    }

    /// Waits until the outbox is empty, as long as that may take; what is left then is told by the comparison.
    pub(crate) async fn drain(&self) -> Result<()> {
        self.0.flush(DRAIN_DEADLINE).await.context("deliver the messages")?;
        Ok(())
    }

    pub(crate) async fn stop(&self) {
        self.0.stop(STOP_DEADLINE).await;
    }
}
