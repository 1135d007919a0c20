//! The receipt of an emit, with which the caller asks for the event later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::EventId;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::emit::Emitted;
use crate::recipient::{Recipient, check_key};

/// Result of [`emit`](crate::emit): what became of the event, and a handle for [`status`](crate::status()).
///
/// Compare it with an [`Emitted`] where only the result matters. A receipt is cheap to clone. It has a short text for
/// other processes: [`Display`](fmt::Display), [`FromStr`] and `serde` (as a string). The text holds the recipient, and
/// the event's id or its name.
///
/// When the event was a duplicate or tombstoned, the receipt stands for the first copy, found by its name while the
/// name is remembered. After that the receipt stands for no event, or for a later event under the same name.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{Emitted, Event, Receipt, Recipient};
///
/// let order = Recipient::new("order", "7")?;
/// let receipt = eventbox::emit(&pool, &order, Event::new("a pencil").named("click-1")).await?;
/// assert_eq!(receipt, Emitted::Added);
/// assert_eq!(receipt.to(), &order);
///
/// let text = receipt.to_string();
/// assert_eq!(text.parse::<Receipt>()?, receipt);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    to: Recipient,
    sought: Sought,
}

/// Key by which the event is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Sought {
    /// Id of the event that was added.
    Added(EventId),
    /// Name of the first copy of the event.
    Copy { tombstoned: bool, name: Box<str> },
}

impl Receipt {
    /// Makes a receipt of an emit with this result, id and name.
    pub(crate) fn new(to: Recipient, emitted: Emitted, id: EventId, name: Option<&str>) -> Self {
        let sought = match (emitted, name) {
            (Emitted::Duplicate, Some(name)) => Sought::Copy { tombstoned: false, name: name.into() },
            (Emitted::Tombstoned, Some(name)) => Sought::Copy { tombstoned: true, name: name.into() },
            _ => Sought::Added(id),
        };
        Receipt { to, sought }
    }

    /// Returns what became of the event at its emit.
    #[must_use]
    pub fn emitted(&self) -> Emitted {
        match self.sought {
            Sought::Added(_) => Emitted::Added,
            Sought::Copy { tombstoned: false, .. } => Emitted::Duplicate,
            Sought::Copy { tombstoned: true, .. } => Emitted::Tombstoned,
        }
    }

    /// Returns the id of the event that was added; `None` for a copy, because the first copy has another id.
    #[must_use]
    pub fn id(&self) -> Option<EventId> {
        match self.sought {
            Sought::Added(id) => Some(id),
            Sought::Copy { .. } => None,
        }
    }

    /// Returns the recipient of the event.
    #[must_use]
    pub fn to(&self) -> &Recipient {
        &self.to
    }

    /// Returns the name by which a first copy is found.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.sought {
            Sought::Added(_) => None,
            Sought::Copy { name, .. } => Some(name),
        }
    }
}

/// Allows `assert_eq!(eventbox::emit(…).await?, Emitted::Added)`.
impl PartialEq<Emitted> for Receipt {
    fn eq(&self, emitted: &Emitted) -> bool {
        self.emitted() == *emitted
    }
}

impl From<Receipt> for Emitted {
    fn from(receipt: Receipt) -> Self {
        receipt.emitted()
    }
}

/// Writes `added:ID:RECIPIENT`, or `duplicate:N:NAMERECIPIENT` (or `tombstoned:…`) with a name of N bytes.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sought {
            Sought::Added(id) => write!(f, "added:{id}:{}", self.to),
            Sought::Copy { tombstoned, name } => {
                let word = if *tombstoned { "tombstoned" } else { "duplicate" };
                write!(f, "{word}:{}:{name}{}", name.len(), self.to)
            }
        }
    }
}

impl FromStr for Receipt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parsed(text).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::misuse("read a receipt", Misuse::NotAReceipt { text: shown })
        })
    }
}

fn parsed(text: &str) -> Option<Receipt> {
    let (word, rest) = text.split_once(':')?;
    let (key, rest) = rest.split_once(':')?;
    let tombstoned = match word {
        "added" => {
            let id = EventId(Uuid::try_parse(key).ok()?);
            return Some(Receipt { to: rest.parse().ok()?, sought: Sought::Added(id) });
        }
        "duplicate" => false,
        "tombstoned" => true,
        _ => return None,
    };
    let (name, to) = rest.split_at_checked(key.parse().ok()?)?;
    check_key("event's name", name).ok()?;
    Some(Receipt { to: to.parse().ok()?, sought: Sought::Copy { tombstoned, name: name.into() } })
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Receipt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
