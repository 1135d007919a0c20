//! The set of a recipient.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;
use uuid::Uuid;

use super::error::{Error, Misuse};
use super::item::{Added, Item, MAX_ITEMS, check_items};
use super::listing::Listing;
use super::pop::{PopOp, PopTx};
use super::tombstone::micros;
use crate::clock::new_id;
use crate::recipient::{Recipient, check_key};
use crate::store::{Backend, Bound, EmitExecutor, EventRow, Fault, answered, begin_tx, hold};

/// Default time for which a name stays remembered after its item or event is gone.
pub const DEFAULT_TOMBSTONE_DELAY: Duration = Duration::from_secs(5 * 60);

/// The most bytes that the values of one [`Listing`] have together; one item is always listed.
pub const MAX_LISTING_BYTES: usize = 32 << 20;

/// The named events of a recipient's box, as a set of items.
///
/// It is a name for what is in the database and holds nothing itself: make one wherever it is needed.
#[derive(Debug, Clone)]
pub struct Set {
    of: Recipient,
    delay: Duration,
}

impl Set {
    /// The set of a recipient, with the [`DEFAULT_TOMBSTONE_DELAY`].
    #[must_use]
    pub fn new(of: Recipient) -> Self {
        Set { of, delay: DEFAULT_TOMBSTONE_DELAY }
    }

    /// Sets the tombstone delay: how old a listing may be when it is popped, and how long [`cleanup_garbage`](super::cleanup_garbage) keeps names.
    ///
    /// Take the [`Pruner`](super::Pruner)'s, and far more than passes between a list and its pop.
    #[must_use]
    pub fn tombstone_delay(self, delay: Duration) -> Self {
        Set { delay, ..self }
    }

    /// Whose set it is.
    #[must_use]
    pub fn of(&self) -> &Recipient {
        &self.of
    }

    /// Adds items, each once: an id that is in the set or remembered changes nothing. Answers one value an item, in their order.
    ///
    /// One statement, so all of them or none; with `&mut *tx` it is part of the caller's transaction. It is safe to repeat after any error.
    /// On a pool it waits for an id that an open transaction holds as [`emit`](crate::emit) waits for a name; then it is contention.
    ///
    /// # Units and limits
    ///
    /// [`MAX_ITEMS`], [`MAX_ITEMS_BYTES`](super::MAX_ITEMS_BYTES), and those of [`Item`]. None at all is fine and runs no SQL.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] before any SQL when a limit is broken; else transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have added the items; adding them again is harmless.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn add<'e, B, E>(&self, executor: E, items: &[Item]) -> Result<Vec<Added>, Error>
    where
        B: Backend,
        E: EmitExecutor<'e, Database = B>,
    {
        check_items(&self.of, items)?;
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let row = |item| (new_id(), item);
        let mut rows: Vec<(usize, (Uuid, &Item))> = items.iter().map(row).enumerate().collect();
        // In the order of the key, which is the order of locking; of items with one id the first counts.
        rows.sort_by(|(_, (a_id, a)), (_, (b_id, b))| (a.id(), a_id).cmp(&(b.id(), b_id)));
        rows.dedup_by(|(_, (_, later)), (_, (_, first))| later.id() == first.id());
        let events: Vec<EventRow<'_>> = rows.iter().map(|(_, (id, item))| self.event(*id, item)).collect();
        let noted = match executor.pool() {
            Some(pool) => B::insert_all_on_pool(&pool, &events).await,
            None => B::insert_events(executor, &events).await,
        };
        let attempt = || format!("add {} items to the set of {}", items.len(), self.of);
        let noted = noted.map_err(|fault| Error::during(fault, attempt()))?;
        let mut answers = vec![Added::Duplicate; items.len()];
        for ((position, _), noted) in rows.into_iter().zip(noted) {
            if let Some(answer) = answers.get_mut(position) {
                *answer = noted.into();
            }
        }
        Ok(answers)
    }

