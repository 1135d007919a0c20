//! The bounds of what one stream may cost.

use serde::{Deserialize, Serialize};

/// Bounds of the interceptors and codecs of one stream.
///
/// An interceptor keeps at most one unfinished message between chunks, so the memory of a stream is bounded: for each
/// interceptor its limit below, and for the chunk in work [`max_output_bytes`](Self::max_output_bytes).
///
/// # Units and limits
///
/// Compression has a window beside these limits: 32 KiB for `gzip`, and at most 8 MiB for `zstd`.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::FramingLimits;
///
/// let mut limits = FramingLimits::default();
/// limits.max_line_bytes = 64 << 10;
/// let read: FramingLimits = serde_json::from_str(r#"{"max_line_bytes": 65536}"#).unwrap();
/// assert_eq!(read, limits);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FramingLimits {
    /// Longest body of a frame of `length-prefixed` and `textual-length-prefixed`, in bytes. Default 4 MiB.
    pub max_frame_bytes: usize,
    /// Longest message between two separators of `lines` and `separate`, in bytes. Default 1 MiB.
    pub max_line_bytes: usize,
    /// Longest result of decompressing one chunk, in bytes. Default 16 MiB.
    pub max_decompressed_bytes: usize,
    /// Largest `max_bytes` of `chunk`, the interceptor that gathers on purpose, in bytes. Default 1 MiB.
    pub max_buffered_bytes: usize,
    /// Most bytes of all chunks that one interceptor makes out of one chunk, and of all values that a codec makes out
    /// of one chunk. Default 32 MiB.
    pub max_output_bytes: usize,
    /// Most chunks that one interceptor makes out of one chunk, and most values that a codec makes. Default 65,536.
    pub max_chunks: usize,
}

impl Default for FramingLimits {
    fn default() -> Self {
        FramingLimits {
            max_frame_bytes: 4 << 20,
            max_line_bytes: 1 << 20,
            max_decompressed_bytes: 16 << 20,
            max_buffered_bytes: 1 << 20,
            max_output_bytes: 32 << 20,
            max_chunks: 1 << 16,
        }
    }
}
