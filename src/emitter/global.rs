//! The emitter of the process, for code that has no emitter of its own.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use uuid::Uuid;

use crate::chip::credentials::auth::{LazySigner, Signer};
use crate::cloudevent::CloudEvent;
use crate::emitter::emitter::DurableEmitter;
use crate::emitter::error::Error;
use crate::store::Backend;

/// Publishes events: a [`DurableEmitter`] of any engine.
#[async_trait]
pub trait Publish: Send + Sync + 'static {
    /// Stores an event, as [`DurableEmitter::publish`] does.
    async fn publish(&self, event: CloudEvent) -> Result<Uuid, Error>;

    /// Stores an event in the background, as [`DurableEmitter::publish_async`] does.
    fn publish_async(&self, event: CloudEvent);
}

#[async_trait]
impl<B: Backend> Publish for DurableEmitter<B> {
    async fn publish(&self, event: CloudEvent) -> Result<Uuid, Error> {
        DurableEmitter::publish(self, event).await
    }

    fn publish_async(&self, event: CloudEvent) {
        DurableEmitter::publish_async(self, event);
    }
}

static GLOBAL: RwLock<Option<Arc<dyn Publish>>> = RwLock::new(None);
static SIGNER: RwLock<Option<LazySigner>> = RwLock::new(None);

/// Sets or removes the emitter of the process, and returns the previous one.
pub fn set_global(emitter: Option<Arc<dyn Publish>>) -> Option<Arc<dyn Publish>> {
    std::mem::replace(&mut *GLOBAL.write().unwrap_or_else(PoisonError::into_inner), emitter)
}

/// Returns the emitter of the process.
#[must_use]
pub fn global() -> Option<Arc<dyn Publish>> {
    GLOBAL.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Publishes through the emitter of the process.
///
/// # Errors
///
/// [`Error::NotInitialized`] at once when the process has no emitter; [`Error::PublishFailed`] with the cause.
///
/// # Cancel safety
///
/// As [`DurableEmitter::publish`].
pub async fn publish(event: CloudEvent) -> Result<Uuid, Error> {
    let emitter = global().ok_or(Error::NotInitialized)?;
    emitter.publish(event).await.map_err(|error| Error::PublishFailed(Box::new(error)))
}

/// Publishes through the emitter of the process, in the background. Does nothing when the process has no emitter.
pub fn publish_async(event: CloudEvent) {
    if let Some(emitter) = global() {
        emitter.publish_async(event);
    }
}

pub(crate) fn register_signer(signer: Option<LazySigner>) {
    *SIGNER.write().unwrap_or_else(PoisonError::into_inner) = signer;
}

/// Gives a key to the rotating credentials of the process. Does nothing when the process has none.
pub fn set_signer(signer: Arc<dyn Signer>) {
    if let Some(lazy) = &*SIGNER.read().unwrap_or_else(PoisonError::into_inner) {
        lazy.set(signer);
    }
}

/// Returns whether the rotating credentials of the process have a key; false when the process has none.
#[must_use]
pub fn is_signer_set() -> bool {
    SIGNER.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(LazySigner::is_set)
}
