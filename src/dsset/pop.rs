//! Removing items together with other writes.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection, Pool, Transaction};
use uuid::Uuid;

use crate::error::{Error, Misuse, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Tx, begin_tx, in_time};

/// A transaction in which items are popped.
///
/// `&mut *tx` is the connection, for your own statements.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct PopTx<B: Backend> {
    tx: Inner<B>,
    number: u64,
    broken: bool,
    /// Turns that pops of this transaction made, with their tokens.
    moved: Vec<(Recipient, Uuid)>,
}

#[derive(Debug)]
enum Inner<B: Backend> {
    Ours(Tx<B>),
    Users(Transaction<'static, B>),
}

impl<B: Backend> PopTx<B> {
    /// Begins a transaction that writes from its first statement.
    ///
    /// # Errors
    ///
    /// Contention when SQLite's writer was busy for the busy timeout; transient when the pool had no connection.
    ///
    /// # Cancel safety
    ///
    /// Safe: the transaction is rolled back.
    pub async fn begin(pool: &Pool<B>) -> Result<Self> {
        let begun = begin_tx(pool, B::BEGIN_WRITE, false).await;
        Ok(Self::of(Inner::Ours(begun.map_err(|fault| fault.during("begin a transaction to pop in"))?)))
    }

    /// Commits: the popped items are gone, together with the caller's own writes.
    ///
    /// # Errors
    ///
    /// * [`Misuse::PopNotFinished`] when [`finish_pop`] failed in this transaction, which is rolled back.
    /// * [`Misuse::PopUndone`] when your statements have undone the pop. The transaction is rolled back.
    /// * [`Error::Unknown`] when the connection was lost, so that the commit may have happened: list again to see.
    /// * Contention, transient and database errors: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have committed: list again to see.
    pub async fn commit(mut self) -> Result<()> {
        const ATTEMPT: &str = "commit what was popped";
        if self.broken {
            self.rollback().await?;
            return Err(Error::misuse(ATTEMPT, Misuse::PopNotFinished));
        }
        if !self.holds().await.map_err(|fault| fault.during(ATTEMPT))? {
            // An open transaction is rolled back with the connection.
            return Err(Error::misuse(ATTEMPT, Misuse::PopUndone));
        }
        let committed = match self.tx {
            Inner::Ours(tx) => tx.commit().await,
            Inner::Users(tx) => in_time::<B, _>(async { Ok(tx.commit().await?) }).await,
        };
        committed.map_err(|fault| fault.during_commit(ATTEMPT))
    }

    /// Rolls back, so that nothing is popped.
    ///
    /// # Errors
    ///
    /// Transient and database errors of a transaction that the caller began; one of the set's own has none. The
    /// transaction is rolled back also then.
    ///
    /// # Cancel safety
    ///
    /// Safe: the transaction is rolled back.
    pub async fn rollback(self) -> Result<()> {
        match self.tx {
            Inner::Ours(tx) => tx.rollback().await,
            Inner::Users(tx) => {
                let rolled_back = in_time::<B, _>(async { Ok(tx.rollback().await?) }).await;
                rolled_back.map_err(|fault| fault.during("roll back what was popped"))?;
            }
        }
        Ok(())
    }

    /// Returns whether the pop still stands and the transaction can commit. The caller's statements may have ended the
    /// transaction, undone a part of it, or failed.
    async fn holds(&mut self) -> Result<bool, Fault> {
        if !self.is_in_transaction() {
            return Ok(false);
        }
        let moved = std::mem::take(&mut self.moved);
        for (of, token) in &moved {
            let found = in_time::<B, _>(B::is_turn_of(&mut *self, of.shard().into(), of.as_str(), *token)).await;
            match found {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(fault) if fault.is_of_a_failed_transaction() => return Ok(false),
                Err(fault) => return Err(fault),
            }
        }
        Ok(true)
    }

    fn of(tx: Inner<B>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        PopTx { tx, number: NUMBERS.fetch_add(1, Ordering::Relaxed), broken: false, moved: Vec::new() }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// Pops in a transaction that has begun already.
impl<B: Backend> From<Transaction<'static, B>> for PopTx<B> {
    fn from(tx: Transaction<'static, B>) -> Self {
        Self::of(Inner::Users(tx))
    }
}

impl<B: Backend> Deref for PopTx<B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        match &self.tx {
            Inner::Ours(tx) => tx,
            Inner::Users(tx) => tx,
        }
    }
}

