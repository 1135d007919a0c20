//! A buffer that never grows over its limit.

use std::io;

/// Smallest capacity of a buffer that has any bytes.
const FIRST_BYTES: usize = 256;

/// A buffer that refuses a write over its limit, and allocates at most the limit.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    over: bool,
}

impl Bounded {
    pub(super) fn new(limit: usize) -> Self {
        Bounded { bytes: Vec::new(), limit, over: false }
    }

    /// Returns whether a write was refused.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let needed = self.bytes.len().saturating_add(bytes.len());
        if needed > self.limit {
            self.over = true;
            return Err(io::Error::other("the result is over its limit"));
        }
        if needed > self.bytes.capacity() {
            let doubled = self.bytes.capacity().saturating_mul(2).max(FIRST_BYTES);
            let capacity = doubled.min(self.limit).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_never_allocates_more_than_its_limit() {
        let mut buffer = Bounded::new(1000);
        for _ in 0..10 {
            buffer.put(&[7; 100]).unwrap();
            assert!(buffer.bytes.capacity() <= 1000, "{}", buffer.bytes.capacity());
        }
        assert!(!buffer.is_over());
        assert!(buffer.put(&[7]).is_err());
        assert!(buffer.is_over());
        assert_eq!(buffer.into_bytes().len(), 1000);
    }
}
