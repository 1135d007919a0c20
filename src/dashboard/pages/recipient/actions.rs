//! What can be done with a recipient.

use maud::{Markup, html};

use crate::admin::Detail;
use crate::dashboard::html::forms;
use crate::dashboard::web::Call;

/// Returns the buttons for the whole recipient.
pub(super) fn of_recipient(call: &Call, detail: &Detail) -> Markup {
    if !call.may_act() {
        return html! {};
    }
    let fields = [("r", detail.recipient.as_str())];
    let button = |action: &str, label: &str| forms::button(call, &format!("action-{action}"), label, action, &fields);
    let standing = &detail.standing;
    html! {
        section .actions aria-labelledby="actions-headline" {
            h2 #actions-headline { "Actions" }
            @if standing.paused || standing.attempts > 0 { (button("resume", "Resume …")) }
            @if !standing.paused { (button("pause", "Pause …")) }
            @if standing.attempts > 0 { (button("try-now", "Try now …")) }
            (button("purge-all", "Delete all events and timers …"))
            (button("cancel-timers", "Cancel all timers …"))
            (button("forget", "Forget …"))
        }
    }
}

/// Returns the forms that need input: an event to emit, and a new state.
pub(super) fn forms(call: &Call, detail: &Detail) -> Markup {
    if !call.may_act() {
        return html! {};
    }
    let (of, turn) = (detail.recipient.as_str(), detail.standing.turn.to_string());
    let at_turn = [("r", of), ("at_turn", turn.as_str())];
    let event = html! {
        label {
            span { "Name (optional; makes a repeat harmless)" }
            input #emit-name type="text" name="name" autocomplete="off";
        }
        label { span { "Value" } textarea #emit-value name="value" rows="4" {} }
    };
    html! {
        section .panel aria-labelledby="emit-headline" {
            h2 #emit-headline { "Emit an event" }
            (forms::ask(call, "action-emit", "Emit …", "emit", &[("r", of)], &event))
        }
        @if let Some(state) = &detail.state {
            section .panel aria-labelledby="edit-headline" {
                h2 #edit-headline { "Edit the state" }
                p {
                    "The state must be JSON that its reducer can read. "
                    "A turn that commits first wins, and refuses the edit."
                }
                @if let Some(json) = &state.json {
                    @let text = html! {
                        label { span { "State" } textarea #state-text name="state" rows="8" { "\n" (json) } }
                    };
                    (forms::ask(call, "action-set-state", "Replace …", "set-state", &at_turn, &text))
                }
                (forms::button(call, "action-clear-state", "Clear …", "clear-state", &at_turn))
            }
        }
    }
}
