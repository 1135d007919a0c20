//! The words of actions: before they happen, and after.

use super::Action;
use crate::admin::ShardSpec;
use crate::dashboard::html::text::counted;

impl Action {
    /// Returns the name of the action in addresses.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Action::Pause(_) => "pause",
            Action::Resume(_) => "resume",
            Action::TryNow(_) => "try-now",
            Action::PauseKind(_) => "pause-kind",
            Action::ResumeKind(_) => "resume-kind",
            Action::Quarantine(..) => "quarantine",
            Action::Purge(..) | Action::PurgeAll(_) => "purge",
            Action::CancelTimers(_) => "cancel-timers",
            Action::SetState { .. } => "set-state",
            Action::ClearState { .. } => "clear-state",
            Action::Forget(_) => "forget",
            Action::Emit { .. } => "emit",
            Action::ReplayOne(_) | Action::ReplayDead(_) => "replay",
            Action::DeleteOne(_) | Action::DeleteDead(_) => "delete",
            Action::RetryMessages(_) => "retry",
            Action::BuryMessages(_) => "bury",
            Action::PauseDestination(_) => "pause-destination",
            Action::ResumeDestination(_) => "resume-destination",
            Action::ReleaseShard(_) => "release",
            Action::MoveShard { .. } => "move",
            Action::UnassignShard(_) | Action::UnassignFailed => "unassign",
            Action::ApplyShard(change) if change.spec.is_none() => "reset-shard",
            Action::ApplyShard(_) => "apply-shard",
        }
    }

    /// Returns the headline of the confirmation, which is also its button.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Action::Pause(_) => "Pause the recipient",
            Action::Resume(_) => "Resume the recipient",
            Action::TryNow(_) => "Try now",
            Action::PauseKind(_) => "Pause the kind",
            Action::ResumeKind(_) => "Resume the kind",
            Action::Quarantine(..) => "Quarantine the event",
            Action::Purge(..) => "Delete the event",
            Action::PurgeAll(_) => "Delete all events and timers",
            Action::CancelTimers(_) => "Cancel all timers",
            Action::SetState { .. } => "Replace the state",
            Action::ClearState { .. } => "Clear the state",
            Action::Forget(_) => "Forget the recipient",
            Action::Emit { .. } => "Emit an event",
            Action::ReplayOne(_) => "Replay the dead letter",
            Action::DeleteOne(_) => "Delete the dead letter",
            Action::ReplayDead(_) => "Replay dead letters",
            Action::DeleteDead(_) => "Delete dead letters",
            Action::RetryMessages(_) => "Retry messages now",
            Action::BuryMessages(_) => "Move messages to the dead letters",
            Action::PauseDestination(_) => "Pause the delivery",
            Action::ResumeDestination(_) => "Resume the delivery",
            Action::ReleaseShard(_) => "Release the shard",
            Action::MoveShard { .. } => "Move the shard",
            Action::UnassignShard(_) => "Unassign the shard",
            Action::UnassignFailed => "Unassign all failed shards",
            Action::ApplyShard(change) if change.spec.is_none() => "Set the shard back",
            Action::ApplyShard(_) => "Change the spec of the shard",
        }
    }

    /// Returns whether the action destroys something.
    pub(crate) fn is_destructive(&self) -> bool {
        matches!(
            self,
            Action::Purge(..)
                | Action::PurgeAll(_)
                | Action::CancelTimers(_)
                | Action::SetState { .. }
                | Action::ClearState { .. }
                | Action::Forget(_)
                | Action::DeleteOne(_)
                | Action::DeleteDead(_)
        )
    }

    /// Says what the action will do, by a rehearsal that touched this many things.
    pub(crate) fn will(&self, touched: u64) -> String {
        match self {
            Action::Pause(of) => format!("This pauses {of}: none of its events is processed until it is resumed."),
            Action::Resume(of) => format!("This resumes {of}: its events are processed at once."),
            Action::TryNow(of) => format!("This ends the pause after errors of {of}: its events are tried at once."),
            Action::PauseKind(kind) => {
                format!(
                    "This pauses the kind {kind}: no event of any of its recipients is processed until it is resumed."
                )
            }
            Action::ResumeKind(kind) => {
                format!("This resumes the kind {kind}. Recipients paused by themselves stay paused.")
            }
            Action::Quarantine(of, _) => {
                format!("This moves {} of {of} to the dead letters. The other events go on.", counted(touched, "event"))
            }
            Action::Purge(of, _) => format!("This deletes {} of {of} for good.", counted(touched, "event")),
            Action::PurgeAll(of) => {
                format!("This deletes {} of {of} for good. Each timer is an event too.", counted(touched, "event"))
            }
            Action::CancelTimers(of) => format!("This deletes {} of {of} for good.", counted(touched, "timer")),
            Action::SetState { of, at_turn, state } => {
                format!("This replaces the state of {of} at turn {at_turn} by {}.", counted(state.len() as u64, "byte"))
            }
            Action::ClearState { of, at_turn } => {
                format!(
                    "This deletes the state of {of} at turn {at_turn}: its next turn begins with the default state."
                )
            }
            Action::Forget(of) => {
                format!("This deletes the turn, the state and the failures of {of}: its turns begin again at 1.")
            }
            Action::Emit { to, name, value } => {
                let name = name.as_ref().map(|name| format!(" named {name}")).unwrap_or_default();
                format!("This emits an event{name} of {} to {to}.", counted(value.len() as u64, "byte"))
            }
            Action::ReplayOne(id) => format!("This puts the dead letter {id} back to where it came from."),
            Action::DeleteOne(id) => format!("This deletes the dead letter {id} for good."),
            Action::ReplayDead(filter) => {
                format!("This puts {} back to where they came from: {filter}.", counted(touched, "dead letter"))
            }
            Action::DeleteDead(filter) => {
                format!("This deletes {} for good: {filter}.", counted(touched, "dead letter"))
            }
            Action::RetryMessages(filter) => {
                format!("This makes {} of the outbox due at once: {filter}.", counted(touched, "message"))
            }
            Action::BuryMessages(filter) => format!(
                "This moves {} of the outbox to the dead letters, so that they are not sent: {filter}.",
                counted(touched, "message"),
            ),
            Action::PauseDestination(of) => {
                format!("This pauses the delivery of {of}: none is sent until it is resumed. They wait in the outbox.")
            }
            Action::ResumeDestination(of) => {
                format!("This resumes the delivery of {of}, as far as no other pause holds them back.")
            }
            Action::ReleaseShard(shard) => {
                format!("This frees shard {shard}, also from a pin: the member that should have it takes it.")
            }
            Action::MoveShard { shard, to } => {
                format!("This moves shard {shard} to the member {to}, and pins it there while the member lives.")
            }
            Action::UnassignShard(shard) => {
                format!(
                    "This takes shard {shard} from its holder and forgets its failure: the member that should have it \
                     takes it."
                )
            }
            Action::UnassignFailed => format!(
                "This takes {} from their holders and forgets their failures: the members that should have them take \
                 them.",
                counted(touched, "failed shard")
            ),
            Action::ApplyShard(change) => match &change.spec {
                Some(spec) => {
                    format!("This replaces the whole spec of shard {} by: {}.", change.shard, words_of(spec))
                }
                None => format!("This sets shard {} back to the default, which asks nothing.", change.shard),
            },
        }
    }

    /// Says why the action would do nothing.
    pub(crate) fn nothing(&self) -> String {
        match self {
            Action::Pause(of) => format!("{of} is paused already."),
            Action::Resume(of) => format!("{of} is neither paused nor failing."),
            Action::TryNow(of) => format!("{of} is paused, or does not wait after an error."),
            Action::PauseKind(kind) => format!("The kind {kind} is paused already."),
            Action::ResumeKind(kind) => format!("The kind {kind} is not paused."),
            Action::Quarantine(of, id) | Action::Purge(of, id) => {
                format!("The event {id} of {of} is not there any more.")
            }
            Action::PurgeAll(of) => format!("{of} has no events and no timers."),
            Action::CancelTimers(of) => format!("{of} has no timers."),
            Action::ReplayOne(id) | Action::DeleteOne(id) => format!("The dead letter {id} is not there any more."),
            Action::ReplayDead(filter) | Action::DeleteDead(filter) => format!("There is nothing to touch: {filter}."),
            Action::RetryMessages(filter) | Action::BuryMessages(filter) => {
                format!("There is nothing to touch: {filter}.")
            }
            Action::PauseDestination(of) => format!("The delivery of {of} is paused already."),
            Action::ResumeDestination(of) => format!("The delivery of {of} is not paused."),
            Action::ReleaseShard(shard) => format!("Shard {shard} has no holder."),
            Action::MoveShard { shard, to } => format!("Shard {shard} cannot be moved to {to}, or is there already."),
            Action::UnassignShard(shard) => format!("Shard {shard} has no holder, and has not failed."),
            Action::UnassignFailed => "No shard has failed.".to_owned(),
            Action::ApplyShard(change) => format!("Shard {} has no spec.", change.shard),
            Action::SetState { of, .. } | Action::ClearState { of, .. } | Action::Forget(of) => {
                format!("Nothing of {of} would change.")
            }
            Action::Emit { to, .. } => format!("Nothing would be added to {to}."),
        }
    }
}

