//! front
pub(crate) mod error;
mod eventbox;
#[cfg(feature = "ingress")]
pub mod ingress;
#[cfg(feature = "emitter")]
pub mod proto;
mod recipient;
mod store;

pub use error::{BoxError, Error, Misuse, Result};
pub use eventbox::*;
pub use recipient::{MAX_KEY_BYTES, Recipient};
pub use store::Backend;
