//! What `gzip` and `zstd` have in common: the modes, the limit, and whole members in a chunk.

use std::io;
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::Interceptor;
use crate::peer::framing::bounded::Bounded;
use crate::peer::framing::chunk::Chunk;
use crate::peer::framing::error::FramingError;
use crate::peer::framing::limits::FramingLimits;
use crate::peer::framing::named::Named;

/// How a compressed stream is cut into chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Each chunk has whole members. A bad chunk costs only itself.
    #[default]
    Whole,
    /// A member may go over any number of chunks. A bad byte costs the stream.
    Streaming,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct CompressionSettings {
    mode: Mode,
    level: Option<u8>,
}

/// The checked settings of an interceptor that compresses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Compression {
    pub(super) streaming: bool,
    pub(super) level: u8,
}

impl Compression {
    pub(super) fn read(
        named: &Named,
        part: &'static str,
        levels: RangeInclusive<u8>,
        default: u8,
    ) -> Result<Self, FramingError> {
        let settings = named.read::<CompressionSettings>(part)?;
        let level = settings.level.unwrap_or(default);
        if !levels.contains(&level) {
            let problem = format!("`level` is {level}: use {} to {}", levels.start(), levels.end());
            return Err(FramingError::settings(part, problem));
        }
        Ok(Compression { streaming: settings.mode == Mode::Streaming, level })
    }
}

/// A decompressor of one format. After an error it is dropped.
pub(super) trait Expand: Send {
    /// Decompresses bytes, and writes all that comes out of them.
    fn push(&mut self, bytes: &[u8], out: &mut Bounded) -> io::Result<()>;

    /// Ends the stream, and fails inside a member. Then the decompressor is as new.
    fn end(&mut self) -> io::Result<()>;

    /// Returns the decompressor to its beginning, after an error.
    fn reset(&mut self);
}

/// A compressor of one format.
pub(super) trait Compress: Send {
    /// Compresses bytes as one whole member.
    fn compress(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>>;
}

/// Decompresses chunks.
pub(super) struct Decompressor {
    name: &'static str,
    format: Box<dyn Expand>,
    streaming: bool,
    max_decompressed_bytes: usize,
}

impl Decompressor {
    pub(super) fn new(name: &'static str, format: Box<dyn Expand>, streaming: bool, limits: &FramingLimits) -> Self {
        Decompressor { name, format, streaming, max_decompressed_bytes: limits.max_decompressed_bytes }
    }

    fn error(&self, problem: &io::Error, over: bool) -> FramingError {
        let (part, ends_stream, limit) = (self.name, self.streaming, self.max_decompressed_bytes);
        if over {
            let what = "more decompressed bytes out of one chunk";
            return FramingError::OverLimit { part, what, limit, setting: "max_decompressed_bytes", ends_stream };
        }
        let problem = match problem.kind() {
            io::ErrorKind::UnexpectedEof if !self.streaming => {
                "its last member is incomplete or damaged; set `mode` to `streaming` for members over chunks".to_owned()
            }
            _ => problem.to_string(),
        };
        FramingError::Invalid { part, problem, ends_stream }
    }
}

impl Interceptor for Decompressor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        let mut expanded = Bounded::new(self.max_decompressed_bytes);
        let mut result = self.format.push(&chunk.bytes, &mut expanded);
        if result.is_ok() && !self.streaming {
            result = self.format.end();
        }
        if let Err(problem) = result {
            self.format.reset();
            return Err(self.error(&problem, expanded.is_over()));
        }
        let bytes = expanded.into_bytes();
        if !(self.streaming && bytes.is_empty()) {
            out.push(Chunk::new(bytes, chunk.ingest_ns));
        }
        Ok(())
    }

    fn finish(&mut self, _out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        self.format.end().map_err(|_| {
            self.format.reset();
            FramingError::Incomplete { part: self.name, what: "a compressed member" }
        })
    }

    fn spans_chunks(&self) -> bool {
        self.streaming
    }
}

/// Compresses each chunk as a whole member.
pub(super) struct Compressor {
    name: &'static str,
    format: Box<dyn Compress>,
}

impl Compressor {
    pub(super) fn new(name: &'static str, format: Box<dyn Compress>) -> Self {
        Compressor { name, format }
    }
}

impl Interceptor for Compressor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn process(&mut self, chunk: Chunk, out: &mut Vec<Chunk>) -> Result<(), FramingError> {
        let bytes = self.format.compress(&chunk.bytes);
        let bytes = bytes.map_err(|problem| FramingError::unwritable(self.name, problem))?;
        out.push(Chunk::new(bytes, chunk.ingest_ns));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::peer::framing::{Direction, InterceptorSpec};

    const BOMB_BYTES: usize = 1 << 30;

    fn build(name: &str, mode: &str, direction: Direction, limits: &FramingLimits) -> Box<dyn Interceptor> {
        InterceptorSpec::named(name).unwrap().with("mode", mode).unwrap().build(direction, limits).unwrap()
    }

