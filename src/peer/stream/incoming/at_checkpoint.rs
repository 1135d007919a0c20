//! Emits that move a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use super::{Incoming, Position, is_own_fault};
use crate::eventbox::Emitted;
use crate::peer::boxes::door::{CheckpointMove, Emission};
use crate::peer::error::PeerError;
use crate::peer::stream::arrival::Received;
use crate::store::Durability;

/// First and longest pause before a checkpoint is moved again.
const CHECKPOINT_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

impl Incoming {
    /// Emits events and moves the checkpoint, in one transaction.
    ///
    /// Events that the database refuses for good go to the *err* port. Then the others are emitted before the
    /// checkpoint moves, and a crash in between emits them again under their names.
    pub(super) async fn emit_at(
        &mut self,
        mut events: Vec<Emission>,
        to: String,
        received: &mut Received,
    ) -> Result<Vec<Emitted>, PeerError> {
        let mut pauses = crate::retry::endless_pauses(CHECKPOINT_PAUSES.0, CHECKPOINT_PAUSES.1);
        let door = Arc::clone(&self.core.door);
        let peer = self.core.id().to_owned();
        let mut before = Vec::new();
        loop {
            let from = self.position().await?;
            let step = CheckpointMove { peer: peer.clone(), stream: self.id.clone(), from, to: to.clone() };
            match door.emit_at(&events, &step).await {
                Ok(Some(answers)) => {
                    self.checkpoint = Position::At(Some(to));
                    before.extend(answers);
                    return Ok(before);
                }
                // After an unknown commit the checkpoint may stand where it was to go, and the events are emitted.
                Ok(None) => {
                    let now = door.checkpoint(&peer, &self.id).await.map_err(|source| self.not_emitted(source))?;
                    if now.as_ref() != Some(&to) {
                        return Err(PeerError::Checkpoint { peer, stream: self.id.to_string() });
                    }
                    self.checkpoint = Position::At(now);
                    before.extend(vec![Emitted::Added; events.len()]);
                    return Ok(before);
                }
                Err(error) if is_own_fault(&error) && !events.is_empty() => {
                    before = self.emit_in_parts(std::mem::take(&mut events), Durability::Immediate, received).await?;
                }
                Err(error) if !is_own_fault(&error) && !self.core.stopping.is_cancelled() => {
                    tokio::time::sleep(pauses.next().unwrap_or(CHECKPOINT_PAUSES.1)).await;
                }
                Err(error) => return Err(self.not_emitted(error)),
            }
        }
    }

    /// Returns where the checkpoint stands, as far as this stream has moved it.
    async fn position(&mut self) -> Result<Option<String>, PeerError> {
        if let Position::At(from) = &self.checkpoint {
            return Ok(from.clone());
        }
        let read = self.core.door.checkpoint(self.core.id(), &self.id).await;
        let read = read.map_err(|source| self.not_emitted(source))?;
        self.checkpoint = Position::At(read.clone());
        Ok(read)
    }
}
