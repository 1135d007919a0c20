//! The connectors of the library.

mod null;

pub use null::Null;
