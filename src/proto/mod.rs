//! The messages and services of `proto/`, generated (see `tests/suite/proto.rs`).
//!
//! Maps are `BTreeMap`s, so that equal messages have equal bytes.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

/// The version of prost whose `Message` these types implement. Use it instead of a dependency of your own.
pub use prost;
/// The version of prost-types whose `Any` and `Timestamp` are in these types.
pub use prost_types;

pub mod io {
    pub mod cloudevents {
        pub mod v1 {
            include!("io.cloudevents.v1.rs");
        }
    }
}

#[cfg(feature = "emitter")]
pub mod chip_common {
    include!("chip_common.rs");
}

#[cfg(feature = "emitter")]
pub mod chipingress {
    pub mod pb {
        include!("chipingress.pb.rs");
    }
}

#[cfg(feature = "shards")]
pub mod consumer {
    include!("consumer.rs");
}
