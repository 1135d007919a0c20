//! The repairs behind the actions of the dashboard.

use sqlx::Pool;

use super::{By, Effect};
use crate::admin::{Done, Forgotten, Operator};
use crate::dashboard::actions::Action;
use crate::error::{Error, Result};
use crate::eventbox::{Emitted, Event};
use crate::store::Backend;

/// Reason of a quarantine or a burial whose operator gave none.
const NO_REASON: &str = "on the dashboard, without a reason";

/// Why a shard cannot be moved to a member.
const TAKES_NO_SHARDS: &str = "The member takes no shards: it is gone, silent or stopping, or runs no processors.";

/// Performs an action, or rehearses it.
pub(super) async fn perform<B: Backend>(pool: Pool<B>, action: &Action, by: &By) -> Result<Effect> {
    let mut operator = Operator::new(pool, by.who.as_str()).rehearsing(by.is_rehearsal);
    if let Some(why) = &by.why {
        operator = operator.because(why.as_str());
    }
    let reason = by.why.as_deref().unwrap_or(NO_REASON);
    let done = match action {
        Action::Pause(of) => operator.pause(of).await,
        Action::Resume(of) => operator.resume(of).await,
        Action::TryNow(of) => operator.try_now(of).await,
        Action::PauseKind(kind) => operator.pause_kind(kind).await,
        Action::ResumeKind(kind) => operator.resume_kind(kind).await,
        Action::Quarantine(of, id) => operator.quarantine(of, &[*id], reason).await,
        Action::Purge(of, id) => operator.purge(of, &[*id]).await,
        Action::PurgeAll(of) => operator.purge_all(of, |_| {}).await,
        Action::CancelTimers(of) => operator.cancel_timers(of, |_| {}).await,
        Action::SetState { of, at_turn, state } => operator.set_state(of, *at_turn, Some(state.as_bytes())).await,
        Action::ClearState { of, at_turn } => operator.set_state(of, *at_turn, None).await,
        Action::Forget(of) => return Ok(forgotten(operator.forget(of).await?)),
        Action::Emit { to, name, value } => {
            let event = Event::new(value.clone());
            let event = match name {
                Some(name) => event.named(name.as_str()),
                None => event,
            };
            return Ok(emitted(operator.emit(to, event).await?));
        }
        Action::ReplayOne(id) => operator.replay_one(*id).await,
        Action::DeleteOne(id) => operator.delete_one(*id).await,
        Action::ReplayDead(filter) => operator.replay_dead(filter, |_| {}).await,
        Action::DeleteDead(filter) => operator.delete_dead(filter, |_| {}).await,
        Action::RetryMessages(filter) => operator.retry_messages(filter, |_| {}).await,
        Action::BuryMessages(filter) => operator.bury_messages(filter, reason, |_| {}).await,
        Action::PauseDestination(of) => operator.pause_destination(of).await,
        Action::ResumeDestination(of) => operator.resume_destination(of).await,
        Action::ReleaseShard(shard) => operator.release_shard(*shard).await,
        Action::MoveShard { shard, to } => match operator.move_shard(*shard, *to).await {
            Err(Error::Setup { .. }) => return Ok(Effect::Nothing(TAKES_NO_SHARDS)),
            moved => moved,
        },
        Action::UnassignShard(shard) => operator.unassign(&[*shard], false).await.map(|unassigned| unassigned.done),
        Action::UnassignFailed => operator.unassign(&all_shards(), true).await.map(|unassigned| unassigned.done),
        Action::ApplyShard(change) => operator.apply_shards(std::slice::from_ref(change)).await,
    };
    done.map(|done| match done {
        Done { touched: 1.., waiting: Some(waiting), .. } => Effect::Delivery { waiting },
        Done { touched, .. } => Effect::Touched(touched),
    })
}

fn all_shards() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

fn forgotten(forgotten: Forgotten) -> Effect {
    match forgotten {
        Forgotten::Done => Effect::Touched(1),
        Forgotten::NothingKept => Effect::Nothing("Nothing is kept of this recipient."),
        Forgotten::HasEvents => Effect::Nothing("Its box holds events. Delete them first."),
        Forgotten::HasTimers => Effect::Nothing("It has timers. Cancel them first."),
        Forgotten::Paused => Effect::Nothing("It is paused. Resume it first."),
        Forgotten::TooRecent => Effect::Nothing("Its last write is less than an hour ago. Try later."),
    }
}

fn emitted(emitted: Emitted) -> Effect {
    match emitted {
        Emitted::Added => Effect::Touched(1),
        Emitted::Duplicate => Effect::Nothing("An event of this name is there already."),
        Emitted::Tombstoned => Effect::Nothing("An event of this name was consumed a short time ago."),
    }
}
