//! The fields of a query or a form.

use std::str::FromStr;

use super::failure::Failure;
use crate::recipient::Recipient;

/// Largest number of fields of a query or a form; further ones are dropped.
const MAX_FIELDS: usize = 64;

/// The fields of a query or a form, in their order. It has no `Debug`, because a form may carry a payload.
#[derive(Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `application/x-www-form-urlencoded` text. The line ends of a text area become single newlines.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(text).take(MAX_FIELDS);
        Fields(pairs.map(|(name, value)| (name.into_owned(), value.replace("\r\n", "\n"))).collect())
    }

    /// Returns the value of a field, also when it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a field, unless it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// Returns the value of a field that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).ok_or_else(|| Failure::bad_input(format!("the field {name} is missing")))
    }

    /// Returns the value of a field in its own type. `None` when the field is empty.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str, shape: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || Failure::bad_input(format!("the field {name} is not {shape}: {:?}", shown(value)));
        value.parse().map(Some).map_err(|_| wrong())
    }

    /// Returns the recipient in the field `r`. `None` when the field is empty.
    pub(crate) fn recipient(&self) -> Result<Option<Recipient>, Failure> {
        self.get("r").map(|text| text.parse::<Recipient>().map_err(|error| Failure::of(&error))).transpose()
    }

    /// Returns the recipient in the field `r`, which must be there.
    pub(crate) fn required_recipient(&self) -> Result<Recipient, Failure> {
        self.recipient()?.ok_or_else(|| Failure::bad_input("the field r, which names a recipient, is missing"))
    }
}

/// Returns the start of a value, for an error.
fn shown(value: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    value.chars().take(SHOWN_CHARS).collect()
}

/// Writes a query from names and values. Leaves out the empty values.
pub(crate) fn query_of(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_with_any_characters_comes_back() {
        for key in ["a b", "a/b", "\"<script>\"", "ä€𝄞", "a&r=b", "100%", "a+b", "#?"] {
            let recipient = Recipient::new("order", key).unwrap();
            let fields = Fields::parse(query_of(&[("kind", ""), ("r", recipient.as_str())]).as_bytes());
            assert_eq!(fields.required_recipient().ok(), Some(recipient));
            assert_eq!(fields.text("kind"), None);
        }
    }

    #[test]
    fn an_empty_field_is_as_good_as_none_except_for_texts() {
        let fields = Fields::parse(b"value=&shard=17&at_turn=x&lines=a%0D%0Ab");
        assert_eq!((fields.get("value"), fields.text("value")), (None, Some("")));
        assert_eq!(fields.parsed::<u8>("shard", "a number").ok(), Some(Some(17)));
        assert!(fields.parsed::<i64>("at_turn", "a number").is_err());
        assert_eq!(fields.get("lines"), Some("a\nb"));
        assert!(fields.required("why").is_err());
    }
}
