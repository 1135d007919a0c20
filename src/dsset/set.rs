//! The set of a recipient.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;
use uuid::Uuid;

use super::item::Item;
use super::listing::Listing;
use super::pop::{PopOp, PopTx};
use crate::clock::micros;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::{Emitted, MAX_EMIT_EVENTS, emit_all};
use crate::recipient::{Recipient, check_key};
use crate::store::{Backend, Bound, EmitExecutor, Fault, answered, begin_tx, hold};

/// Default time for which a name stays remembered after its item or event is gone.
pub const DEFAULT_TOMBSTONE_DELAY: Duration = Duration::from_secs(5 * 60);

/// Most bytes of the values of one [`Listing`] together; the first item is listed whatever its size.
pub const MAX_LISTING_BYTES: usize = 32 << 20;

/// The named events of a recipient's box, as a set of items.
///
/// It holds no data of its own, so make one wherever it is needed.
#[derive(Debug, Clone)]
pub struct Set {
    of: Recipient,
    delay: Duration,
}

impl Set {
    /// Makes the set of a recipient, with the [`DEFAULT_TOMBSTONE_DELAY`].
    #[must_use]
    pub fn new(of: Recipient) -> Self {
        Set { of, delay: DEFAULT_TOMBSTONE_DELAY }
    }

    /// Sets the tombstone delay: the largest age of a listing that is popped, and the time for which
    /// [`cleanup_garbage`](super::cleanup_garbage) keeps names.
    ///
    /// Use the delay of the [`Pruner`](super::Pruner), and far more time than passes between a list and its pop.
    #[must_use]
    pub fn tombstone_delay(self, delay: Duration) -> Self {
        Set { delay, ..self }
    }

    /// Returns the recipient of the set.
    #[must_use]
    pub fn of(&self) -> &Recipient {
        &self.of
    }

    /// Emits items as named events of the recipient, each once. Returns one result for each item, in their order.
    ///
    /// An id that is in the set or remembered changes nothing. It is one [`emit_all`](crate::emit_all): all items or
    /// none, in the caller's transaction with `&mut *tx`, with its limits, its counts and its wake-ups.
    ///
    /// # Errors
    ///
    /// As [`emit_all`](crate::emit_all). Adding the same items again is safe after every error, also after
    /// [`Error::Unknown`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have added the items; adding them again is harmless.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn add<'e, B, E>(&self, executor: E, items: &[Item]) -> Result<Vec<Emitted>>
    where
        B: Backend,
        E: EmitExecutor<'e, Database = B>,
    {
        let events: Vec<_> = items.iter().map(|item| (self.of.clone(), item.event())).collect();
        emit_all(executor, &events).await
    }

    /// Lists the oldest items, `max` at most and at most [`MAX_LISTING_BYTES`] of values, and the names that are
    /// garbage.
    ///
    /// It takes a pool, because the transaction that pops the listing must begin after it.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn list<B: Backend>(&self, pool: &Pool<B>, max: NonZeroU32) -> Result<Listing> {
        let (shard, recipient) = (self.of.shard().into(), self.of.as_str());
        let read = answered(pool, async {
            let conn = &mut *hold(pool).await?;
            // The clock comes before the items, so that the listing is never younger than it is taken for.
            let moment = B::read_moment(conn, shard, recipient).await?;
            let bound = Bound::new(i64::from(max.get()) + 1, MAX_LISTING_BYTES);
            let page = B::list_items(conn, shard, recipient, bound).await?;
            let garbage = B::expired_names(conn, shard, recipient, micros(self.delay), max.get().into()).await?;
            Ok((moment, page, garbage))
        });
        let (moment, page, garbage) =
            read.await.map_err(|fault: Fault| fault.during(format!("list the set of {}", self.of)))?;
        let mut rows = page.rows;
        let more_remain = page.is_cut || rows.len() > max.get() as usize;
        rows.truncate(max.get() as usize);
        let (events, items) = rows.into_iter().map(|row| (row.id, Item::new(row.name, row.value))).unzip();
        let (of, delay) = (self.of.clone(), self.delay);
        Ok(Listing { of, delay, listed_at_us: moment.now_us, items, events, more_remain, garbage })
    }

    /// Deletes items by id, in its own transaction. Returns the number of items that were there.
    ///
    /// It moves the recipient's turn, so a turn or a pop in flight fails as contention instead of using a deleted item.
    /// The ids stay remembered for the tombstone delay, so a repeated add does not bring the items back.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] before any SQL for more than [`MAX_EMIT_EVENTS`] ids, or a text that cannot be an id.
    /// Contention, transient and database errors. [`Error::Unknown`] when the connection was lost during the commit:
    /// deleting again is harmless.
    ///
    /// # Cancel safety
    ///
    /// Safe: all of them are deleted or none.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn delete<B: Backend>(&self, pool: &Pool<B>, ids: &[&str]) -> Result<u64> {
        let attempt = || format!("delete from the set of {}", self.of);
        if ids.len() > MAX_EMIT_EVENTS {
            let misuse = Misuse::TooMany { count: ids.len(), limit: MAX_EMIT_EVENTS };
            return Err(Error::misuse(attempt(), misuse));
        }
        ids.iter().try_for_each(|id| check_key("item's id", id)).map_err(|misuse| Error::misuse(attempt(), misuse))?;
        let (shard, recipient) = (self.of.shard().into(), self.of.as_str());
        let write = answered(pool, async {
            let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
            B::move_turn(&mut tx, shard, recipient, Uuid::new_v4()).await?;
            let deleted = B::delete_named_events(&mut tx, shard, recipient, ids).await?;
            Ok((tx, deleted))
        });
        let (tx, deleted) = write.await.map_err(|fault| fault.during(attempt()))?;
        if deleted == 0 {
            tx.rollback().await;
        } else {
            tx.commit().await.map_err(|fault| fault.during_commit(attempt()))?;
        }
        Ok(deleted)
    }

    /// Begins to pop items of a listing in a transaction; [`finish_pop`](super::finish_pop) removes the popped items.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] when the listing is of another set; [`Error::Stale`] (transient) when it is older than the
    /// tombstone delay, by the database's clock; contention, transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is written.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn begin_pop<B: Backend>(&self, tx: &mut PopTx<B>, listing: &Listing) -> Result<PopOp> {
        let attempt = || format!("begin to pop from the set of {}", self.of);
        if listing.of != self.of {
            let listed = listing.of.to_string();
            return Err(Error::misuse(attempt(), Misuse::ForeignListing { listed }));
        }
        let (shard, recipient) = (self.of.shard().into(), self.of.as_str());
        let during = |fault: Fault| fault.during(attempt());
        // The turn is read before the items: a turn that still matches at the end proves that these items are still
        // there.
        let moment = B::read_moment(&mut *tx, shard, recipient).await.map_err(during)?;
        let age_us = moment.now_us.saturating_sub(listing.listed_at_us);
        // A listing of the future is of a clock that has gone back since: it may be of any age.
        if age_us.saturating_abs() > micros(self.delay) {
            let age = Duration::from_micros(age_us.unsigned_abs());
            return Err(Error::Stale { attempt: attempt(), age, delay: self.delay });
        }
        let living = B::living_events(&mut *tx, shard, recipient, &listing.events).await.map_err(during)?;
        let living: HashSet<Uuid> = living.into_iter().collect();
        let items = listing.items.iter().map(|item| item.id().to_owned()).zip(listing.events.iter().copied());
        let items: HashMap<String, Uuid> = items.filter(|(_, event)| living.contains(event)).collect();
        Ok(PopOp::new(self.of.clone(), tx.number(), moment.turn, items))
    }
}