    fn pack(name: &str, bytes: &'static [u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut packer = build(name, "whole", Direction::Outgoing, &FramingLimits::default());
        packer.process(Chunk::new(bytes, 0), &mut out).unwrap();
        out[0].bytes.to_vec()
    }

    fn bomb(name: &str) -> Vec<u8> {
        fn zeros(out: &mut impl Write) {
            let piece = vec![0_u8; 1 << 20];
            (0..BOMB_BYTES >> 20).for_each(|_| out.write_all(&piece).unwrap());
        }
        if name == "gzip" {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            zeros(&mut out);
            return out.finish().unwrap();
        }
        let mut out = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        zeros(&mut out);
        out.finish().unwrap()
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let limits = FramingLimits { max_decompressed_bytes: 1 << 20, ..FramingLimits::default() };
        for name in ["gzip", "zstd"] {
            let bomb = bomb(name);
            assert!(bomb.len() < BOMB_BYTES / 900, "it is a bomb");
            for mode in ["whole", "streaming"] {
                let mut unpack = build(name, mode, Direction::Incoming, &limits);
                let mut out = Vec::new();
                let error = unpack.process(Chunk::new(bomb.clone(), 0), &mut out).unwrap_err();
                assert!(error.to_string().contains("max_decompressed_bytes"), "{error}");
                assert_eq!((error.ends_stream(), out.len()), (mode == "streaming", 0));
                if mode == "whole" {
                    unpack.process(Chunk::new(pack(name, b"next"), 1), &mut out).unwrap();
                    assert_eq!(out, [Chunk::new("next", 1)]);
                }
            }
        }
    }

    #[test]
    fn members_that_are_glued_together_are_one_chunk() {
        for name in ["gzip", "zstd"] {
            let glued = [pack(name, b"one "), pack(name, b""), pack(name, b"two\0")].concat();
            let mut unpack = build(name, "whole", Direction::Incoming, &FramingLimits::default());
            let mut out = Vec::new();
            unpack.process(Chunk::new(glued, 3), &mut out).unwrap();
            unpack.process(Chunk::new("", 3), &mut out).unwrap();
            unpack.process(Chunk::new(pack(name, b""), 4), &mut out).unwrap();
            unpack.finish(&mut out).unwrap();
            assert_eq!(out, [Chunk::new("one two\0", 3), Chunk::new("", 4)], "{name}");
        }
    }

    #[test]
    fn a_member_in_single_bytes_comes_out_before_its_end() {
        for name in ["gzip", "zstd"] {
            let glued = [pack(name, b"first"), pack(name, b""), pack(name, b"second")].concat();
            let mut unpack = build(name, "streaming", Direction::Incoming, &FramingLimits::default());
            let mut out = Vec::new();
            for byte in &glued {
                unpack.process(Chunk::new(vec![*byte], 0), &mut out).unwrap();
            }
            unpack.finish(&mut out).unwrap();
            let text: Vec<u8> = out.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
            assert_eq!(text, b"firstsecond", "{name}");
            assert!(out.iter().all(|chunk| !chunk.bytes.is_empty()), "{name}");
        }
    }

    #[test]
    fn half_a_member_is_an_error_and_never_silence() {
        for name in ["gzip", "zstd"] {
            let packed = pack(name, b"a member that is cut");
            for cut in 1..packed.len() {
                let half = || Chunk::new(packed[..cut].to_vec(), 0);
                let mut unpack = build(name, "whole", Direction::Incoming, &FramingLimits::default());
                let error = unpack.process(half(), &mut Vec::new()).unwrap_err();
                assert!(!error.ends_stream(), "{name} cut at {cut}: {error}");
                unpack.process(Chunk::new(packed.clone(), 0), &mut Vec::new()).unwrap();

                let mut unpack = build(name, "streaming", Direction::Incoming, &FramingLimits::default());
                unpack.process(half(), &mut Vec::new()).unwrap();
                let error = unpack.finish(&mut Vec::new()).unwrap_err();
                assert!(matches!(error, FramingError::Incomplete { .. }), "{name} cut at {cut}: {error}");
            }
        }
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for name in ["gzip", "zstd"] {
            let packed = pack(name, b"bytes that are damaged, damaged, damaged");
            let damaged: Vec<Vec<u8>> = vec![
                b"no member".to_vec(),
                [packed.as_slice(), b"tail"].concat(),
                packed
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if at == packed.len() - 2 { !byte } else { *byte })
                    .collect(),
            ];
            for bytes in damaged {
                let mut unpack = build(name, "whole", Direction::Incoming, &FramingLimits::default());
                let error = unpack.process(Chunk::new(bytes.clone(), 0), &mut Vec::new()).unwrap_err();
                assert!(!error.ends_stream(), "{name}: {error}");
                let mut unpack = build(name, "streaming", Direction::Incoming, &FramingLimits::default());
                let process = unpack.process(Chunk::new(bytes, 0), &mut Vec::new());
                assert!(process.and_then(|()| unpack.finish(&mut Vec::new())).unwrap_err().ends_stream(), "{name}");
            }
        }
    }
}
