//! The two buffers of a connection. Both keep their memory initialised, so
//! that data goes from the socket to the file and back without being copied
//! or cleared in between.

use std::io::{self, Read, Write};

/// Bytes received and not yet consumed.
pub(super) struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Receives once; 0 at the end of the stream. The buffer must not be full.
    pub(super) fn fill(&mut self, mut from: impl Read) -> io::Result<usize> {
        if self.start > 0 && self.end > self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match from.read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Bytes to be sent.
#[derive(Default)]
pub(super) struct Output {
    /// Initialised to its whole length; the first `used` bytes count.
    bytes: Vec<u8>,
    used: usize,
}

/// What a connection keeps after it had to send more.
const KEEP_BYTES: usize = 2 << 20;

impl Output {
    pub(super) fn data(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// The next `count` bytes, with anything in them; they count only after
    /// [`Output::advance`].
    pub(super) fn space(&mut self, count: usize) -> &mut [u8] {
        let end = self.used + count;
        if self.bytes.len() < end {
            self.bytes.resize(end.next_multiple_of(4096), 0);
        }
        &mut self.bytes[self.used..end]
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.used += count;
        debug_assert!(self.used <= self.bytes.len());
    }

    pub(super) fn truncate(&mut self, used: usize) {
        debug_assert!(used <= self.used);
        self.used = used;
    }

    pub(super) fn send(&mut self, mut to: impl Write) -> io::Result<()> {
        to.write_all(self.data())?;
        self.used = 0;
        if self.bytes.len() > KEEP_BYTES {
            self.bytes.truncate(KEEP_BYTES);
            self.bytes.shrink_to_fit();
        }
        Ok(())
    }
}
