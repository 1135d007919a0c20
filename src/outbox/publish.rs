//! Writes messages into the outbox, in a transaction of the caller or alone.

use std::time::Duration;

use sqlx::Database;

use crate::cloudevent::CloudEvent;
use crate::error::Result;
use crate::origin::SharedOrigin;
use crate::outbox::row::{FIRST_CLAIM_TTL, IdempotencyKey, Stored, lay_together, micros, prepare, prepare_as, row};
use crate::outbox::writer::Writer;
use crate::store::{Backend, EmitExecutor, Fault, in_time};

/// Largest number of bytes of messages in one statement that stores them in the outbox, and in one claim of rows. A
/// statement always takes one message, whatever its size.
pub const MAX_OUTBOX_BYTES: usize = 16 << 20;

/// Largest number of bytes of the messages that one turn publishes. A decision with more is refused with
/// [`Misuse::TooLong`](crate::Misuse::TooLong), so that no turn makes a transaction without a bound.
pub const MAX_PUBLISHED_BYTES: usize = 64 << 20;

/// Puts a message into the outbox, alone or inside the caller's transaction. No emitter needs to run.
///
/// `&mut *tx` joins the caller's transaction: the message is delivered exactly if the transaction commits. It is
/// delivered at least once: at once through `DurableEmitter::deliver`, or after [`FIRST_CLAIM_TTL`] by any host on this
/// database. A message without an idempotency key gets one that is unique to this call.
///
/// # Errors
///
/// Contention, transient or database errors. [`Error::Unknown`](crate::Error::Unknown) when the connection was lost:
/// the message may or may not be stored.
///
/// # Cancel safety
///
/// A dropped future may or may not have stored the message; in a transaction, roll back.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{CloudEvent, outbox};
///
/// let mut tx = eventbox::begin(&pool).await?;
/// let event = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?;
/// let stored = outbox::publish_in(&mut *tx, event).await?;
/// tx.commit().await?;
/// // emitter.deliver(stored) sends it now. Without that, a host sends it after FIRST_CLAIM_TTL.
/// # drop(stored);
/// # Ok(()) }
/// ```
pub async fn publish_in<'e, B, E>(executor: E, event: CloudEvent) -> Result<Stored>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    let mut stored = prepare(event, FIRST_CLAIM_TTL, IdempotencyKey::Unique);
    let inserted = match executor.pool() {
        Some(pool) => B::insert_outbox_on_pool(&pool, &[row(&stored)], micros(FIRST_CLAIM_TTL)).await,
        None => in_time::<B, _>(B::insert_outbox(executor, &row(&stored), micros(FIRST_CLAIM_TTL))).await,
    };
    inserted.map_err(|fault| fault.during_commit("store a message in the outbox"))?;
    stored.payload = Vec::new();
    Ok(stored)
}

/// A message of a turn.
pub(crate) struct Caused {
    pub(crate) message: CloudEvent,
    pub(crate) writer: Writer,
    /// Origin of the events that caused it.
    pub(crate) origin: Option<SharedOrigin>,
}

/// Writes the messages of turns, in order. Each has its idempotency key.
pub(crate) async fn publish_all_in<B: Backend>(
    tx: &mut <B as Database>::Connection,
    messages: Vec<Caused>,
    claim_ttl: Duration,
) -> Result<Vec<Stored>, Fault> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let prepared = |Caused { message, writer, origin }| Stored {
        origin,
        ..prepare_as(writer.id(), message, claim_ttl, IdempotencyKey::Unique)
    };
    let mut stored: Vec<Stored> = messages.into_iter().map(prepared).collect();
    lay_together(&mut stored);
    let mut left = stored.as_mut_slice();
    while !left.is_empty() {
        let fits = fitting(left.iter().map(|stored| stored.payload.len())).min(left.len());
        let (now, later) = left.split_at_mut(fits);
        let rows: Vec<_> = now.iter().map(row).collect();
        B::insert_outbox_in(tx, &rows, micros(claim_ttl)).await?;
        drop(rows);
        now.iter_mut().for_each(|stored| stored.payload = Vec::new());
        left = later;
    }
    Ok(stored)
}

/// Number of these sizes, from the first on, that one statement takes: at least one, and at most [`MAX_OUTBOX_BYTES`]
/// together.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = sizes.take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= MAX_OUTBOX_BYTES
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_16_mib_or_one_larger_message() {
        let mib = |count: usize| std::iter::repeat_n(1 << 20, count);
        assert_eq!(fitting(mib(100)), 16);
        assert_eq!(fitting(mib(3)), 3);
        assert_eq!(fitting([2 * MAX_OUTBOX_BYTES, 1].into_iter()), 1);
    }
}
