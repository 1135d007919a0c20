//! Interceptors: what takes framing and compression off the bytes of a stream, or puts them on.

mod base64;
mod compression;
mod frames;
mod gather;
mod gzip;
mod ingest_ns;
mod remove_empty;
mod separate;
mod spec;
mod zstd;

pub use spec::InterceptorSpec;

use super::chunk::Chunk;
use super::error::FramingError;

/// A step between the bytes of a connection and the messages of a codec.
///
/// An interceptor belongs to one direction of one stream, and may keep the beginning of a message between chunks.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::{Chain, Chunk, Direction, FramingError, FramingLimits, Interceptor};
///
/// struct Upper;
///
/// impl Interceptor for Upper {
///     fn name(&self) -> &'static str {
///         "upper"
///     }
///
///     fn process(&mut self, mut chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
///         chunk.bytes = chunk.bytes.to_ascii_uppercase().into();
///         out.push(chunk);
///         Ok(())
///     }
/// }
///
/// let mut chain = Chain::new(&[], Direction::Incoming, &FramingLimits::default())?;
/// chain.push(Box::new(Upper));
/// let mut out = Vec::new();
/// chain.process(Chunk::new("pencil", 0), &mut out)?;
/// assert_eq!(out, [Chunk::new("PENCIL", 0)]);
/// # Ok::<(), FramingError>(())
/// ```
pub trait Interceptor: Send {
    /// Returns the name, for errors.
    fn name(&self) -> &'static str;

    /// Takes a chunk, and adds what comes out of it to `out`: nothing, or one or more chunks.
    ///
    /// # Errors
    ///
    /// The problem with the chunk. The interceptor has added the good chunks nevertheless. It goes on with the next
    /// chunk unless the error [ends the stream](FramingError::ends_stream).
    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError>;

    /// Adds what the interceptor still has at the end of the stream. By default there is nothing.
    ///
    /// # Errors
    ///
    /// [`FramingError::Incomplete`] when the interceptor has the beginning of a message whose end it needs.
    fn finish(&mut self, _out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        Ok(())
    }

    /// Adds what the interceptor gathers on purpose to `out`, and goes on. By default there is nothing.
    ///
    /// A stream calls it behind each batch that it sends, so that no event is acknowledged while its bytes are held
    /// back.
    ///
    /// # Errors
    ///
    /// As [`process`](Interceptor::process).
    fn flush(&mut self, _out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        Ok(())
    }

    /// Returns whether a message may begin in one chunk and end in another. By default it may not.
    ///
    /// Such an interceptor cannot go on when an earlier one loses a chunk.
    fn spans_chunks(&self) -> bool {
        false
    }
}
