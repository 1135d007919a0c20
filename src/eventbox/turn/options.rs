//! Bounds of a turn.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::poison::PoisonPolicy;
use crate::clock::micros;
use crate::eventbox::event::EventId;
use crate::recipient::Recipient;
use crate::store::Bound;

/// Time that the user's code and the locks of one attempt may take together, unless [`TurnOptions::deadline`] says
/// otherwise.
pub const DEFAULT_TURN_DEADLINE: Duration = Duration::from_secs(60);

/// Time for the hooks of one turn, unless [`TurnOptions::hook_deadline`] says otherwise.
pub const DEFAULT_HOOK_DEADLINE: Duration = Duration::from_secs(30);

/// Most bytes of the values of the events of one turn, or of one round, unless [`TurnOptions::max_bytes`] or the
/// runtime's settings say otherwise. A larger event gets a turn without other events.
pub const DEFAULT_TURN_BYTES: usize = 32 << 20;

/// Judges failures of recipients, for a runtime that sees the failures of many.
pub(crate) trait Jury: Debug + Send + Sync {
    /// Returns whether a failure is the recipient's own, so that it counts towards poison.
    fn counts(&self, to: &Recipient, error: &(dyn StdError + 'static)) -> bool;

    /// Reports that a failure that counts is stored in the database.
    fn is_noted(&self);
}

/// Returns the longest wait of a failing recipient that is taken for a back-off, in microseconds: twice the longest
/// pause. A longer wait was stored before the database's clock went back.
pub(crate) fn longest_pause_us(cap: Duration) -> i64 {
    micros(cap.saturating_mul(2))
}

/// Options of [`process_batch_with`](crate::process_batch_with).
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use eventbox::{PoisonPolicy, TurnOptions};
///
/// let three = NonZeroU32::new(3).ok_or("three is not zero")?;
/// let options = TurnOptions::new(100.try_into()?)
///     .deadline(Duration::from_secs(5))
///     .poison(PoisonPolicy::Isolate { after: three });
/// # let _ = options;
/// # Ok::<(), eventbox::BoxError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TurnOptions {
    max_events: NonZeroU32,
    max_bytes: usize,
    deadline: Duration,
    hook_deadline: Duration,
    returns_hooks: bool,
    poison: PoisonPolicy,
    /// First and longest pause of a failing recipient; `None`: failures are not recorded.
    backoff: Option<(Duration, Duration)>,
    searching: bool,
    /// Jury that decides whether a failure counts; `None` counts every failure.
    jury: Option<Arc<dyn Jury>>,
    /// Event after which the listing begins; the nil id lists from the start.
    after: EventId,
    /// Whether the time of each phase is recorded by shard, too.
    by_shard: bool,
}

impl TurnOptions {
    /// Makes options for turns of up to `max_events` events, with the defaults for all other bounds.
    pub fn new(max_events: NonZeroU32) -> Self {
        TurnOptions {
            max_events,
            max_bytes: DEFAULT_TURN_BYTES,
            deadline: DEFAULT_TURN_DEADLINE,
            hook_deadline: DEFAULT_HOOK_DEADLINE,
            returns_hooks: false,
            poison: PoisonPolicy::Block,
            backoff: None,
            searching: false,
            jury: None,
            after: EventId::NIL,
            by_shard: false,
        }
    }

    /// Sets the time that the user's code and the locks of one attempt may take together. After that the attempt is
    /// rolled back with [`Error::Deadline`](crate::Error::Deadline). Code that blocks its thread cannot be stopped.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Bounds the time of the hooks of one turn together; [`DEFAULT_HOOK_DEADLINE`] by default. After it
    /// [`Turn::hook_errors`](crate::Turn::hook_errors) says so, and the hooks that have not run are dropped.
    pub fn hook_deadline(mut self, deadline: Duration) -> Self {
        self.hook_deadline = deadline;
        self
    }

    /// Leaves the hooks to the caller, in [`Turn::post_process`](crate::Turn::post_process), instead of running them.
    ///
    /// Use it to run them elsewhere, or after something of your own; [`Turn::run_hooks`](crate::Turn::run_hooks) runs
    /// all.
    pub fn return_hooks(mut self) -> Self {
        self.returns_hooks = true;
        self
    }

    /// Sets the most bytes of the values of one turn; [`DEFAULT_TURN_BYTES`] by default. The first event is listed
    /// whatever its size, so 0 makes turns of one event. The other events wait for the next turn.
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the policy for a batch that keeps failing; [`PoisonPolicy::Block`] by default.
    pub fn poison(mut self, poison: PoisonPolicy) -> Self {
        self.poison = poison;
        self
    }

    /// Returns options for a part of a failing batch. Its success does not clear the failures, so that the search
    /// continues at once.
    pub(crate) fn searching(&self, max_events: NonZeroU32) -> Self {
        TurnOptions { max_events, searching: true, ..self.clone() }
    }

    /// Stores every failure, and pauses the recipient: first for `base`, doubled with every failure in a row up to
    /// `cap`.
    #[cfg(feature = "runtime")]
    pub(crate) fn backing_off(mut self, base: Duration, cap: Duration) -> Self {
        self.backoff = Some((base, cap));
        self
    }

    /// Sets the jury that decides whether a failure counts.
    #[cfg(feature = "runtime")]
    pub(crate) fn judged_by(mut self, jury: Arc<dyn Jury>) -> Self {
        self.jury = Some(jury);
        self
    }

    pub(super) fn jury(&self) -> Option<&dyn Jury> {
        self.jury.as_deref()
    }

    /// Lists only events after this one.
    #[cfg(feature = "runtime")]
    pub(crate) fn behind(mut self, after: EventId) -> Self {
        self.after = after;
        self
    }

    /// Says whether the metric `eventbox_shard_phase_seconds` has the time of each phase by shard; `false` by default.
    pub fn shard_metrics(mut self, by_shard: bool) -> Self {
        self.by_shard = by_shard;
        self
    }

    /// Returns the shard of a recipient, when its time is recorded by shard.
    pub(super) fn shard_to_record(&self, of: &Recipient) -> Option<std::iter::Once<(u8, u32)>> {
        self.by_shard.then(|| std::iter::once((of.shard(), 1)))
    }

    pub(super) fn after(&self) -> EventId {
        self.after
    }

    /// Returns whether a recipient that may be retried in `wait_us` is skipped because it is backing off.
    pub(super) fn leaves_alone(&self, wait_us: i64) -> bool {
        let longest = self.backoff.map_or(0, |(_, cap)| longest_pause_us(cap));
        !self.searching && (1..=longest).contains(&wait_us)
    }

    pub(super) fn max_events(&self) -> NonZeroU32 {
        self.max_events
    }

    /// Returns the bound of a listing: one event more than the turn takes, to know whether there are more.
    pub(super) fn bound(&self) -> Bound {
        Bound::new(i64::from(self.max_events.get()) + 1, self.max_bytes)
    }

    pub(super) fn is_searching(&self) -> bool {
        self.searching
    }

    pub(super) fn backoff(&self) -> Option<(Duration, Duration)> {
        self.backoff
    }

    pub(super) fn deadline_of_attempt(&self) -> Duration {
        self.deadline
    }

    pub(super) fn deadline_of_hooks(&self) -> Duration {
        self.hook_deadline
    }

    pub(super) fn returns_hooks(&self) -> bool {
        self.returns_hooks
    }

    pub(super) fn poison_policy(&self) -> PoisonPolicy {
        self.poison
    }
}
