//! The messages of `pgoutput`, version 1 of its protocol.

/// A message, as far as a source needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A transaction begins, which commits at this place.
    Begin {
        commit_lsn: u64,
        committed_at_us: i64,
        transaction: u32,
    },
    /// It ends. The next transaction commits at `end_lsn` or behind it.
    Commit {
        end_lsn: u64,
    },
    /// The description of a table, ahead of its first change.
    Relation(Relation),
    Insert {
        relation: u32,
        new: Vec<Field>,
    },
    Update {
        relation: u32,
        old: Vec<Field>,
        new: Vec<Field>,
    },
    Delete {
        relation: u32,
        old: Vec<Field>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A description of a type, or an origin.
    Other,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) id: u32,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) columns: Vec<String>,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Null,
    /// A large value that did not change, and is not sent.
    Unchanged,
    Text(String),
}

/// A message that does not follow the protocol.
#[derive(Debug, thiserror::Error)]
#[error("the server sent a message that cannot be read: {what}")]
pub(super) struct Malformed {
    what: &'static str,
}

/// Reads a message.
pub(super) fn read(message: &[u8]) -> Result<Message, Malformed> {
    let mut bytes = Bytes(message);
    let message = match bytes.u8()? {
        b'B' => Message::Begin { commit_lsn: bytes.u64()?, committed_at_us: bytes.i64()?, transaction: bytes.u32()? },
        b'C' => {
            let (_flags, _commit_lsn) = (bytes.u8()?, bytes.u64()?);
            Message::Commit { end_lsn: bytes.u64()? }
        }
        b'R' => Message::Relation(bytes.relation()?),
        b'I' => Message::Insert { relation: bytes.u32()?, new: bytes.marked(b"N")?.1 },
        b'U' => bytes.update()?,
        b'D' => Message::Delete { relation: bytes.u32()?, old: bytes.marked(b"KO")?.1 },
        b'T' => {
            let (count, _flags) = (bytes.u32()?, bytes.u8()?);
            Message::Truncate { relations: (0..count).map(|_| bytes.u32()).collect::<Result<_, _>>()? }
        }
        b'Y' | b'O' | b'M' => Message::Other,
        _ => return Err(Malformed { what: "its type is not known" }),
    };
    Ok(message)
}

/// The rest of a message.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed { what: "it ends too early" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed { what: "it ends too early" })
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Reads a text that a zero byte ends.
    fn text(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed { what: "a name has no end" })?;
        let text = utf8(self.take(end)?)?;
        self.take(1)?;
        Ok(text)
    }

    fn relation(&mut self) -> Result<Relation, Malformed> {
        let (id, schema, table) = (self.u32()?, self.text()?, self.text()?);
        let (_replica_identity, count) = (self.u8()?, self.u16()?);
        let mut columns = Vec::new();
        for _ in 0..count {
            let _flags = self.u8()?;
            columns.push(self.text()?);
            let (_type, _modifier) = (self.u32()?, self.u32()?);
        }
        Ok(Relation { id, schema, table, columns })
    }

    fn update(&mut self) -> Result<Message, Malformed> {
        let relation = self.u32()?;
        let (mark, first) = self.marked(b"KON")?;
        if mark == b'N' {
            return Ok(Message::Update { relation, old: Vec::new(), new: first });
        }
        Ok(Message::Update { relation, old: first, new: self.marked(b"N")?.1 })
    }

    /// Reads one of these marks, and the row behind it.
    fn marked(&mut self, marks: &[u8]) -> Result<(u8, Vec<Field>), Malformed> {
        let mark = self.u8()?;
        if !marks.contains(&mark) {
            return Err(Malformed { what: "a row has a wrong mark" });
        }
        let count = self.u16()?;
        let fields: Result<_, _> = (0..count).map(|_| self.field()).collect();
        Ok((mark, fields?))
    }

    fn field(&mut self) -> Result<Field, Malformed> {
        match self.u8()? {
            b'n' => Ok(Field::Null),
            b'u' => Ok(Field::Unchanged),
            b't' => {
                let length = usize::try_from(self.u32()?).map_err(|_| Malformed { what: "a value is too long" })?;
                Ok(Field::Text(utf8(self.take(length)?)?))
            }
            _ => Err(Malformed { what: "the type of a value is not known" }),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed { what: "a text is not UTF-8" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as a server of Postgres 15 sends them.
    #[test]
    fn messages_are_read() {
        let update = b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x03t\0\0\0\x012nu";
        let text = |text: &str| Field::Text(text.to_owned());
        let new = vec![text("2"), Field::Null, Field::Unchanged];
        assert_eq!(read(update).unwrap(), Message::Update { relation: 7, old: vec![text("1")], new });
        let relation = b"R\0\0\0\x07public\0orders\0d\0\x01\x01id\0\0\0\0\x14\xff\xff\xff\xff";
        let Message::Relation(relation) = read(relation).unwrap() else { panic!("it is a relation") };
        assert_eq!((relation.table.as_str(), relation.columns.as_slice()), ("orders", &["id".to_owned()][..]));
    }

    /// A message that is cut anywhere, or has other bytes, is an error or another message, and no panic.
    #[test]
    fn no_message_panics() {
        let whole = b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x03t\0\0\0\x012nu".as_slice();
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            for byte in 0..=u8::MAX {
                let mut other = whole.to_vec();
                other[at] = byte;
                let _ = read(&other);
            }
        }
    }
}
