//! The interceptors of one direction of one stream, in order.

use std::fmt;

use super::chunk::{Chunk, Direction};
use super::error::{Faults, FramingError};
use super::interceptor::{Interceptor, InterceptorSpec};
use super::limits::FramingLimits;

/// The interceptors of one direction of one stream, in order.
///
/// Every chunk that comes out of an interceptor goes into the next one. Make a chain when a stream starts, one for each
/// direction. When the stream ends, call [`finish`](Self::finish) and drop the chain. When a stream fails, drop the
/// chain without `finish`: the beginning of a message is not a message.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::{Chain, Chunk, Direction, FramingLimits, InterceptorSpec};
///
/// let mut chain = Chain::new(&[InterceptorSpec::named("lines")?], Direction::Incoming, &FramingLimits::default())?;
/// let mut out = Vec::new();
/// chain.process(Chunk::new("one\ntw", 1), &mut out)?;
/// chain.process(Chunk::new("o\nthree", 2), &mut out)?;
/// chain.finish(&mut out)?;
/// assert_eq!(out, [Chunk::new("one", 1), Chunk::new("two", 2), Chunk::new("three", 2)]);
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
pub struct Chain {
    interceptors: Vec<Box<dyn Interceptor>>,
    max_output_bytes: usize,
    max_chunks: usize,
    ended: bool,
}

impl Chain {
    /// Returns the chain of a new stream. Bytes pass the interceptors in the order of `specs`, in both directions.
    ///
    /// To read what `["gzip", "length-prefixed"]` wrote, name the reverse: `["length-prefixed", "gzip"]`.
    ///
    /// # Errors
    ///
    /// [`FramingError::Settings`] when a setting of an interceptor is over one of the limits.
    pub fn new(specs: &[InterceptorSpec], direction: Direction, limits: &FramingLimits) -> Result<Self, FramingError> {
        let interceptors = specs.iter().map(|spec| spec.build(direction, limits)).collect::<Result<_, _>>()?;
        let FramingLimits { max_output_bytes, max_chunks, .. } = *limits;
        Ok(Chain { interceptors, max_output_bytes, max_chunks, ended: false })
    }

    /// Adds an interceptor at the end, for example one of your own.
    pub fn push(&mut self, interceptor: Box<dyn Interceptor>) {
        self.interceptors.push(interceptor);
    }

    /// Returns whether the chain has no interceptors, and so passes chunks on unchanged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interceptors.is_empty()
    }

    /// Passes a chunk through all interceptors, and adds what comes out to `out`.
    ///
    /// `out` also gets the good chunks before and beside an error.
    ///
    /// # Errors
    ///
    /// The errors of the interceptors; [`FramingError::Ended`] after `finish`, and after an error that
    /// [ends the stream](FramingError::ends_stream).
    pub fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if self.ended {
            return Err(FramingError::Ended);
        }
        let mut faults = Faults::default();
        let mut pending = vec![chunk];
        for at in 0..self.interceptors.len() {
            let mut stage_faults = Faults::default();
            pending = self.pass(at, pending, &mut stage_faults);
            self.close_gap(at, stage_faults, &mut faults);
        }
        out.append(&mut pending);
        let result = faults.into_result();
        self.ended = result.as_ref().is_err_and(FramingError::ends_stream);
        result
    }

    /// Adds what interceptors gather on purpose to `out`, and goes on.
    ///
    /// # Errors
    ///
    /// The errors of [`process`](Self::process).
    pub fn flush(&mut self, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if self.ended {
            return Err(FramingError::Ended);
        }
        let mut faults = Faults::default();
        let mut pending = Vec::new();
        for at in 0..self.interceptors.len() {
            let mut stage_faults = Faults::default();
            pending = self.pass(at, pending, &mut stage_faults);
            if let Some(interceptor) = self.interceptors.get_mut(at)
                && let Err(error) = interceptor.flush(&mut pending)
            {
                stage_faults.add(error);
            }
            self.close_gap(at, stage_faults, &mut faults);
        }
        out.append(&mut pending);
        let result = faults.into_result();
        self.ended = result.as_ref().is_err_and(FramingError::ends_stream);
        result
    }

    /// Flushes every interceptor, in order, and adds what comes out to `out`. The chain takes no chunks afterwards.
    ///
    /// The method does nothing after an error that ended the stream, because the rests may belong to broken messages.
    ///
    /// # Errors
    ///
    /// [`FramingError::Incomplete`] when an interceptor has the beginning of a message; the errors of
    /// [`process`](Self::process).
    pub fn finish(&mut self, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let mut faults = Faults::default();
        let mut pending = Vec::new();
        for at in 0..self.interceptors.len() {
            let mut stage_faults = Faults::default();
            pending = self.pass(at, pending, &mut stage_faults);
            // After an error, a rest would be joined with, or cut off from, the bytes that are missing.
            let broken = !(faults.is_empty() && stage_faults.is_empty());
            if let Some(interceptor) = self.interceptors.get_mut(at)
                && !(broken && interceptor.spans_chunks())
                && let Err(error) = interceptor.finish(&mut pending)
            {
                stage_faults.add(error);
            }
            self.close_gap(at, stage_faults, &mut faults);
        }
        out.append(&mut pending);
        faults.into_result()
    }

    /// Passes chunks through one interceptor, and stops where its results are over the limits.
    fn pass(&mut self, at: usize, pending: Vec<Chunk>, faults: &mut Faults) -> Vec<Chunk> {
        let mut out = Vec::with_capacity(pending.len());
        let mut bytes = 0_usize;
        let Some(interceptor) = self.interceptors.get_mut(at) else { return pending };
        for chunk in pending {
            let before = out.len();
            if let Err(error) = interceptor.process(chunk, &mut out) {
                let ends = error.ends_stream();
                faults.add(error);
                if ends {
                    break;
                }
            }
            bytes += out.iter().skip(before).map(|chunk| chunk.bytes.len()).sum::<usize>();
            let over_bytes = bytes > self.max_output_bytes;
            if over_bytes || out.len() > self.max_chunks {
                out.truncate(before);
                faults.add(over(&**interceptor, over_bytes, self.max_output_bytes, self.max_chunks));
                break;
            }
        }
        out
    }

    /// Adds the errors of one interceptor, and marks the stream as ended when a later one needs the missing chunk.
    fn close_gap(&self, at: usize, stage_faults: Faults, faults: &mut Faults) {
        let Err(error) = stage_faults.into_result() else { return };
        let later = self.interceptors.iter().skip(at + 1).find(|later| later.spans_chunks());
        match later {
            Some(later) if !error.ends_stream() => {
                faults.add(FramingError::Gap { part: later.name(), source: Box::new(error) });
            }
            _ => faults.add(error),
        }
    }
}

/// Returns the error of an interceptor whose results are over a limit. It loses the chunks that wait behind.
fn over(interceptor: &dyn Interceptor, bytes: bool, max_output_bytes: usize, max_chunks: usize) -> FramingError {
    let (what, limit, setting) = match bytes {
        true => ("more bytes out of one chunk", max_output_bytes, "max_output_bytes"),
        false => ("more chunks out of one chunk", max_chunks, "max_chunks"),
    };
    FramingError::OverLimit { part: interceptor.name(), what, limit, setting, ends_stream: interceptor.spans_chunks() }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.interceptors.iter().map(|interceptor| interceptor.name()).collect();
        f.debug_struct("Chain").field("interceptors", &names).field("ended", &self.ended).finish()
    }
}
