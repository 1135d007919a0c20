//! Actions: what a form asks for, what it says before and after, and the pages that confirm it.

mod confirm;
mod words;

pub(crate) use confirm::{ask, perform};
pub(crate) use words::done;

use serde::de::IgnoredAny;
use uuid::Uuid;

use super::web::{Failure, Fields, dead_filter, destination, letter_id, message_filter};
use crate::admin::{ANY_REVISION, DeadFilter, Destination, MessageFilter, ShardChange, ShardSpec};
use crate::eventbox::EventId;
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;

/// A repair that a form asks for.
pub(crate) enum Action {
    Pause(Recipient),
    Resume(Recipient),
    TryNow(Recipient),
    PauseKind(String),
    ResumeKind(String),
    Quarantine(Recipient, EventId),
    Purge(Recipient, EventId),
    PurgeAll(Recipient),
    CancelTimers(Recipient),
    SetState { of: Recipient, at_turn: i64, state: String },
    ClearState { of: Recipient, at_turn: i64 },
    Forget(Recipient),
    Emit { to: Recipient, name: Option<String>, value: String },
    ReplayOne(DeadLetterId),
    DeleteOne(DeadLetterId),
    ReplayDead(DeadFilter),
    DeleteDead(DeadFilter),
    RetryMessages(MessageFilter),
    BuryMessages(MessageFilter),
    PauseDestination(Destination),
    ResumeDestination(Destination),
    ReleaseShard(u8),
    MoveShard { shard: u8, to: Uuid },
    UnassignShard(u8),
    UnassignFailed,
    ApplyShard(ShardChange),
}

/// The fields that describe actions. A confirmation repeats them.
const FIELDS: [&str; 21] = [
    "action", "r", "kind", "event", "letter", "at_turn", "state", "name", "value", "side", "code", "source", "type",
    "since", "until", "shard", "member", "labels", "zone", "disable", "revision",
];

impl Action {
    /// Reads an action from its form.
    pub(crate) fn parse(form: &Fields) -> Result<Self, Failure> {
        let action = match form.required("action")? {
            "pause" => Action::Pause(form.required_recipient()?),
            "resume" => Action::Resume(form.required_recipient()?),
            "try-now" => Action::TryNow(form.required_recipient()?),
            "pause-kind" => Action::PauseKind(form.required("kind")?.to_owned()),
            "resume-kind" => Action::ResumeKind(form.required("kind")?.to_owned()),
            "quarantine" => Action::Quarantine(form.required_recipient()?, event_id(form)?),
            "purge" => Action::Purge(form.required_recipient()?, event_id(form)?),
            "purge-all" => Action::PurgeAll(form.required_recipient()?),
            "cancel-timers" => Action::CancelTimers(form.required_recipient()?),
            "set-state" => {
                let (of, at_turn, state) = (form.required_recipient()?, at_turn(form)?, json(form.required("state")?)?);
                Action::SetState { of, at_turn, state }
            }
            "clear-state" => Action::ClearState { of: form.required_recipient()?, at_turn: at_turn(form)? },
            "forget" => Action::Forget(form.required_recipient()?),
            "emit" => Action::Emit {
                to: form.required_recipient()?,
                name: form.get("name").map(str::to_owned),
                value: form.text("value").unwrap_or_default().to_owned(),
            },
            "replay-one" => Action::ReplayOne(letter(form)?),
            "delete-one" => Action::DeleteOne(letter(form)?),
            "replay-dead" => Action::ReplayDead(dead_filter(form)?),
            "delete-dead" => Action::DeleteDead(dead_filter(form)?),
            "retry-messages" => Action::RetryMessages(message_filter(form)),
            "bury-messages" => Action::BuryMessages(message_filter(form)),
            "pause-destination" => Action::PauseDestination(destination(form)),
            "resume-destination" => Action::ResumeDestination(destination(form)),
            "release-shard" => Action::ReleaseShard(shard(form)?),
            "move-shard" => {
                let to = form.parsed("member", "the id of a member")?;
                Action::MoveShard { shard: shard(form)?, to: to.ok_or_else(|| missing("member"))? }
            }
            "unassign-shard" => Action::UnassignShard(shard(form)?),
            "unassign-failed" => Action::UnassignFailed,
            "apply-shard" => Action::ApplyShard(expecting(ShardChange::upsert(shard(form)?, spec(form)?), form)?),
            "reset-shard" => Action::ApplyShard(expecting(ShardChange::delete(shard(form)?), form)?),
            _ => return Err(Failure::bad_input("the dashboard does not know this action")),
        };
        Ok(action)
    }

    /// Returns the page to which the action belongs: its path, and its parameters.
    fn home(&self) -> (&'static str, Vec<(&'static str, &str)>) {
        match self {
            Action::Pause(of)
            | Action::Resume(of)
            | Action::TryNow(of)
            | Action::Quarantine(of, _)
            | Action::Purge(of, _)
            | Action::PurgeAll(of)
            | Action::CancelTimers(of)
            | Action::SetState { of, .. }
            | Action::ClearState { of, .. }
            | Action::Forget(of)
            | Action::Emit { to: of, .. } => ("/recipient", vec![("r", of.as_str())]),
            Action::PauseKind(kind) | Action::ResumeKind(kind) => ("/recipients", vec![("kind", kind.as_str())]),
            Action::ReplayOne(_) | Action::DeleteOne(_) | Action::ReplayDead(_) | Action::DeleteDead(_) => {
                ("/dead", Vec::new())
            }
            Action::RetryMessages(_)
            | Action::BuryMessages(_)
            | Action::PauseDestination(_)
            | Action::ResumeDestination(_) => ("/outbox", Vec::new()),
            Action::ReleaseShard(_)
            | Action::MoveShard { .. }
            | Action::UnassignShard(_)
            | Action::UnassignFailed
            | Action::ApplyShard(_) => ("/shards", Vec::new()),
        }
    }
}

