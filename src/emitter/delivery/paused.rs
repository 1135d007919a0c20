//! Destinations that an operator paused: the copy of this process, and the loop that reads it anew.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::emitter::context::within;
use crate::emitter::delivery::core::Core;
use crate::emitter::delivery::upkeep::tick;
use crate::heartbeat::Beat;
use crate::outbox::row::micros;
use crate::store::{Backend, Fault, PausedDestinationRow, answered, hold};

/// Time between two readings of the paused destinations. So long after a pause or its end, an emitter may still treat a
/// new message as before. Claims need no copy: they look at the table themselves.
pub const PAUSE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of messages of a paused destination, for each shard, that stay due, so that they are sent at once after a
/// resume. Claims pass over them.
pub const PAUSED_KEPT_DUE: i64 = 100;

/// Time for which further messages of a paused destination are set aside. They are sent at most this long after a
/// resume.
pub const PAUSED_HOLD: Duration = Duration::from_secs(300);

/// Most messages of a shard that one statement sets aside.
const SET_ASIDE_PER_SHARD: i64 = 200;

/// The paused destinations, as this process knows them.
#[derive(Debug, Default)]
pub(crate) struct Paused(RwLock<Vec<PausedDestinationRow>>);

impl Paused {
    /// Returns whether messages of this source and type wait for a resume.
    pub(crate) fn holds(&self, source: &str, event_type: &str) -> bool {
        let paused = self.0.read().unwrap_or_else(PoisonError::into_inner);
        paused.iter().any(|paused| paused.holds(source, event_type))
    }

    fn is_any(&self) -> bool {
        !self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes the rows of the table. Returns whether one of the pauses from before has ended.
    fn take(&self, now: Vec<PausedDestinationRow>) -> bool {
        let mut paused = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let has_ended = paused.iter().any(|before| !now.contains(before));
        if *paused != now {
            tracing::info!(destinations = now.len(), "paused destinations");
            *paused = now;
        }
        has_ended
    }
}

/// Reads the paused destinations. Rows that waited for a resume are sent at once.
pub(crate) async fn look<B: Backend>(core: &Core<B>) -> Result<(), Fault> {
    let read = answered(&core.pool, async { B::list_paused_destinations(&mut *hold(&core.pool).await?).await });
    if core.handoff.paused.take(within(core.config().database_timeout, read).await?) {
        core.signals.retransmit.notify_one();
    }
    Ok(())
}

/// Reads the paused destinations until the emitter stops. A host sets messages aside that claims would pass over.
pub(crate) async fn run_pauses<B: Backend>(core: Arc<Core<B>>, beat: Beat) {
    let mut was_read = true;
    while tick(&core, &beat, PAUSE_POLL_INTERVAL).await {
        let read = look(&core).await;
        // One line for an outage, because other loops tell of it too.
        if let Err(fault) = &read
            && was_read
        {
            tracing::warn!(error = %fault.0, "the paused destinations could not be read: those of before stay");
        }
        was_read = read.is_ok();
        if was_read && core.config().retransmit && core.handoff.paused.is_any() {
            set_aside(&core, &beat).await;
        }
    }
}

async fn set_aside<B: Backend>(core: &Core<B>, beat: &Beat) {
    let statement = || {
        answered(&core.pool, async {
            let conn = &mut *hold(&core.pool).await?;
            B::set_aside_outbox(conn, PAUSED_KEPT_DUE, SET_ASIDE_PER_SHARD, micros(PAUSED_HOLD)).await
        })
    };
    while core.context.statement("set_aside", statement()).await.is_some_and(|rows| rows > 0) {
        beat.beat();
        if core.signals.stopping.is_cancelled() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_pause_is_noticed_and_a_new_pause_is_none() {
        let row = |source: &str| PausedDestinationRow {
            source: source.to_owned(),
            r#type: String::new(),
            paused_at_us: 1,
            who: "ana".to_owned(),
            why: None,
        };
        let paused = Paused::default();
        assert!(!paused.take(vec![row("shop")]));
        assert!(paused.holds("shop", "paid") && !paused.holds("hotel", "paid"));
        assert!(!paused.take(vec![row("hotel"), row("shop")]));
        assert!(paused.take(vec![row("hotel")]));
        assert!(!paused.holds("shop", "paid") && paused.is_any());
    }
}
