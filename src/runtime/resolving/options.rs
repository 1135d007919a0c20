//! What a call of a resolver asks.

use std::time::Duration;

use crate::eventbox::Receipt;

/// What to wait for, and what a call that was sent on says, for
/// [`Resolver::resolve`](crate::runtime::Resolver::resolve). The default waits for nothing.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use eventbox::runtime::ResolveOptions;
///
/// let options = ResolveOptions::new().wait(Duration::from_secs(5)).generation(7);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ResolveOptions {
    pub(super) wait: Duration,
    pub(super) read_through: Option<Receipt>,
    pub(super) generation: Option<i64>,
}

impl ResolveOptions {
    /// Returns options that wait for nothing.
    #[must_use]
    pub fn new() -> Self {
        ResolveOptions::default()
    }

    /// Waits at most this long, in all: until a process works on the shard, and until the receipt of `read_through` was
    /// processed. Zero, the default, looks once.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Answers [`ResolveStatus::Ok`](crate::runtime::ResolveStatus::Ok) only after the event of this receipt was
    /// processed, so that the caller reads its own writes. A receipt of another shard is ignored, because this shard
    /// does not process its event.
    #[must_use]
    pub fn read_through(mut self, receipt: Receipt) -> Self {
        self.read_through = Some(receipt);
        self
    }

    /// Names the generation of the lease with which another process found this one, and sent the call on. Another
    /// generation than the lease's is refused with
    /// [`ResolveStatus::WrongGeneration`](crate::runtime::ResolveStatus::WrongGeneration): an older one at once, a
    /// newer one when the wait is over.
    #[must_use]
    pub fn generation(mut self, generation: i64) -> Self {
        self.generation = Some(generation);
        self
    }
}
