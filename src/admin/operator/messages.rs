//! Repairs of the outbox.

use uuid::Uuid;

use super::{Done, Entry, Operator, check_text};
use crate::admin::MAX_REASON_BYTES;
use crate::admin::view::messages::MessageFilter;
use crate::error::{Error, Result};
use crate::store::{Backend, Fault, OutboxKey, answered, begin_tx, hold};

/// Number of messages of one transaction.
const SLICE: i64 = 200;

/// The code of a message that an operator gave up.
pub const BURIED: &str = "BURIED";

impl<B: Backend> Operator<B> {
    /// Makes messages due at once that wait for their next attempt. Calls `progress` with their number after each
    /// transaction. A rehearsal counts the messages that pass the filter.
    ///
    /// A message in flight may be sent twice, with the same idempotency key.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn retry_messages(&self, filter: &MessageFilter, progress: impl FnMut(u64) + Send) -> Result<Done> {
        let entry = self.entry("retry", filter)?;
        self.each_message(&entry, filter, None, progress).await
    }

    /// Gives messages up: they become dead letters with the code [`BURIED`] and this reason, from where they can be
    /// replayed. Calls `progress` with their number after each transaction. A rehearsal counts.
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] for a wrong reason.
    pub async fn bury_messages(
        &self,
        filter: &MessageFilter,
        reason: &str,
        progress: impl FnMut(u64) + Send,
    ) -> Result<Done> {
        let entry = self.entry("bury", filter)?;
        check_text("reason", reason, MAX_REASON_BYTES).map_err(|misuse| Error::misuse(&entry, misuse))?;
        self.each_message(&entry, filter, Some(reason), progress).await
    }

    async fn each_message(
        &self,
        entry: &Entry,
        filter: &MessageFilter,
        buried_because: Option<&str>,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Done> {
        let (mut after, mut total) = (OutboxKey { shard: -1, id: Uuid::nil() }, 0);
        loop {
            let read = answered(&self.pool, async {
                B::message_heads(&mut *hold(&self.pool).await?, filter.wanted(), after, SLICE).await
            });
            let found = read.await.map_err(|fault: Fault| fault.during(entry))?;
            let Some(last) = found.last() else { return Ok(self.done(total)) };
            after = last.key;
            if self.is_rehearsal {
                total += found.len() as u64;
                continue;
            }
            let write = answered(&self.pool, async {
                let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
                let mut touched = 0;
                for head in &found {
                    touched += u64::from(match buried_because {
                        Some(reason) => B::bury_message(&mut tx, head.key, BURIED, reason).await?,
                        None => B::make_message_due(&mut tx, head.key).await?,
                    });
                }
                self.record(&mut tx, entry, touched).await?;
                Ok((tx, touched))
            });
            let (tx, touched) = write.await.map_err(|fault: Fault| fault.during(entry))?;
            total += self.end(tx, entry, touched).await?.touched;
            progress(total);
        }
    }
}
