//! The one transaction of a round.

use sqlx::Pool;
use uuid::Uuid;

use super::Ready;
#[cfg(feature = "emitter")]
use crate::cloudevent::turn_key;
#[cfg(feature = "emitter")]
use crate::emitter::{DEFAULT_HOLD, Stored, write_outbox};
use crate::error::{Error, Result};
use crate::eventbox::emit::{MAX_EMIT_EVENTS, emit_slice_in};
use crate::eventbox::event::EventId;
use crate::eventbox::metrics;
use crate::eventbox::process::Turn;
use crate::eventbox::settle::settle;
use crate::store::{Backend, Fault, RoundWrite};

/// How long a round waits for the locks of somebody else's transaction before it is left to turns of one recipient, milliseconds.
const LOCK_WAIT_MS: u32 = 200;

/// What the transaction of a round did.
enum Written {
    /// These won their races, and with them what was published, in the order of the winners.
    Committed(Vec<usize>, Vec<Sent>),
    /// Events of a winner were not there: nothing was committed.
    Shortfall,
    /// The answer was lost; if it was committed, these won.
    Unknown(Vec<usize>),
}

#[cfg(feature = "emitter")]
type Sent = Vec<Stored>;
#[cfg(not(feature = "emitter"))]
type Sent = ();

/// Commits what is ready; answers those that won their races, with what is left to do after the commit.
pub(super) async fn commit<B: Backend>(pool: &Pool<B>, mut ready: Vec<Ready<'_>>) -> Result<Vec<Committed>> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let token = Uuid::new_v4();
    let sends = ready.iter().any(Ready::sends);
    let written = match sends || !B::ROUND_IS_TRANSACTION {
        true => write_with_sends(pool, &mut ready, token).await,
        false => write_alone(pool, &ready, token).await,
    };
    let (won, mut sent) = match written {
        Ok(Written::Committed(won, sent)) => (won, sent),
        Ok(Written::Shortfall) => return Ok(Vec::new()),
        // What was published is not pushed from memory, because it was not told apart; a host sends it a little later.
        Ok(Written::Unknown(candidates)) => (settled(pool, &ready, candidates, token).await, Vec::new()),
        // Somebody holds a recipient or a name for long, or what one of them sends is refused: each goes alone, so that it delays only itself.
        Err(Error::Contention { .. } | Error::Database { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    tracing::trace!(attempt, won = won.len(), "a round is committed");
    sent.resize_with(won.len(), Sent::default);
    let mut ready: Vec<Option<Ready<'_>>> = ready.into_iter().map(Some).collect();
    let winners = won.into_iter().zip(sent);
    Ok(winners.filter_map(|(at, sent)| Some(ready.get_mut(at)?.take()?.committed(sent))).collect())
}

/// A turn that committed, and whose it is.
pub(super) struct Committed {
    pub(super) place: usize,
    pub(super) last: EventId,
    pub(super) turn: Turn,
}

impl Ready<'_> {
    fn sends(&self) -> bool {
        #[cfg(feature = "emitter")]
        if !self.decided.published.is_empty() {
            return true;
        }
        !self.decided.emitted.is_empty()
    }

    fn write(&self) -> RoundWrite<'_> {
        RoundWrite {
            shard: self.to.shard().into(),
            recipient: self.to.as_str(),
            turn: self.turn,
            state: self.decided.state.as_ref().map(Option::as_deref),
            removed: &self.decided.removed,
        }
    }

    #[cfg_attr(not(feature = "emitter"), allow(unused_variables))]
    fn committed(self, sent: Sent) -> Committed {
        let (removed, garbage) = (self.decided.removed.len(), self.decided.garbage);
        metrics::committed(self.to.kind(), self.listed, 1, removed - garbage, garbage);
        // Those that were consumed stand before the garbage.
        metrics::consumed(self.to.kind(), self.decided.removed.iter().take(removed - garbage).copied());
        let turn = Turn {
            number: Some(self.turn + 1),
            consumed: removed - garbage,
            garbage,
            more_remain: self.more_listed || self.listed > removed,
            #[cfg(feature = "emitter")]
            published: sent,
            ..Turn::default()
        };
        Committed { place: self.place, last: self.last, turn }
    }
}

/// The one statement, which is the transaction.
async fn write_alone<B: Backend>(pool: &Pool<B>, ready: &[Ready<'_>], token: Uuid) -> Result<Written> {
    let during = |fault: Fault| fault.during(format!("commit a round of {} recipients", ready.len()));
    let writes: Vec<_> = ready.iter().map(Ready::write).collect();
    let mut conn = pool.acquire().await.map_err(|error| during(error.into()))?;
    match B::write_round(&mut conn, &writes, token, LOCK_WAIT_MS).await {
        Ok(Some(won)) => Ok(Written::Committed(won, Vec::new())),
        Ok(None) => Ok(Written::Shortfall),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown((0..ready.len()).collect())),
        Err(fault) => Err(during(fault)),
    }
}

/// The statement, and what the winners emit and publish, in one transaction.
async fn write_with_sends<B: Backend>(pool: &Pool<B>, ready: &mut [Ready<'_>], token: Uuid) -> Result<Written> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let during = |fault: Fault| fault.during(&attempt);
    let mut tx = B::begin_write(pool).await.map_err(during)?;
    let writes: Vec<_> = ready.iter().map(Ready::write).collect();
    let Some(won) = B::write_round(&mut tx, &writes, token, LOCK_WAIT_MS).await.map_err(during)? else {
        return Ok(Written::Shortfall);
    };
    let mut emitted = Vec::new();
    for at in &won {
        emitted.extend(ready.get_mut(*at).map(|ready| std::mem::take(&mut ready.decided.emitted)).unwrap_or_default());
    }
    for slice in emitted.chunks(MAX_EMIT_EVENTS) {
        emit_slice_in::<B>(&mut tx, slice).await?;
    }
    let sent = publish::<B>(&mut tx, ready, &won).await.map_err(during)?;
    match tx.commit().await.map_err(Fault::from) {
        Ok(()) => Ok(Written::Committed(won, sent)),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown(won)),
        Err(fault) => Err(during(fault)),
    }
}

/// Writes what the winners publish, with the keys that their places in their turns make.
#[cfg(feature = "emitter")]
async fn publish<B: Backend>(
    tx: &mut B::Connection,
    ready: &mut [Ready<'_>],
    won: &[usize],
) -> Result<Vec<Sent>, Fault> {
    let (mut messages, mut counts) = (Vec::new(), Vec::with_capacity(won.len()));
    for at in won {
        let Some(ready) = ready.get_mut(*at) else { continue };
        let published = std::mem::take(&mut ready.decided.published);
        counts.push(published.len());
        for (ordinal, mut message) in (0..).zip(published) {
            message.default_key(|message| turn_key(ready.to.as_str(), ready.turn + 1, ordinal, message));
            messages.push((ready.to.shard(), message));
        }
    }
    let mut stored = write_outbox::<B>(tx, messages, DEFAULT_HOLD).await?.into_iter();
    Ok(counts.into_iter().map(|count| stored.by_ref().take(count).collect()).collect())
}

#[cfg(not(feature = "emitter"))]
async fn publish<B: Backend>(
    _tx: &mut B::Connection,
    _ready: &mut [Ready<'_>],
    _won: &[usize],
) -> Result<Vec<Sent>, Fault> {
    Ok(Vec::new())
}

/// Those of the candidates whose turn this round made, read back one by one.
async fn settled<B: Backend>(pool: &Pool<B>, ready: &[Ready<'_>], candidates: Vec<usize>, token: Uuid) -> Vec<usize> {
    let mut won = Vec::new();
    for at in candidates {
        let Some(part) = ready.get(at) else { continue };
        let lost = Fault(sqlx::Error::Protocol("the answer to the commit of a round was lost".to_owned()));
        match settle(pool, part.to, part.turn, token, lost).await {
            Ok(()) => won.push(at),
            Err(error) => tracing::debug!(recipient = %part.to, %error, "not known to be of this round"),
        }
    }
    won
}