impl<B: Backend> DerefMut for PopTx<B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        match &mut self.tx {
            Inner::Ours(tx) => tx,
            Inner::Users(tx) => tx,
        }
    }
}

/// The items of one set that a transaction pops. Nothing is popped before [`finish_pop`].
#[derive(Debug)]
#[must_use = "nothing is popped before finish_pop"]
pub struct PopOp {
    of: Recipient,
    transaction: u64,
    turn: i64,
    items: HashMap<String, Uuid>,
    popped: Vec<(String, Uuid)>,
}

impl PopOp {
    pub(super) fn new(of: Recipient, transaction: u64, turn: i64, items: HashMap<String, Uuid>) -> Self {
        PopOp { of, transaction, turn, items, popped: Vec::new() }
    }

    /// Returns whether an item was listed, is still there and was not popped by this operation.
    #[must_use]
    pub fn can_pop(&self, id: &str) -> bool {
        self.items.contains_key(id)
    }

    /// Pops an item. Returns false when [`can_pop`](PopOp::can_pop) is false.
    pub fn pop(&mut self, id: &str) -> bool {
        match self.items.remove_entry(id) {
            Some(item) => {
                self.popped.push(item);
                true
            }
            None => false,
        }
    }
}

/// Removes the popped items of several sets in one transaction. Returns their number.
///
/// For each recipient with popped items, in the order of (shard, recipient), it moves the turn by compare-and-set from
/// its value at the beginning of the operation, and deletes the items. When the transaction commits, no other
/// transaction has popped these items. Their ids stay remembered for the tombstone delay.
///
/// # Errors
///
/// [`Error::Misuse`] when an operation was begun in another transaction, or two of them popped one item: nothing was
/// written. Contention when another writer of a recipient came first or an item is gone. Transient and database errors.
/// After any error the transaction can only be rolled back.
///
/// # Cancel safety
///
/// A transaction in which this future was dropped can only be rolled back.
///
/// # Examples
///
/// See [the module](crate::dsset).
pub async fn finish_pop<B: Backend>(tx: &mut PopTx<B>, ops: impl IntoIterator<Item = PopOp>) -> Result<usize> {
    let mut ops: Vec<PopOp> = ops.into_iter().collect();
    // A dropped future counts as a failed pop, so the flag is set until the end.
    let was_broken = std::mem::replace(&mut tx.broken, true);
    if let Some(op) = ops.iter().find(|op| op.transaction != tx.number) {
        return Err(Error::misuse(attempt(&op.of), Misuse::OtherTransaction));
    }
    ops.retain(|op| !op.popped.is_empty());
    ops.sort_by(|a, b| (a.of.shard(), a.of.as_str()).cmp(&(b.of.shard(), b.of.as_str())));
    let mut seen = HashSet::new();
    for op in &ops {
        if let Some((id, _)) = op.popped.iter().find(|(_, event)| !seen.insert(*event)) {
            return Err(Error::misuse(attempt(&op.of), Misuse::PoppedTwice { id: id.clone() }));
        }
    }
    for same in ops.chunk_by(|a, b| a.of == b.of) {
        remove(tx, same).await?;
    }
    tx.broken = was_broken;
    Ok(seen.len())
}

/// Removes the popped items of one recipient.
async fn remove<B: Backend>(tx: &mut PopTx<B>, ops: &[PopOp]) -> Result<()> {
    let Some(first) = ops.first() else { return Ok(()) };
    let of = &first.of;
    let (shard, turn) = (of.shard().into(), first.turn);
    let during = |fault: Fault| fault.during(attempt(of));
    let (is_same_turn, token) = (ops.iter().all(|op| op.turn == turn), Uuid::new_v4());
    if !is_same_turn
        || !in_time::<B, _>(B::advance_turn(&mut *tx, shard, of.as_str(), turn, token)).await.map_err(during)?
    {
        return Err(Error::contention(attempt(of)));
    }
    tx.moved.retain(|(moved, _)| moved != of);
    tx.moved.push((of.clone(), token));
    let events: Vec<Uuid> = ops.iter().flat_map(|op| &op.popped).map(|(_, event)| *event).collect();
    let removed = in_time::<B, _>(B::delete_events(&mut *tx, shard, of.as_str(), &events)).await.map_err(during)?;
    if removed != events.len() as u64 {
        return Err(Error::contention(attempt(of)));
    }
    Ok(())
}

fn attempt(of: &Recipient) -> String {
    format!("finish a pop from the set of {of}")
}