fn event_id(form: &Fields) -> Result<EventId, Failure> {
    let id: Option<Uuid> = form.parsed("event", "the id of an event")?;
    id.map(EventId::from).ok_or_else(|| missing("event"))
}

fn letter(form: &Fields) -> Result<DeadLetterId, Failure> {
    letter_id(form, "letter")?.ok_or_else(|| missing("letter"))
}

fn at_turn(form: &Fields) -> Result<i64, Failure> {
    form.parsed("at_turn", "the number of a turn")?.ok_or_else(|| missing("at_turn"))
}

fn shard(form: &Fields) -> Result<u8, Failure> {
    form.parsed("shard", "a shard from 0 to 255")?.ok_or_else(|| missing("shard"))
}

/// Returns the spec that a form describes. Each line of its labels is `NAME=VALUE`.
fn spec(form: &Fields) -> Result<ShardSpec, Failure> {
    let mut spec = ShardSpec {
        is_disabled: form.get("disable").is_some(),
        zone: form.get("zone").map(str::to_owned),
        ..ShardSpec::default()
    };
    for line in form.get("labels").unwrap_or_default().lines().filter(|line| !line.trim().is_empty()) {
        let wrong = |problem: &str| Failure::bad_input(format!("the label {line:?} {problem}"));
        let (name, value) = line.trim().split_once('=').ok_or_else(|| wrong("is not of the form NAME=VALUE"))?;
        if spec.labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(wrong("has a name that is there twice"));
        }
    }
    Ok(spec)
}

/// Makes a change expect the revision of a form, if it has one.
fn expecting(change: ShardChange, form: &Fields) -> Result<ShardChange, Failure> {
    Ok(change.expecting(form.parsed("revision", "a revision")?.unwrap_or(ANY_REVISION)))
}

fn missing(name: &str) -> Failure {
    Failure::bad_input(format!("the field {name} is missing"))
}

/// Returns a state that is JSON, because states in other forms cannot be typed.
fn json(state: &str) -> Result<String, Failure> {
    match serde_json::from_str::<IgnoredAny>(state) {
        Ok(_) => Ok(state.to_owned()),
        Err(error) => Err(Failure::bad_input(format!("the state is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(form: &str) -> Result<Action, String> {
        Action::parse(&Fields::parse(form.as_bytes())).map_err(|failure| failure.text)
    }

    #[test]
    fn incomplete_forms_are_refused() {
        for form in [
            "",
            "action=",
            "action=explode",
            "action=pause",
            "action=pause&r=no-slash",
            "action=purge&r=a%2Fb",
            "action=purge&r=a%2Fb&event=x",
            "action=set-state&r=a%2Fb&at_turn=1&state=%7B",
            "action=set-state&r=a%2Fb&state=1",
            "action=replay-one&letter=x",
            "action=release-shard&shard=256",
            "action=move-shard&shard=1",
            "action=unassign-shard",
            "action=apply-shard&labels=a%3D1",
            "action=apply-shard&shard=7&labels=a",
            "action=apply-shard&shard=7&labels=a%3D1%0D%0Aa%3D2",
            "action=reset-shard&shard=7&revision=x",
            "action=pause-kind",
        ] {
            assert!(parse(form).is_err(), "{form}");
        }
    }

    #[test]
    fn a_form_says_everything_about_its_action() {
        let set = parse("action=set-state&r=a%2Fb&at_turn=3&state=%7B%22n%22%3A1%7D");
        assert!(matches!(set, Ok(Action::SetState { at_turn: 3, ref state, .. }) if state == r#"{"n":1}"#));
        let emit = parse("action=emit&r=a%2Fb&value=");
        assert!(matches!(emit, Ok(Action::Emit { name: None, ref value, .. }) if value.is_empty()));
        let moved = parse("action=move-shard&shard=7&member=00000000-0000-0000-0000-000000000001");
        assert!(matches!(moved, Ok(Action::MoveShard { shard: 7, to }) if to == Uuid::from_u128(1)));
        let Ok(Action::ApplyShard(applied)) =
            parse("action=apply-shard&shard=7&labels=a%3D1%3D2%0D%0A&zone=&revision=3")
        else {
            panic!("a change of a spec")
        };
        let labels = [("a".to_owned(), "1=2".to_owned())].into();
        let wanted = ShardChange::upsert(7, ShardSpec { labels, ..ShardSpec::default() });
        assert_eq!(applied, wanted.expecting(3));
        let reset = parse("action=reset-shard&shard=7&revision=");
        assert!(matches!(reset, Ok(Action::ApplyShard(change)) if change == ShardChange::delete(7)));
        let paused = parse("action=pause-destination&source=shop&type=");
        let shop = Destination::all().source("shop");
        assert!(matches!(paused, Ok(Action::PauseDestination(of)) if of == shop));
        let filter = parse("action=replay-dead&code=POISON");
        assert!(matches!(filter, Ok(Action::ReplayDead(filter)) if filter == DeadFilter::new().code("POISON")));
    }
}
