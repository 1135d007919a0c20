//! A name with settings, as a configuration writes interceptors and codecs.

use std::fmt;

use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::FramingError;

/// A name, and settings that may be absent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) settings: Map<String, Value>,
}

impl Named {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Named { name: name.into(), settings: Map::new() }
    }

    /// Reads the settings as a type that refuses unknown keys.
    pub(super) fn read<T: DeserializeOwned>(&self, part: &'static str) -> Result<T, FramingError> {
        let settings = Value::Object(self.settings.clone());
        serde_json::from_value(settings).map_err(|error| FramingError::settings(part, error))
    }
}

/// The settings of a part that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoSettings {}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.settings.is_empty() {
            return serializer.serialize_str(&self.name);
        }
        let mut map = serializer.serialize_map(Some(self.settings.len() + 1))?;
        map.serialize_entry("name", &self.name)?;
        for (key, value) in &self.settings {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or a table with `name` and settings")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Named, E> {
        Ok(Named::new(name))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut name = None;
        let mut settings = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "name" {
                name = Some(map.next_value()?);
            } else if settings.insert(key.clone(), map.next_value()?).is_some() {
                return Err(de::Error::custom(format!("the setting `{key}` is there twice")));
            }
        }
        let name = name.ok_or_else(|| de::Error::missing_field("name"))?;
        Ok(Named { name, settings })
    }
}
