//! Places in the log of a server.

use std::fmt;
use std::str::FromStr;

/// A place: the transactions that commit before `lsn` are done, and of the one that commits at `lsn`, the first `done`
/// changes.
///
/// As text: `<lsn>`, or `<lsn>+<done>` within a transaction. An lsn is two hexadecimal numbers, as Postgres writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lsn: u64,
    pub(super) done: u64,
}

impl Place {
    pub(super) fn at(lsn: u64) -> Self {
        Place { lsn, done: 0 }
    }

    /// Returns the text of the lsn.
    pub(super) fn lsn_text(self) -> String {
        format!("{:X}/{:X}", self.lsn >> 32, self.lsn & 0xFFFF_FFFF)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lsn_text())?;
        if self.done > 0 {
            write!(f, "+{}", self.done)?;
        }
        Ok(())
    }
}

/// A text that is no place in a log.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no place in the log of Postgres: write it as 0/16B3748")]
pub(super) struct NotAPlace {
    text: String,
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let read = || {
            let (lsn, done) = text.split_once('+').unwrap_or((text, "0"));
            let (high, low) = lsn.split_once('/')?;
            let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
            Some(Place { lsn: u64::from(high) << 32 | u64::from(low), done: done.parse().ok()? })
        };
        read().ok_or_else(|| NotAPlace { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_text() {
        let place = Place { lsn: 0x12_3456_789A, done: 7 };
        assert_eq!((place.to_string().as_str(), place.to_string().parse().ok()), ("12/3456789A+7", Some(place)));
        assert_eq!("0/0".parse::<Place>().unwrap(), Place::at(0));
        for wrong in ["", "0", "0/", "x/1", "0/1+", "0/1+x", "100000000/0", "-1/0"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
