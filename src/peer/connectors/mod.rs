//! The connectors that come with the crate.

pub mod bench;
pub mod chip_ingress;
pub mod eventbox;
pub mod file;
pub mod null;
pub mod stdio;

pub use bench::{Bench, BenchConfig, BenchMeter, BenchReport};
pub use chip_ingress::{ChipIngress, ChipIngressConfig};
#[cfg(feature = "ingress")]
pub use chip_ingress::{ChipIngressServer, ChipIngressServerConfig};
pub use eventbox::{Eventbox, EventboxConfig};
pub use file::{File, FileConfig};
pub use null::{Null, NullConfig, NullCounted};
pub use stdio::{Stdio, StdioConfig};
