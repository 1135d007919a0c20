//! front
#[cfg(feature = "emitter")]
mod cloudevent;
#[cfg(feature = "emitter")]
pub mod emitter;
pub(crate) mod error;
mod eventbox;
#[cfg(feature = "ingress")]
pub mod ingress;
#[cfg(feature = "emitter")]
pub mod proto;
mod recipient;
mod store;

#[cfg(feature = "emitter")]
pub use cloudevent::{
    AttributeValue, Attributes, CONTENT_TYPE, CloudEvent, CloudEventBuilder, CloudEventError, ExtensionValue,
    RESERVED_NAMES, SPEC_VERSION, resource_names, resource_value,
};
pub use error::{BoxError, Error, Misuse, Result};
pub use eventbox::*;
pub use recipient::{MAX_KEY_BYTES, Recipient};
pub use store::Backend;
