//! The format of RFC 8878.

use std::io;
use std::ops::RangeInclusive;

use zstd::bulk;
use zstd::stream::raw::{CParameter, DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::compression::{Compress, Expand};
use crate::peer::framing::bounded::Bounded;

pub(super) const NAME: &str = "zstd";
/// The levels above need more than the window that [`WINDOW_LOG`] allows.
pub(super) const LEVELS: RangeInclusive<u8> = 1..=19;
pub(super) const DEFAULT_LEVEL: u8 = 3;

/// Largest window of a frame, as a power of two: the 8 MiB that RFC 8878 asks every decoder to have.
const WINDOW_LOG: u32 = 23;

/// Bytes that are decompressed at a time.
const STEP_BYTES: usize = 32 << 10;

/// Decompresses frames, one after the other.
#[derive(Default)]
pub(super) struct Unzstd {
    decoder: Option<Decoder<'static>>,
    inside_frame: bool,
}

impl Expand for Unzstd {
    fn push(&mut self, bytes: &[u8], out: &mut Bounded) -> io::Result<()> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(decoder()?),
        };
        let mut input = InBuffer::around(bytes);
        let mut step = vec![0; STEP_BYTES];
        loop {
            let mut output = OutBuffer::around(step.as_mut_slice());
            let missing = decoder.run(&mut input, &mut output)?;
            let produced = output.pos();
            let full = produced == output.capacity();
            out.put(step.get(..produced).unwrap_or_default())?;
            self.inside_frame = missing != 0;
            let all_read = input.pos() == bytes.len();
            // Nothing more comes out before more goes in, unless the step was too small for it.
            if all_read && !(full && self.inside_frame) {
                return Ok(());
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.inside_frame {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    fn reset(&mut self) {
        *self = Unzstd::default();
    }
}

fn decoder() -> io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
    Ok(decoder)
}

/// Compresses each chunk as a frame with a checksum.
pub(super) struct Zstd {
    level: u8,
    compressor: Option<bulk::Compressor<'static>>,
}

impl Zstd {
    pub(super) fn new(level: u8) -> Self {
        Zstd { level, compressor: None }
    }
}

impl Compress for Zstd {
    fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => {
                let mut compressor = bulk::Compressor::new(i32::from(self.level))?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                none.insert(compressor)
            }
        };
        compressor.compress(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_asks_for_a_huge_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.set_parameter(CParameter::WindowLog(27)).unwrap();
        io::Write::write_all(&mut encoder, &[7; 1000]).unwrap();
        let frame = encoder.finish().unwrap();
        let error = Unzstd::default().push(&frame, &mut Bounded::new(1 << 20)).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn a_checksum_that_is_wrong_is_an_error() {
        let mut frame = Zstd::new(DEFAULT_LEVEL).compress(b"some bytes").unwrap();
        *frame.last_mut().unwrap() ^= 1;
        assert!(Unzstd::default().push(&frame, &mut Bounded::new(1 << 20)).is_err());
    }
}
