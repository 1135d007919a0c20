//! The names of resource attributes, as extensions and as headers.

use std::collections::HashSet;

/// Names that an extension must not have, because the event or the emitter uses them.
pub const RESERVED_NAMES: [&str; 14] = [
    "idempotencykey",
    "recordedtime",
    "id",
    "source",
    "type",
    "specversion",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "data",
    "seqnum",
    "seqepoch",
    "emitter",
];

/// Returns the names of extensions for the keys of resource attributes, each with its unchanged value.
///
/// The function visits the keys in byte order, so `service.name` wins over `service_name`. It lower-cases each key and
/// keeps only the characters `a` to `z` and `0` to `9`. It leaves out a key in these cases:
///
/// - the name is empty;
/// - the name is in [`RESERVED_NAMES`];
/// - an earlier key has the same name.
///
/// # Examples
///
/// ```
/// let attributes = [("service_name".to_owned(), "b".to_owned()), ("service.name".to_owned(), "a".to_owned())];
/// assert_eq!(eventbox::cloudevent::resource_names(&attributes), [("servicename".to_owned(), "a")]);
/// ```
#[must_use]
pub fn resource_names(attributes: &[(String, String)]) -> Vec<(String, &str)> {
    let mut sorted: Vec<_> = attributes.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    let mut taken = HashSet::new();
    let mut named = Vec::with_capacity(sorted.len());
    for (key, value) in sorted {
        let name: String =
            key.to_lowercase().chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).collect();
        if !name.is_empty() && !RESERVED_NAMES.contains(&name.as_str()) && taken.insert(name.clone()) {
            named.push((name, value.as_str()));
        }
    }
    named
}

/// Returns the value of a resource attribute in the form that a gRPC header can have.
///
/// Every byte outside `0x20` to `0x7E` becomes `?`.
#[must_use]
pub fn resource_value(value: &str) -> String {
    value.bytes().map(|byte| if (0x20..=0x7e).contains(&byte) { char::from(byte) } else { '?' }).collect()
}
