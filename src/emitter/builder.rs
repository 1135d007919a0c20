//! Building an emitter.

use sqlx::Pool;

use crate::chip::transport::grpc::Destination;
use crate::emitter::config::Config;
use crate::emitter::emitter::DurableEmitter;
use crate::emitter::error::EmitterError;
use crate::store::Backend;

/// An emitter that is being built; see [`DurableEmitter::builder`].
#[must_use = "nothing happens before `start` or `build`"]
pub struct DurableEmitterBuilder<B: Backend> {
    pool: Pool<B>,
    destination: Destination,
    config: Config,
}

impl<B: Backend> DurableEmitterBuilder<B> {
    pub(crate) fn new(pool: Pool<B>, destination: Destination) -> Self {
        DurableEmitterBuilder { pool, destination, config: Config::default() }
    }

    /// Replaces the configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// For a plugin that shares the database with a host: it stores and sends once, and leaves all else to the host.
    pub fn plugin(self) -> Self {
        self.configure(|config| config.retransmit = false)
    }

    /// The emitter, not started. Must be called in a Tokio runtime; does not connect.
    ///
    /// # Errors
    ///
    /// [`EmitterError::Config`].
    pub fn build(self) -> Result<DurableEmitter<B>, EmitterError> {
        let transport = self.destination.into_transport()?;
        DurableEmitter::new(self.pool, transport, self.config)
    }

    /// The emitter, started.
    ///
    /// # Errors
    ///
    /// [`EmitterError::Config`].
    pub async fn start(self) -> Result<DurableEmitter<B>, EmitterError> {
        let emitter = self.build()?;
        emitter.start().await?;
        Ok(emitter)
    }
}
