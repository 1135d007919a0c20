//! Templates of recipients: `room/{room}`, `order/{/order/id}`.

use std::fmt;

use serde_json::Value;

use crate::recipient::Recipient;

/// A template of a recipient, with places in braces that each event fills.
///
/// | Place | Filled with |
/// | --- | --- |
/// | `{peer}`, `{stream}` | the ids of the peer and the stream |
/// | `{name}` | a fact of the stream or a field of the arrival: `{remote}`, `{path}` |
/// | `{/a/b}` | a text, number or truth value in the event's JSON, as a JSON pointer |
///
/// The kind has no places, because kinds are few. `{{` and `}}` stand for braces.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Template;
///
/// let template: Template = "order/{/order/id}".parse()?;
/// assert_eq!(template.to_string(), "order/{/order/id}");
/// assert!("{stream}/order".parse::<Template>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    kind: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
    Pointer(String),
}

/// What fills the places of a template.
pub(in crate::peer) trait Fields {
    /// Returns a field.
    fn field(&self, name: &str) -> Option<&str>;

    /// Returns the event's value as JSON, if it is JSON.
    fn json(&self) -> Option<&Value>;
}

impl Template {
    /// Returns the recipient for these fields.
    pub(in crate::peer) fn fill(&self, fields: &impl Fields) -> Result<Recipient, String> {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Field(name) => {
                    key.push_str(fields.field(name).ok_or_else(|| format!("{{{name}}} of {self} is not known here"))?);
                }
                Part::Pointer(pointer) => {
                    let json = fields.json().ok_or_else(|| format!("{self} reads JSON, and the value is no JSON"))?;
                    let found = json.pointer(pointer).and_then(scalar);
                    key.push_str(&found.ok_or_else(|| format!("the value has no text or number at {pointer}"))?);
                }
            }
        }
        Recipient::new(&self.kind, &key).map_err(|error| format!("{self} gives no recipient: {error}"))
    }

    /// Returns whether filling reads the value as JSON.
    pub(in crate::peer) fn reads_json(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Pointer(_)))
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| format!("the template {text:?} {problem}");
        let (kind, key) = text.split_once('/').ok_or_else(|| wrong("is no recipient: write kind/key"))?;
        if kind.contains(['{', '}']) {
            return Err(wrong("has a place in its kind: kinds are few, so write it out"));
        }
        let parts = parts_of(key).map_err(|problem| wrong(&problem))?;
        Recipient::new(kind, "key").map_err(|error| error.to_string())?;
        if parts.is_empty() {
            return Err(wrong("has an empty key"));
        }
        Ok(Template { text: text.to_owned(), kind: kind.to_owned(), parts })
    }
}

fn parts_of(key: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut literal) = (Vec::new(), String::new());
    let mut rest = key.chars();
    while let Some(next) = rest.next() {
        match next {
            '{' | '}' if rest.as_str().starts_with(next) => {
                literal.push(next);
                rest.next();
            }
            '{' => {
                let (place, behind) = rest.as_str().split_once('}').ok_or("has a { without }")?;
                if place.is_empty() || place.contains('{') {
                    return Err("has an empty or nested place".to_owned());
                }
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                let is_pointer = place.starts_with('/');
                parts.push(if is_pointer { Part::Pointer(place.to_owned()) } else { Part::Field(place.to_owned()) });
                rest = behind.chars();
            }
            '}' => return Err("has a } without {".to_owned()),
            other => literal.push(other),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Template {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample(Value);

    impl Fields for Sample {
        fn field(&self, name: &str) -> Option<&str> {
            match name {
                "stream" => Some("s1"),
                "empty" => Some(""),
                _ => None,
            }
        }

        fn json(&self) -> Option<&Value> {
            Some(&self.0)
        }
    }

    fn fill(template: &str) -> Result<String, String> {
        let sample = Sample(serde_json::json!({"order": {"id": 17, "open": true, "lines": []}, "a/b": "c"}));
        template.parse::<Template>()?.fill(&sample).map(|to| to.to_string())
    }

    #[test]
    fn places_are_filled() {
        for (template, filled) in [
            ("order/{/order/id}", "order/17"),
            ("order/{/order/open}-{stream}", "order/true-s1"),
            ("order/{/a~1b}", "order/c"),
            ("order/{{{stream}}}", "order/{s1}"),
            ("order/all", "order/all"),
            ("order/a/{stream}", "order/a/s1"),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(filled), "{template}");
        }
    }

    #[test]
    fn wrong_templates_and_missing_places_are_refused() {
        for template in [
            "order",
            "/x",
            "order/",
            "{stream}/x",
            "order/{",
            "order/}",
            "order/{}",
            "order/{a{b}}",
            "order/{missing}",
            "order/{/order/lines}",
            "order/{/order/none}",
            "order/{empty}",
            "order/\0",
        ] {
            assert!(fill(template).is_err(), "{template}");
        }
    }
}
