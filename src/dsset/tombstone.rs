//! Forgotten names whose items and events are long gone.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;

use super::listing::Listing;
use crate::clock::micros;
use crate::error::Result;
use crate::store::{Backend, Fault, PrunedSlice, Slice, answered, begin_tx, hold, in_time};

/// Number of tombstones that [`cleanup_garbage`] reads in one transaction.
const CLEANUP_SLICE: u32 = 1_000;

/// Names a tombstone within its shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct TombstoneKey {
    /// The recipient, as `kind/key`.
    pub recipient: String,
    /// The name.
    pub name: String,
}

/// Counts of a pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// Number of tombstones that were read.
    pub walked: u64,
    /// Number of tombstones that got the time at which their event was found to be gone.
    pub stamped: u64,
    /// Number of tombstones that lost that time, because their event is there again.
    pub revived: u64,
    /// Number of tombstones that were deleted: their names are free again.
    pub deleted: u64,
    /// Key after which to continue; `None` at the end.
    pub next: Option<TombstoneKey>,
}

impl Pruned {
    pub(super) fn absorb(&mut self, slice: Pruned) {
        self.walked += slice.walked;
        self.stamped += slice.stamped;
        self.revived += slice.revived;
        self.deleted += slice.deleted;
        self.next = slice.next;
    }
}

/// Prunes `limit` tombstones of a shard, in key order after `after`, inside a transaction.
///
/// | The event of the tombstone | Effect |
/// | --- | --- |
/// | is in the eventbox, a timer or in quarantine | the tombstone loses its stamp |
/// | is gone, and the tombstone has no stamp | the tombstone gets the time of the database's clock as its stamp |
/// | is gone, and the stamp is `tombstone_delay` old | the tombstone is deleted |
///
/// The [`Pruner`](super::Pruner) does this repeatedly. Call it yourself if you have your own scheduler.
///
/// # Errors
///
/// Contention, transient and database errors; roll the transaction back.
///
/// # Cancel safety
///
/// Safe inside its transaction, which must then be rolled back.
pub async fn prune_slice<B: Backend>(
    tx: &mut B::Connection,
    shard: u8,
    after: Option<&TombstoneKey>,
    limit: NonZeroU32,
    tombstone_delay: Duration,
) -> Result<Pruned> {
    let during = |fault: Fault| fault.during(attempt(shard));
    let Some(until) = B::last_tombstone(tx, shard.into()).await.map_err(during)? else { return Ok(Pruned::default()) };
    let until = TombstoneKey { recipient: until.0, name: until.1 };
    let span = Span { shard, after, until: &until, limit: limit.get(), delay: tombstone_delay };
    span.prune::<B>(tx).await.map_err(during)
}

pub(super) fn attempt(shard: u8) -> String {
    format!("prune the tombstones of shard {shard}")
}

/// A range of tombstones of a shard.
pub(super) struct Span<'a> {
    pub(super) shard: u8,
    pub(super) after: Option<&'a TombstoneKey>,
    pub(super) until: &'a TombstoneKey,
    pub(super) limit: u32,
    pub(super) delay: Duration,
}

impl Span<'_> {
    pub(super) async fn prune<B: Backend>(&self, tx: &mut B::Connection) -> Result<Pruned, Fault> {
        let slice = Slice {
            shard: self.shard.into(),
            after: self.after.map_or(("", ""), |after| (&after.recipient, &after.name)),
            until: (&self.until.recipient, &self.until.name),
            limit: self.limit.into(),
            delay_us: micros(self.delay),
        };
        let PrunedSlice { last, walked, stamped, revived, deleted } = B::prune_tombstones(tx, slice).await?;
        let is_full = walked >= i64::from(self.limit);
        let next = last.filter(|_| is_full).map(|(recipient, name)| TombstoneKey { recipient, name });
        let count = |rows: i64| rows.unsigned_abs();
        Ok(Pruned {
            walked: count(walked),
            stamped: count(stamped),
            revived: count(revived),
            deleted: count(deleted),
            next: next.filter(|next| next < self.until),
        })
    }

    /// Does the same in its own transaction.
    pub(super) async fn prune_on<B: Backend>(&self, pool: &Pool<B>) -> Result<Pruned, Fault> {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
        let pruned = in_time::<B, _>(self.prune::<B>(&mut tx)).await?;
        tx.commit().await?;
        Ok(pruned)
    }
}

/// Prunes the names of the listed recipients now, instead of at the next pass of the [`Pruner`](super::Pruner).
///
/// Takes several sets at once, and makes its own transactions. Repeating it is harmless. The names of each listing are
/// kept for the tombstone delay of its set.
///
/// # Errors
///
/// Contention, transient and database errors. The transactions before the error stay committed.
///
/// # Cancel safety
///
/// Safe: the transactions so far stay committed.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), eventbox::BoxError> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::dsset::{Item, Set, cleanup_garbage};
/// use eventbox::Recipient;
///
/// let set = Set::new(Recipient::new("airport", "JFK")?).tombstone_delay(std::time::Duration::ZERO);
/// set.add(&pool, &[Item::new("UA/1545", "departed")]).await?;
/// set.delete(&pool, &["UA/1545"]).await?;
/// let listing = set.list(&pool, 10.try_into()?).await?;
/// assert_eq!(cleanup_garbage(&pool, &[&listing]).await?.stamped, 1);
/// # Ok(()) }
/// ```
pub async fn cleanup_garbage<B: Backend>(pool: &Pool<B>, listings: &[&Listing]) -> Result<Pruned> {
    let mut total = Pruned::default();
    let sets: BTreeMap<_, _> =
        listings.iter().map(|listing| ((listing.of.shard(), &listing.of), listing.delay)).collect();
    for ((shard, of), delay) in sets {
        let during = |fault: Fault| fault.during(format!("clean up the set of {of}"));
        let last = answered(pool, async { B::last_name(&mut *hold(pool).await?, shard.into(), of.as_str()).await });
        let Some(name) = last.await.map_err(during)? else { continue };
        let until = TombstoneKey { recipient: of.to_string(), name };
        let mut after = TombstoneKey { recipient: of.to_string(), name: String::new() };
        loop {
            let span = Span { shard, after: Some(&after), until: &until, limit: CLEANUP_SLICE, delay };
            let pruned = span.prune_on(pool).await.map_err(during)?;
            total.absorb(pruned);
            match total.next.take() {
                Some(next) => after = next,
                None => break,
            }
        }
    }
    Ok(total)
}
