//! The bounds of a peer.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Deserialize;

use crate::peer::framing::FramingLimits;

/// Bounds of a peer. The defaults are for a service with many small messages.
///
/// # Examples
///
/// ```
/// use eventbox::peer::PeerLimits;
///
/// let limits = PeerLimits::default();
/// assert_eq!((limits.streams.get(), limits.in_flight.get()), (10_000, 128));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerLimits {
    /// Most open streams of the peer in this process.
    pub streams: NonZeroUsize,
    /// Most events of a stream that are in memory, sent or about to be sent, and not acknowledged.
    pub in_flight: NonZeroUsize,
    /// Most bytes of values that a stream sends before it asks for an acknowledgement; one larger event goes alone.
    pub batch_bytes: NonZeroUsize,
    /// Most bytes of one read from a connection.
    pub read_buffer_bytes: NonZeroUsize,
    /// Longest time in which a write makes no progress before its stream ends.
    pub write_timeout: Duration,
    /// Failed batches of a stream in a row before its breaker opens.
    pub stream_failures: NonZeroUsize,
    /// Streams that die within `dead_within` before the breaker of the whole peer opens.
    pub dead_streams: NonZeroUsize,
    /// Time in which dead streams are counted.
    pub dead_within: Duration,
    /// First and longest time for which a breaker stays open.
    pub cool_down: (Duration, Duration),
    /// Bounds of interceptors and codecs.
    pub framing: FramingLimits,
}

impl Default for PeerLimits {
    fn default() -> Self {
        let number = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
        PeerLimits {
            streams: number(10_000),
            in_flight: number(128),
            batch_bytes: number(256 << 10),
            read_buffer_bytes: number(64 << 10),
            write_timeout: Duration::from_secs(10),
            stream_failures: number(3),
            dead_streams: number(10),
            dead_within: Duration::from_secs(10),
            cool_down: (Duration::from_secs(1), Duration::from_secs(30)),
            framing: FramingLimits::default(),
        }
    }
}

/// The keys of `[peer.limits]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    streams: Option<NonZeroUsize>,
    in_flight: Option<NonZeroUsize>,
    batch_bytes: Option<NonZeroUsize>,
    read_buffer_bytes: Option<NonZeroUsize>,
    write_timeout_ms: Option<u64>,
    stream_failures: Option<NonZeroUsize>,
    dead_streams: Option<NonZeroUsize>,
    dead_within_ms: Option<u64>,
    cool_down_ms: Option<u64>,
    max_cool_down_ms: Option<u64>,
    framing: Option<FramingLimits>,
}

impl<'de> Deserialize<'de> for PeerLimits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (keys, default) = (Keys::deserialize(deserializer)?, PeerLimits::default());
        let time = |ms: Option<u64>, default| ms.map_or(default, Duration::from_millis);
        let limits = PeerLimits {
            streams: keys.streams.unwrap_or(default.streams),
            in_flight: keys.in_flight.unwrap_or(default.in_flight),
            batch_bytes: keys.batch_bytes.unwrap_or(default.batch_bytes),
            read_buffer_bytes: keys.read_buffer_bytes.unwrap_or(default.read_buffer_bytes),
            write_timeout: time(keys.write_timeout_ms, default.write_timeout),
            stream_failures: keys.stream_failures.unwrap_or(default.stream_failures),
            dead_streams: keys.dead_streams.unwrap_or(default.dead_streams),
            dead_within: time(keys.dead_within_ms, default.dead_within),
            cool_down: (time(keys.cool_down_ms, default.cool_down.0), time(keys.max_cool_down_ms, default.cool_down.1)),
            framing: keys.framing.unwrap_or(default.framing),
        };
        limits.check().map_err(serde::de::Error::custom)?;
        Ok(limits)
    }
}

impl PeerLimits {
    pub(in crate::peer) fn check(&self) -> Result<(), String> {
        if self.write_timeout.is_zero() || self.cool_down.0.is_zero() || self.cool_down.1 < self.cool_down.0 {
            return Err("write_timeout_ms and cool_down_ms must be above zero, and max_cool_down_ms not below \
                        cool_down_ms"
                .to_owned());
        }
        if self.in_flight.get() > MAX_IN_FLIGHT {
            return Err(format!("in_flight is {}: at most {MAX_IN_FLIGHT}", self.in_flight));
        }
        Ok(())
    }
}

/// Largest `in_flight`: a turn of a stream lists twice as many events.
const MAX_IN_FLIGHT: usize = 5_000;
