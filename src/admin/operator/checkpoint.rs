//! Repairs of the checkpoints of sources.

use super::{Done, Operator, check_text};
use crate::error::{Error, Result};
use crate::recipient::MAX_KEY_BYTES;
use crate::store::{Backend, Fault, MAX_POSITION_BYTES, SOURCE_PREFIX, answered, begin_tx};

impl<B: Backend> Operator<B> {
    /// Moves the checkpoint of a partition of a source; `None` removes the checkpoint, so that the partition is read
    /// from its start.
    ///
    /// Use it to skip what cannot be read, or to read again. Readers notice the move at their next round: what they
    /// had read before is rolled back. Idle ones notice it within the `checkpoint_interval` of the source. A position
    /// is a text of the source's own, as [`checkpoints`](crate::admin::checkpoints) lists it: look there first. A wrong
    /// one is an error of the source, and can be moved again.
    ///
    /// # What comes back
    ///
    /// 1, or 0 when the checkpoint stood there already.
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] when a text is empty or too long, and contention when a round of the
    /// source came first.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::admin::{self, Operator};
    ///
    /// let ana = Operator::new(pool.clone(), "ana").because("the first day is not wanted");
    /// ana.move_checkpoint("flights", "all", Some("0 e3b0c44298fc1c14 2013-01-02.jsonl")).await?;
    /// assert_eq!(admin::checkpoints(&pool).await?[0].position, "0 e3b0c44298fc1c14 2013-01-02.jsonl");
    /// ana.move_checkpoint("flights", "all", None).await?;
    /// assert!(admin::checkpoints(&pool).await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn move_checkpoint(&self, source: &str, partition: &str, to: Option<&str>) -> Result<Done> {
        let entry = self.entry("move checkpoint", format_args!("source {source}, partition {partition}"))?;
        let checked = check_text("name of a source", source, MAX_KEY_BYTES)
            .and_then(|()| check_text("name of a partition", partition, MAX_KEY_BYTES))
            .and_then(|()| to.map_or(Ok(()), |to| check_text("position", to, MAX_POSITION_BYTES)));
        checked.map_err(|misuse| Error::misuse(&entry, misuse))?;
        let owner = format!("{SOURCE_PREFIX}{source}");
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let from = B::checkpoint(&mut tx, &owner, partition).await?;
            if from.as_deref() == to {
                return Ok((tx, Some(0)));
            }
            let moved = match (from.as_deref(), to) {
                (from, Some(to)) => B::move_checkpoint(&mut tx, &owner, partition, from, to).await?,
                (Some(from), None) => B::remove_checkpoint(&mut tx, &owner, partition, from).await?,
                (None, None) => true,
            };
            self.record(&mut tx, &entry, moved.into()).await?;
            Ok((tx, moved.then_some(1)))
        });
        let (tx, touched) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        let touched = touched.ok_or_else(|| Error::contention(&entry))?;
        self.end(tx, &entry, touched).await
    }
}
