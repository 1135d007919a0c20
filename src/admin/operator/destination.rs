//! Pausing and resuming of the delivery to a destination.

use super::{Done, Operator};
use crate::admin::view::count::Count;
use crate::admin::view::destination::Destination;
use crate::admin::view::messages::MAX_GROUPED;
use crate::error::{Error, Result};
use crate::store::{Backend, Fault, answered, begin_tx};

impl<B: Backend> Operator<B> {
    /// Pauses the delivery to a destination: no process sends its messages until
    /// [`resume_destination`](Operator::resume_destination).
    ///
    /// Use it when the receiver must be left alone, or must not get messages before somebody has looked at them.
    /// Messages may still be published, and wait in the outbox. They keep their attempts and do not expire.
    /// [`Done::touched`] is 1, or 0 when the destination was paused already; [`Done::waiting`] is the number of its
    /// messages in the outbox.
    ///
    /// Claims leave the messages out from the commit on. An emitter sends no new message from memory once it has read
    /// the pause, within [`PAUSE_POLL_INTERVAL`](crate::emitter::PAUSE_POLL_INTERVAL). Messages that are in its queue
    /// by then may still be sent while their claims last, [`FIRST_CLAIM_TTL`](crate::outbox::FIRST_CLAIM_TTL) by
    /// default.
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] when the source or the type is empty, has NUL, or is longer than
    /// [`MAX_DESTINATION_BYTES`](crate::admin::MAX_DESTINATION_BYTES).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::admin::{self, Destination, Operator};
    ///
    /// let ana = Operator::new(pool.clone(), "ana").because("the receiver is being repaired");
    /// let shop = Destination::all().source("shop");
    /// assert_eq!(ana.pause_destination(&shop).await?.touched, 1);
    /// assert_eq!(admin::paused_destinations(&pool).await?[0].who, "ana");
    /// assert_eq!(ana.resume_destination(&shop).await?.touched, 1);
    /// # Ok(()) }
    /// ```
    pub async fn pause_destination(&self, destination: &Destination) -> Result<Done> {
        self.set_destination(destination, true).await
    }

    /// Resumes the delivery to a destination that was paused under the same source and type. A wider or a narrower
    /// pause stays.
    ///
    /// The emitters send the messages from their next poll on. Of a large number, [`PAUSED_KEPT_DUE`] of each shard are
    /// due at once and the others within [`PAUSED_HOLD`]; [`retry_messages`](Operator::retry_messages) makes them due.
    ///
    /// # Errors
    ///
    /// As [`pause_destination`](Operator::pause_destination).
    ///
    /// [`PAUSED_KEPT_DUE`]: crate::emitter::PAUSED_KEPT_DUE
    /// [`PAUSED_HOLD`]: crate::emitter::PAUSED_HOLD
    pub async fn resume_destination(&self, destination: &Destination) -> Result<Done> {
        self.set_destination(destination, false).await
    }

    async fn set_destination(&self, destination: &Destination, is_paused: bool) -> Result<Done> {
        let entry = self.entry(if is_paused { "pause" } else { "resume" }, destination)?;
        destination.check().map_err(|misuse| Error::misuse(&entry, misuse))?;
        let (columns, most) = (destination.columns(), i64::from(MAX_GROUPED));
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let waiting = B::count_messages_of(&mut tx, columns, most + 1).await?;
            let changed = if is_paused {
                B::pause_destination(&mut tx, columns, &self.who, self.why.as_deref()).await?
            } else {
                B::resume_destination(&mut tx, columns).await?
            };
            self.record(&mut tx, &entry, changed.into()).await?;
            Ok((tx, waiting, changed.into()))
        });
        let (tx, waiting, touched) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        let done = self.end(tx, &entry, touched).await?;
        Ok(Done { waiting: Some(Count::looked(most, waiting)), ..done })
    }
}
