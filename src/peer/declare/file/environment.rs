//! Secrets of the settings of connectors, which come from the environment: `${NAME}`.

use toml::Spanned;
use toml::de::DeValue;

use super::Refused;

/// What was put in place of names, so that no error shows it.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<(String, String)>);

/// Looks up a variable of the environment.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<String> + Send + Sync + 'a;

impl Secrets {
    /// Puts the variables of the environment in the place of their names, in all strings below a value.
    pub(super) fn fill(&mut self, value: &mut Spanned<DeValue<'_>>, lookup: &Lookup<'_>) -> Result<(), Refused> {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => {
                let filled = self.filled(text, lookup).map_err(|problem| Refused::new(problem, span))?;
                *text = filled.into();
            }
            DeValue::Array(values) => {
                for value in values.iter_mut() {
                    self.fill(value, lookup)?;
                }
            }
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.fill(value, lookup)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn filled(&mut self, text: &str, lookup: &Lookup<'_>) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                filled.push_str(before);
                filled.push_str("${");
                rest = behind;
                continue;
            }
            filled.push_str(before);
            let (name, behind) = behind.split_once('}').filter(|(name, _)| is_name(name)).ok_or(NO_NAME)?;
            let value = lookup(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
            filled.push_str(&value);
            self.0.push((name.to_owned(), value));
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Returns a text with names in the place of secrets.
    pub(super) fn hidden(&self, text: &str) -> String {
        let secrets = self.0.iter().filter(|(_, value)| !value.is_empty());
        secrets.fold(text.to_owned(), |text, (name, value)| {
            // An error shows a text as it is, or as it is written in code.
            let written = format!("{value:?}");
            let written = written.trim_matches('"');
            text.replace(value, &format!("${{{name}}}")).replace(written, &format!("${{{name}}}"))
        })
    }
}

const NO_NAME: &str = "${ begins the name of an environment variable, as ${HUB_TOKEN}; write $${ for the characters ${";

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(is_letter) && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let lookup = |name: &str| (name == "TOKEN").then(|| "s\"ecret".to_owned());
        Secrets::default().filled(text, &lookup)
    }

    #[test]
    fn variables_stand_anywhere_in_a_text() {
        for (text, expected) in [
            ("${TOKEN}", "s\"ecret"),
            ("a ${TOKEN} b ${TOKEN}", "a s\"ecret b s\"ecret"),
            ("$${TOKEN}", "${TOKEN}"),
            ("$5 {n}", "$5 {n}"),
            ("${TOKEN}}", "s\"ecret}"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_missing_variable_is_named_and_a_wrong_name_refused() {
        assert_eq!(filled("${NO_TOKEN}"), Err("the environment variable NO_TOKEN is not set".to_owned()));
        for text in ["${", "${TOKEN", "${}", "${A B}", "${1A}"] {
            assert_eq!(filled(text), Err(NO_NAME.to_owned()), "{text}");
        }
    }

    #[test]
    fn no_text_shows_a_secret() {
        let secrets = Secrets(vec![("TOKEN".to_owned(), "s\"ecret".to_owned()), ("NONE".to_owned(), String::new())]);
        let shown = secrets.hidden("invalid type: string \"s\\\"ecret\"; s\"ecret");
        assert_eq!(shown, "invalid type: string \"${TOKEN}\"; ${TOKEN}");
    }
}
