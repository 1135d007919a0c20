//! Emits that tell how deep the box is, and are refused by a full one.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{check, row_of, wake_up};
use crate::clock;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::event::receipt::Receipt;
use crate::eventbox::event::{Event, EventId, trace};
use crate::eventbox::metrics;
use crate::origin;
use crate::recipient::Recipient;
use crate::store::{Backend, DepthBound, EmitExecutor, Measured, Place};

/// Fewest waiting events that make a box [`Many`](DepthClass::Many) events deep.
pub const MANY_WAITING: u32 = 100;

/// Largest [`EmitOptions::max_waiting`]. An emit reads as many entries of the primary key.
pub const MAX_MAX_WAITING: u32 = 10_000;

/// Options of [`emit_with`]. The default only measures the box, and refuses nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmitOptions {
    max_waiting: Option<NonZeroU32>,
}

impl EmitOptions {
    /// Returns the default options.
    #[must_use]
    pub fn new() -> Self {
        EmitOptions::default()
    }

    /// Refuses the emit with [`Error::Full`] when this many events wait in the box already. At most
    /// [`MAX_MAX_WAITING`](crate::limits::MAX_MAX_WAITING), checked at the emit.
    #[must_use]
    pub fn max_waiting(mut self, events: NonZeroU32) -> Self {
        self.max_waiting = Some(events);
        self
    }
}

/// Number of events that wait in a box, as a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DepthClass {
    /// No other event waits.
    Empty,
    /// 1 to 99 events wait. One turn takes them all, with the default of `RuntimeConfig::max_events`.
    Few,
    /// [`MANY_WAITING`](crate::limits::MANY_WAITING) (100) events or more wait.
    Many,
}

/// Depth of a box at an emit: the other events that waited in it. Timers are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// Number of the events, as a class.
    pub class: DepthClass,
    /// Age of the oldest of the events, by the clocks of the process that emitted it and of this process. Zero without
    /// other events.
    pub oldest_age: Duration,
}

impl Depth {
    fn of(measured: &Measured) -> Self {
        let class = match measured.waiting {
            ..=0 => DepthClass::Empty,
            waiting if waiting < MANY_WAITING.into() => DepthClass::Few,
            _ => DepthClass::Many,
        };
        let oldest = measured.oldest.map(|id| EventId(id).emitted_at());
        let oldest_age = oldest.and_then(|at| clock::now().duration_since(at).ok()).unwrap_or_default();
        Depth { class, oldest_age }
    }
}

/// Puts one event into a recipient's eventbox as [`emit`](crate::emit) does, and returns how deep the box is.
///
/// Use it where a sender should slow down, or do without the event, when the recipient does not keep up. The same
/// statement inserts the event and measures the box: on SQLite two statements in one call, as for a named emit. The
/// receipt is that of [`emit`](crate::emit).
///
/// With [`EmitOptions::max_waiting`] a full box refuses the event: [`Error::Full`], and nothing was inserted. A named
/// event that the recipient has or had already is not refused: the receipt says
/// [`Duplicate`](crate::Emitted::Duplicate) or [`Tombstoned`](crate::Emitted::Tombstoned). An event that is due later
/// waits as a timer and not in the box, so it is not refused.
///
/// The bound needs no lock. Each statement counts the events that are committed when it begins, and those of its own
/// transaction. So emits that run at the same time, and open transactions, pass the bound together: the box gets at
/// most as many events over the bound as emits were in flight. Emits by other functions do not look at the bound.
///
/// # Units and limits
///
/// The statement reads up to [`MANY_WAITING`](crate::limits::MANY_WAITING) entries of the primary key, or `max_waiting`
/// if that is more. Besides that it is the statement of a named emit.
///
/// # Errors
///
/// As [`emit`](crate::emit). [`Error::Full`] when the box is full: emit again later. [`Error::Misuse`] when
/// `max_waiting` is over [`MAX_MAX_WAITING`](crate::limits::MAX_MAX_WAITING).
///
/// # Cancel safety
///
/// As [`emit`](crate::emit).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{DepthClass, EmitOptions, Error, Event, Recipient, emit_with};
///
/// let printer = Recipient::new("printer", "2nd-floor")?;
/// let options = EmitOptions::new().max_waiting(2.try_into()?);
/// let (_, depth) = emit_with(&pool, &printer, Event::new("page 1"), options).await?;
/// assert_eq!(depth.class, DepthClass::Empty);
/// let (_, depth) = emit_with(&pool, &printer, Event::new("page 2"), options).await?;
/// assert_eq!(depth.class, DepthClass::Few);
/// let refused = emit_with(&pool, &printer, Event::new("page 3"), options).await;
/// assert!(matches!(refused, Err(Error::Full { max_waiting: 2, .. })));
/// # Ok(()) }
/// ```
pub async fn emit_with<'e, B, E>(
    executor: E,
    to: &Recipient,
    event: Event,
    options: EmitOptions,
) -> Result<(Receipt, Depth)>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    check(to, &event)?;
    let attempt = || format!("emit to {to}");
    let max_waiting = options.max_waiting.map(NonZeroU32::get);
    if let Some(bound) = max_waiting.filter(|bound| *bound > MAX_MAX_WAITING) {
        let misuse = Misuse::BoundTooLarge { what: "max_waiting", bound, limit: MAX_MAX_WAITING };
        return Err(Error::misuse(attempt(), misuse));
    }
    let bound = DepthBound {
        count_up_to: max_waiting.unwrap_or(0).max(MANY_WAITING).into(),
        max_waiting: max_waiting.map_or(i64::MAX, i64::from),
    };
    let (current, origin) = (trace::current(), origin::current());
    let id = EventId::mint();
    let row = row_of(to, &event, id, current.as_deref(), origin.as_ref());
    let place = executor.place();
    let is_committed = matches!(place, Place::Pool(_));
    let measured = match place {
        Place::Pool(pool) => B::insert_measured_on_pool(pool, row, bound).await,
        Place::Connection(conn) => B::insert_measured(conn, row, bound).await,
    };
    let measured = measured.map_err(|fault| fault.during_commit(attempt()))?;
    let depth = Depth::of(&measured);
    let Some(emitted) = measured.emitted else {
        let max_waiting = max_waiting.unwrap_or(u32::MAX);
        return Err(Error::Full { attempt: attempt(), max_waiting, oldest_age: depth.oldest_age });
    };
    metrics::emitted(to, emitted);
    wake_up::wake(&std::iter::once(to), is_committed);
    Ok((Receipt::new(to.clone(), emitted, id, event.name()), depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_bounds_that_are_documented() {
        let class = |waiting| Depth::of(&Measured { emitted: None, waiting, oldest: None }).class;
        let many = i64::from(MANY_WAITING);
        assert_eq!([0, 1, many - 1].map(class), [DepthClass::Empty, DepthClass::Few, DepthClass::Few]);
        assert_eq!([many, i64::MAX].map(class), [DepthClass::Many; 2]);
        assert_eq!(MANY_WAITING, 100);
    }

    #[test]
    fn an_age_is_never_negative() {
        let measured = |oldest| Measured { emitted: None, waiting: 1, oldest: Some(oldest) };
        let ahead = uuid::Uuid::from_u128(((u128::MAX >> 1) & !(0xf << 76)) | (0x7 << 76));
        assert_eq!(Depth::of(&measured(ahead)).oldest_age, Duration::ZERO);
        assert!(Depth::of(&measured(uuid::Uuid::nil())).oldest_age > Duration::ZERO);
    }
}
