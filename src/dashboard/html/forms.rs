//! The forms of pages. Each action goes through a page that asks for confirmation.

use maud::{Markup, html};

use crate::dashboard::web::{Call, Fields};

/// Returns the hidden field that every form must send back.
pub(crate) fn csrf(call: &Call) -> Markup {
    html! { input type="hidden" name="csrf" value=(call.visitor.csrf); }
}

/// Returns hidden fields.
pub(crate) fn hidden(fields: &[(&str, &str)]) -> Markup {
    html! {
        @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
    }
}

/// Returns a button that leads to the confirmation of an action. Nothing where actions are refused.
pub(crate) fn button(call: &Call, id: &str, label: &str, action: &str, fields: &[(&str, &str)]) -> Markup {
    ask(call, id, label, action, fields, &html! {})
}

/// Returns a form with visible fields and a button that leads to the confirmation of an action. Nothing where actions
/// are refused.
pub(crate) fn ask(call: &Call, id: &str, label: &str, action: &str, fields: &[(&str, &str)], seen: &Markup) -> Markup {
    if !call.may_act() {
        return html! {};
    }
    html! {
        form .action method="post" action=(call.link("/confirm", &[])) id=(id) {
            (csrf(call))
            (hidden(&[("action", action)]))
            (hidden(fields))
            (seen)
            button type="submit" { (label) }
        }
    }
}

/// Returns a labelled text field.
pub(crate) fn text_field(name: &str, label: &str, fields: &Fields) -> Markup {
    field(name, label, "text", fields)
}

/// Returns a labelled field for a time, which is UTC.
pub(crate) fn time_field(name: &str, label: &str, fields: &Fields) -> Markup {
    field(name, label, "datetime-local", fields)
}

fn field(name: &str, label: &str, kind: &str, fields: &Fields) -> Markup {
    let value = fields.text(name).unwrap_or_default();
    html! {
        label {
            span { (label) }
            input type=(kind) name=(name) id={ "field-" (name) } value=(value) autocomplete="off";
        }
    }
}

/// Returns a labelled choice. The first value is the usual one.
pub(crate) fn choice(name: &str, label: &str, values: &[(&str, &str)], fields: &Fields) -> Markup {
    let chosen = fields.get(name);
    html! {
        label {
            span { (label) }
            select name=(name) id={ "field-" (name) } {
                @for (value, word) in values {
                    option value=(value) selected[chosen == Some(*value)] { (word) }
                }
            }
        }
    }
}

/// Returns a form that filters a list.
pub(crate) fn filter(call: &Call, path: &str, seen: &Markup) -> Markup {
    html! {
        form .filter #filter method="get" action=(call.link(path, &[])) role="search" {
            (seen)
            button type="submit" { "Show" }
            a href=(call.link(path, &[])) { "Clear" }
        }
    }
}