    fn event<'a>(&'a self, id: Uuid, item: &'a Item) -> EventRow<'a> {
        EventRow {
            shard: self.of.shard().into(),
            recipient: self.of.as_str(),
            id,
            name: Some(item.id()),
            traceparent: None,
            value: item.value(),
            due: None,
        }
    }

    /// Lists the oldest items, `max` at most and no more than fit into [`MAX_LISTING_BYTES`], and what of the set's
    /// names is garbage.
    ///
    /// It takes a pool because it belongs outside of transactions: the listing is to be popped in one that begins after it.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn list<B: Backend>(&self, pool: &Pool<B>, max: NonZeroU32) -> Result<Listing, Error> {
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
            read.await.map_err(|fault: Fault| Error::during(fault, format!("list the set of {}", self.of)))?;
        let mut rows = page.rows;
        let more_remain = page.is_cut || rows.len() > max.get() as usize;
        rows.truncate(max.get() as usize);
        let (events, items) = rows.into_iter().map(|row| (row.id, Item::new(row.name, row.value))).unzip();
        let (of, delay) = (self.of.clone(), self.delay);
        Ok(Listing { of, delay, listed_at_us: moment.now_us, items, events, more_remain, garbage })
    }

    /// Deletes items by id, in a transaction of its own; answers how many were there. Ids that are not there are left out.
    ///
    /// For items that nobody needs. It moves the recipient's turn, so a turn or a pop in flight fails as contention instead of using what
    /// was deleted; and the ids stay remembered for the tombstone delay, so a re-send does not bring them back.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] before any SQL: more than [`MAX_ITEMS`] ids, or one that cannot be an id. Contention, transient and database errors;
    /// [`Error::Unknown`] when the connection was lost during the commit: deleting again is harmless.
    ///
    /// # Cancel safety
    ///
    /// Safe: all of them are deleted or none.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn delete<B: Backend>(&self, pool: &Pool<B>, ids: &[&str]) -> Result<u64, Error> {
        let attempt = || format!("delete from the set of {}", self.of);
        if ids.len() > MAX_ITEMS {
            let misuse = crate::error::Misuse::TooMany { count: ids.len(), limit: MAX_ITEMS };
            return Err(Error::limit(attempt(), misuse));
        }
        ids.iter().try_for_each(|id| check_key("item's id", id)).map_err(|misuse| Error::limit(attempt(), misuse))?;
        let (shard, recipient) = (self.of.shard().into(), self.of.as_str());
        let write = answered(pool, async {
            let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
            B::move_turn(&mut tx, shard, recipient, Uuid::new_v4()).await?;
            let deleted = B::delete_named_events(&mut tx, shard, recipient, ids).await?;
            Ok((tx, deleted))
        });
        let (tx, deleted) = write.await.map_err(|fault| Error::during(fault, attempt()))?;
        if deleted == 0 {
            tx.rollback().await;
        } else {
            tx.commit().await.map_err(|fault| Error::during_commit(fault, attempt()))?;
        }
        Ok(deleted)
    }

    /// Begins to pop items of a listing in a transaction; [`finish_pop`](super::finish_pop) removes what was popped.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] when the listing is of another set; [`Error::Stale`] (transient) when it is older than the tombstone delay, by the
    /// database's clock; contention, transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is written.
    ///
    /// # Examples
    ///
    /// See [the module](crate::dsset).
    pub async fn begin_pop<B: Backend>(&self, tx: &mut PopTx<B>, listing: &Listing) -> Result<PopOp, Error> {
        let attempt = || format!("begin to pop from the set of {}", self.of);
        if listing.of != self.of {
            let listed = listing.of.to_string();
            return Err(Error::misuse(attempt(), Misuse::ForeignListing { listed }));
        }
        let (shard, recipient) = (self.of.shard().into(), self.of.as_str());
        let during = |fault: Fault| Error::during(fault, attempt());
        // The turn comes before the items: a turn that still matches at the end proves that what was seen here is still there.
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