fn words_of(spec: &ShardSpec) -> String {
    let labels = counted(spec.labels.len() as u64, "label");
    let zone = spec.zone.as_ref().map(|zone| format!(", the zone {zone}")).unwrap_or_default();
    let disabled = if spec.is_disabled { ", disabled: its events wait" } else { "" };
    format!("{labels}{zone}{disabled}")
}

/// Says what an action did. `None` for a word that names no action.
pub(crate) fn done(code: &str, touched: u64) -> Option<String> {
    let sentence = match code {
        "pause" => "The recipient is paused.".to_owned(),
        "resume" => "The recipient is resumed.".to_owned(),
        "try-now" => "The recipient is tried at once.".to_owned(),
        "pause-kind" => "The kind is paused.".to_owned(),
        "resume-kind" => "The kind is resumed.".to_owned(),
        "quarantine" => format!("{} moved to the dead letters.", counted(touched, "event")),
        "purge" => format!("{} deleted.", counted(touched, "event")),
        "cancel-timers" => format!("{} cancelled.", counted(touched, "timer")),
        "set-state" => "The state is replaced.".to_owned(),
        "clear-state" => "The state is cleared.".to_owned(),
        "forget" => "The recipient is forgotten.".to_owned(),
        "emit" => format!("{} emitted.", counted(touched, "event")),
        "replay" => format!("{} put back.", counted(touched, "dead letter")),
        "delete" => format!("{} deleted.", counted(touched, "dead letter")),
        "retry" => format!("{} due at once.", counted(touched, "message")),
        "bury" => format!("{} moved to the dead letters.", counted(touched, "message")),
        "pause-destination" => "The delivery is paused.".to_owned(),
        "resume-destination" => "The delivery is resumed.".to_owned(),
        "release" => "The shard is released.".to_owned(),
        "move" => "The shard is moved.".to_owned(),
        "unassign" => format!("{} unassigned.", counted(touched, "shard")),
        "apply-shard" => "The spec of the shard is changed.".to_owned(),
        "reset-shard" => "The shard is set back.".to_owned(),
        _ => return None,
    };
    Some(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipient::Recipient;

    #[test]
    fn an_action_says_what_it_touches() {
        let order = Recipient::new("order", "7").unwrap();
        let purge = Action::PurgeAll(order);
        assert_eq!(purge.will(3), "This deletes 3 events of order/7 for good. Each timer is an event too.");
        assert_eq!(purge.nothing(), "order/7 has no events and no timers.");
        assert_eq!(done(purge.code(), 1).as_deref(), Some("1 event deleted."));
        assert_eq!(done("<script>", 1), None);
    }
}
