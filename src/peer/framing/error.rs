//! The errors of interceptors and codecs.

/// Why a chunk could not be read or written.
///
/// Chunks that came out before and beside the error are good. Ask [`ends_stream`](Self::ends_stream) what to do next:
///
/// - `false`: only the named message is lost. Report the error, and go on with the stream.
/// - `true`: the borders of the following messages are not known. Report the error, and end the stream.
///
/// # Examples
///
/// ```
/// use eventbox::peer::framing::{Chain, Chunk, Direction, FramingLimits, InterceptorSpec};
///
/// let specs = [InterceptorSpec::named("lines")?, InterceptorSpec::named("base64")?];
/// let mut chain = Chain::new(&specs, Direction::Incoming, &FramingLimits::default())?;
/// let mut out = Vec::new();
/// let error = chain.process(Chunk::new("aGk=\n***\neW8=\n", 0), &mut out).unwrap_err();
/// assert!(!error.ends_stream());
/// assert_eq!(out, [Chunk::new("hi", 0), Chunk::new("yo", 0)]);
/// # Ok::<(), eventbox::peer::framing::FramingError>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// No interceptor or codec has the name.
    #[error("no {what} has the name {name:?}: use one of {known}")]
    #[non_exhaustive]
    UnknownName {
        /// `interceptor` or `codec`.
        what: &'static str,
        /// The given name.
        name: String,
        /// All names.
        known: String,
    },
    /// A setting of an interceptor or a codec is unknown or has a wrong value.
    #[error("the settings of `{part}` are not usable: {problem}")]
    #[non_exhaustive]
    Settings {
        /// Name of the interceptor or codec.
        part: &'static str,
        /// The problem, with the name of the setting.
        problem: String,
    },
    /// A message, or what came out of it, is longer than a limit.
    #[error("`{part}` refused {what} over the limit of {limit}: send less at a time, or raise `{setting}`")]
    #[non_exhaustive]
    OverLimit {
        /// Name of the interceptor or codec.
        part: &'static str,
        /// What was too long or too much, with its unit.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The field of [`FramingLimits`](super::FramingLimits), or the setting, to raise.
        setting: &'static str,
        /// Whether the borders of the following messages are lost.
        ends_stream: bool,
    },
    /// The bytes are not what the interceptor or codec reads.
    #[error("`{part}` cannot read its input: {problem}")]
    #[non_exhaustive]
    Invalid {
        /// Name of the interceptor or codec.
        part: &'static str,
        /// The problem with the bytes.
        problem: String,
        /// Whether the borders of the following messages are lost.
        ends_stream: bool,
    },
    /// The message has no form that the other side would read back.
    #[error("`{part}` cannot write the message: {problem}")]
    #[non_exhaustive]
    Unwritable {
        /// Name of the interceptor or codec.
        part: &'static str,
        /// The problem with the message.
        problem: String,
    },
    /// The stream ended in the middle of a message.
    #[error("the stream ended inside {what}: `{part}` dropped the beginning that it had")]
    #[non_exhaustive]
    Incomplete {
        /// Name of the interceptor.
        part: &'static str,
        /// What is incomplete.
        what: &'static str,
    },
    /// An error took a chunk out of a sequence in which a later interceptor needs every chunk.
    #[error("a chunk is missing, and `{part}` would join the bytes around it: end the stream")]
    #[non_exhaustive]
    Gap {
        /// Name of the later interceptor.
        part: &'static str,
        /// The error that cost the chunk.
        source: Box<FramingError>,
    },
    /// One chunk had more than one error.
    #[error("one chunk had {count} errors, of which the first or worst follows")]
    #[non_exhaustive]
    Several {
        /// Number of errors.
        count: usize,
        /// The first error that ends the stream; the first error when none does.
        source: Box<FramingError>,
    },
    /// The chain got a chunk after its end.
    #[error("the stream has ended, by `finish` or by an error: make a new chain for a new stream")]
    Ended,
}

impl FramingError {
    /// Returns whether the rest of the stream cannot be read or written. Then end the stream, and drop its chain.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        match self {
            Self::OverLimit { ends_stream, .. } | Self::Invalid { ends_stream, .. } => *ends_stream,
            Self::Gap { .. } | Self::Incomplete { .. } | Self::Ended => true,
            Self::Several { source, .. } => source.ends_stream(),
            Self::UnknownName { .. } | Self::Settings { .. } | Self::Unwritable { .. } => false,
        }
    }

    /// Returns the number of errors: 1, except for [`Several`](Self::Several) and a [`Gap`](Self::Gap) that has one.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Several { count, .. } => *count,
            Self::Gap { source, .. } => source.count(),
            _ => 1,
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers pass errors and texts alike")]
    pub(super) fn invalid(part: &'static str, problem: impl ToString) -> Self {
        Self::Invalid { part, problem: problem.to_string(), ends_stream: false }
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers pass errors and texts alike")]
    pub(super) fn unwritable(part: &'static str, problem: impl ToString) -> Self {
        Self::Unwritable { part, problem: problem.to_string() }
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers pass errors and texts alike")]
    pub(super) fn settings(part: &'static str, problem: impl ToString) -> Self {
        Self::Settings { part, problem: problem.to_string() }
    }

    /// Returns the error of too many chunks out of one chunk.
    pub(super) fn too_many(part: &'static str, limit: usize) -> Self {
        let what = "more chunks out of one chunk";
        Self::OverLimit { part, what, limit, setting: "max_chunks", ends_stream: false }
    }
}

/// The errors of one chunk, of which the worst and the count are kept.
#[derive(Debug, Default)]
pub(super) struct Faults {
    worst: Option<FramingError>,
    count: usize,
}

impl Faults {
    pub(super) fn add(&mut self, error: FramingError) {
        self.count = self.count.saturating_add(error.count());
        let error = match error {
            FramingError::Several { source, .. } => *source,
            error => error,
        };
        match &self.worst {
            Some(worst) if worst.ends_stream() || !error.ends_stream() => {}
            _ => self.worst = Some(error),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.worst.is_none()
    }

    pub(super) fn into_result(self) -> Result<(), FramingError> {
        match self.worst {
            None => Ok(()),
            Some(error) if self.count <= error.count() => Err(error),
            Some(error) => Err(FramingError::Several { count: self.count, source: Box::new(error) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_worst_of_several_errors_is_kept_and_all_are_counted() {
        let mut faults = Faults::default();
        faults.add(FramingError::invalid("json", "first"));
        faults.add(FramingError::Incomplete { part: "gzip", what: "a member" });
        faults.add(FramingError::Several { count: 3, source: Box::new(FramingError::too_many("lines", 1)) });
        let error = faults.into_result().unwrap_err();
        assert_eq!((error.count(), error.ends_stream()), (5, true));
        assert!(error.source().unwrap().to_string().contains("`gzip`"), "{error}");
    }

    #[test]
    fn one_error_is_itself() {
        let mut faults = Faults::default();
        assert!(faults.is_empty());
        faults.add(FramingError::invalid("json", "first"));
        let text = faults.into_result().unwrap_err().to_string();
        assert_eq!(text, "`json` cannot read its input: first");
    }
}
