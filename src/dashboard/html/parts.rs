//! The parts of pages: tables, times, badges.

use std::time::SystemTime;

use maud::{Markup, html};

use super::text;
use crate::origin::Origin;

/// Returns a table, which the style sheet turns into cards on a narrow screen, or a sentence when there are no rows.
pub(crate) fn table(id: &str, caption: &str, headings: &[&str], rows: &[Vec<Markup>], when_empty: &str) -> Markup {
    if rows.is_empty() {
        return html! { p .empty id=(id) { (when_empty) } };
    }
    html! {
        table id=(id) role="table" {
            caption .unseen { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for heading in headings { th scope="col" role="columnheader" { (heading) } }
                }
            }
            tbody role="rowgroup" {
                @for row in rows {
                    tr role="row" {
                        @for (heading, cell) in headings.iter().zip(row) {
                            td role="cell" data-label=(heading) { div { (cell) } }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a text as a cell or a part of one.
pub(crate) fn plain(text: impl std::fmt::Display) -> Markup {
    let text = text.to_string();
    html! { (text) }
}

/// Returns a time as seen from now, with the exact time for machines and for the mouse.
pub(crate) fn when(at: SystemTime) -> Markup {
    let exact = humantime::format_rfc3339_millis(at).to_string();
    html! { time datetime=(exact) title=(exact) { (text::from_now(at)) } }
}

/// Returns a time as [`when`], or a dash.
pub(crate) fn when_any(at: Option<SystemTime>) -> Markup {
    at.map_or_else(dash, when)
}

/// Returns a word of the library, such as a code. A line ends behind its underscores only.
pub(crate) fn word(text: &str) -> Markup {
    html! { span .word { @for part in text.split_inclusive('_') { (part) @if part.ends_with('_') { wbr; } } } }
}

/// Returns a word as [`word`], or a dash.
pub(crate) fn any_word(text: Option<&str>) -> Markup {
    text.map_or_else(dash, word)
}

/// Longest name that stands on one line, in bytes.
const SHORT_NAME_BYTES: usize = 24;

/// Returns a name that people chose. A short one stands on one line.
pub(crate) fn name(name: &str) -> Markup {
    html! { span .whole[name.len() <= SHORT_NAME_BYTES] { (name) } }
}

/// Returns a number of bytes, on one line.
pub(crate) fn size(bytes: u64) -> Markup {
    html! { span .whole { (text::bytes(bytes)) } }
}

/// Returns a text, or a dash.
pub(crate) fn any(text: Option<&str>) -> Markup {
    text.map_or_else(dash, |text| html! { (text) })
}

/// Returns the name of an event, or a dash, and under it where the event came from outside.
pub(crate) fn name_and_origin(name: Option<&str>, origin: Option<&Origin>) -> Markup {
    html! { (any(name)) (from_outside(origin)) }
}

/// Returns where an event came from outside, if it did, as a line of its own.
pub(crate) fn from_outside(origin: Option<&Origin>) -> Markup {
    html! { @if let Some(origin) = origin { div title="origin" { "from " (origin.to_string()) } } }
}

/// Stands for something that is not there.
pub(crate) fn dash() -> Markup {
    html! { span .dash title="none" { "–" } }
}

/// Returns a short mark. The word carries the meaning, and the colour repeats it.
pub(crate) fn badge(class: &str, word: &str) -> Markup {
    html! { span class={ "badge " (class) } { (word) } }
}

/// Returns a list of facts: names with values.
pub(crate) fn facts(id: &str, facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl .facts id=(id) {
            @for (name, value) in facts {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// Returns a payload in full, or its beginning.
pub(crate) fn payload(id: &str, headline: &str, value: &[u8]) -> Markup {
    let shown = text::payload(value);
    html! {
        section .panel id=(id) {
            h2 { (headline) }
            p { (text::bytes(value.len() as u64)) ", shown as " (shown.form) "." }
            pre tabindex="0" { code { (shown.text) } }
            @if shown.is_cut {
                p { "The end is not shown: the page shows " (text::bytes(text::MAX_SHOWN_BYTES as u64)) "." }
            }
        }
    }
}

/// Returns the links to the first and the next page.
pub(crate) fn paging(first: Option<&str>, next: Option<&str>) -> Markup {
    html! {
        @if first.is_some() || next.is_some() {
            nav .paging aria-label="Pages of the list" {
                @if let Some(first) = first { a #first-page href=(first) { "First page" } }
                @if let Some(next) = next { a #next-page href=(next) { "Next page" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_and_labelled() {
        let rows = [vec![plain("<b>"), badge("bad", "paused")]];
        let shown = table("t", "Things", &["Name \"x\"", "State"], &rows, "None.").into_string();
        assert!(shown.contains(r#"data-label="Name &quot;x&quot;"><div>&lt;b&gt;</div></td>"#), "{shown}");
        assert!(shown.contains(r#"<span class="badge bad">paused</span>"#), "{shown}");
        let origin = Origin::new("<chat>", "s1", 7).ok();
        let named = name_and_origin(None, origin.as_ref()).into_string();
        assert!(named.ends_with(r#"<div title="origin">from &lt;chat&gt;:s1:7</div>"#), "{named}");
        assert_eq!(name_and_origin(Some("n"), None).into_string(), "n");
        assert_eq!(word("A_B").into_string(), r#"<span class="word">A_<wbr>B</span>"#);
        assert_eq!(table("t", "Things", &[], &[], "None.").into_string(), r#"<p class="empty" id="t">None.</p>"#);
    }
}
