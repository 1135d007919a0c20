//! Repairs of a whole kind.

use super::{Done, Operator};
use crate::error::{Error, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, answered, begin_tx};

impl<B: Backend> Operator<B> {
    /// Pauses a kind, as [`admin::pause_kind`](crate::admin::pause_kind).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] when `kind` is not a valid kind.
    pub async fn pause_kind(&self, kind: &str) -> Result<Done> {
        self.set_kind(kind, true).await
    }

    /// Resumes a kind, as [`admin::resume_kind`](crate::admin::resume_kind).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] when `kind` is not a valid kind.
    pub async fn resume_kind(&self, kind: &str) -> Result<Done> {
        self.set_kind(kind, false).await
    }

    async fn set_kind(&self, kind: &str, is_paused: bool) -> Result<Done> {
        let entry = self.entry(if is_paused { "pause" } else { "resume" }, format_args!("the kind {kind}"))?;
        match Recipient::new(kind, "key") {
            Ok(_) => {}
            Err(Error::Misuse { misuse, .. }) => return Err(Error::misuse(&entry, misuse)),
            Err(error) => return Err(error),
        }
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let changed =
                if is_paused { B::pause_kind(&mut tx, kind).await? } else { B::resume_kind(&mut tx, kind).await? };
            self.record(&mut tx, &entry, changed.into()).await?;
            Ok((tx, changed.into()))
        });
        let (tx, touched) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        self.end(tx, &entry, touched).await
    }
}
