//! The format of RFC 1952.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use flate2::write::{GzDecoder, GzEncoder};

use super::compression::{Compress, Expand};
use crate::peer::framing::bounded::Bounded;

pub(super) const NAME: &str = "gzip";
pub(super) const LEVELS: RangeInclusive<u8> = 0..=9;
pub(super) const DEFAULT_LEVEL: u8 = 6;

/// Decompresses members, one after the other.
#[derive(Default)]
pub(super) struct Gunzip {
    /// The member that has begun.
    member: Option<GzDecoder<Bounded>>,
}

impl Gunzip {
    /// Writes bytes into members whose output is the writer of the first of them.
    fn push_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(member) = &mut self.member else { return Ok(()) };
            let taken = member.write(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            if taken == 0 {
                member.try_finish()?;
                let out = std::mem::take(member.get_mut());
                self.member = Some(GzDecoder::new(out));
            }
        }
        // A decoder that has no header yet has nothing to flush.
        match &mut self.member {
            Some(member) if member.header().is_some() => member.flush(),
            _ => Ok(()),
        }
    }
}

impl Expand for Gunzip {
    fn push(&mut self, bytes: &[u8], out: &mut Bounded) -> io::Result<()> {
        let member = self.member.get_or_insert_with(|| GzDecoder::new(Bounded::default()));
        std::mem::swap(member.get_mut(), out);
        let result = self.push_all(bytes);
        if let Some(member) = &mut self.member {
            std::mem::swap(member.get_mut(), out);
        }
        result
    }

    fn end(&mut self) -> io::Result<()> {
        match self.member.take() {
            // The decoder calls a missing end a corrupt member; here only the end can be wrong.
            Some(mut member) => member.try_finish().map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => io::Error::new(io::ErrorKind::UnexpectedEof, error),
                _ => error,
            }),
            None => Ok(()),
        }
    }

    fn reset(&mut self) {
        self.member = None;
    }
}

/// Compresses each chunk as a member.
pub(super) struct Gzip(flate2::Compression);

impl Gzip {
    pub(super) fn new(level: u8) -> Self {
        Gzip(flate2::Compression::new(u32::from(level)))
    }
}

impl Compress for Gzip {
    fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), self.0);
        encoder.write_all(bytes)?;
        encoder.finish()
    }
}
