//! The emitter of the process, for code that cannot be handed one.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use uuid::Uuid;

use crate::chip::credentials::auth::{LazySigner, Signer};
use crate::cloudevent::CloudEvent;
use crate::emitter::emitter::DurableEmitter;
use crate::emitter::error::EmitterError;
use crate::store::Backend;

/// Something that takes events: a [`DurableEmitter`] of any engine.
#[async_trait]
pub trait Emit: Send + Sync + 'static {
    /// As [`DurableEmitter::emit`].
    async fn emit(&self, event: CloudEvent) -> Result<Uuid, EmitterError>;

    /// As [`DurableEmitter::emit_async`].
    fn emit_async(&self, event: CloudEvent);
}

#[async_trait]
impl<B: Backend> Emit for DurableEmitter<B> {
    async fn emit(&self, event: CloudEvent) -> Result<Uuid, EmitterError> {
        DurableEmitter::emit(self, event).await
    }

    fn emit_async(&self, event: CloudEvent) {
        DurableEmitter::emit_async(self, event);
    }
}

static GLOBAL: RwLock<Option<Arc<dyn Emit>>> = RwLock::new(None);
static SIGNER: RwLock<Option<LazySigner>> = RwLock::new(None);

/// Makes an emitter the one of the process, or takes it away; answers the one that was.
pub fn set_global(emitter: Option<Arc<dyn Emit>>) -> Option<Arc<dyn Emit>> {
    std::mem::replace(&mut *GLOBAL.write().unwrap_or_else(PoisonError::into_inner), emitter)
}

/// The emitter of the process.
#[must_use]
pub fn global() -> Option<Arc<dyn Emit>> {
    GLOBAL.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Emits by the emitter of the process.
///
/// # Errors
///
/// [`EmitterError::NotInitialized`] at once when there is none; [`EmitterError::EmitFailed`] with the cause.
///
/// # Cancel safety
///
/// As [`DurableEmitter::emit`].
pub async fn emit(event: CloudEvent) -> Result<Uuid, EmitterError> {
    let emitter = global().ok_or(EmitterError::NotInitialized)?;
    emitter.emit(event).await.map_err(|error| EmitterError::EmitFailed(Box::new(error)))
}

/// Emits by the emitter of the process in the background; does nothing when there is none.
pub fn emit_async(event: CloudEvent) {
    if let Some(emitter) = global() {
        emitter.emit_async(event);
    }
}

pub(crate) fn register_signer(signer: Option<LazySigner>) {
    *SIGNER.write().unwrap_or_else(PoisonError::into_inner) = signer;
}

/// Gives the rotating credentials of the process their key, as soon as there is one; nothing happens when there are none.
pub fn set_signer(signer: Arc<dyn Signer>) {
    if let Some(lazy) = &*SIGNER.read().unwrap_or_else(PoisonError::into_inner) {
        lazy.set(signer);
    }
}

/// Whether the rotating credentials of the process have their key; false when there are none.
#[must_use]
pub fn is_signer_set() -> bool {
    SIGNER.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(LazySigner::is_set)
}
