//! A reader that counts bytes, so that a length in the file can be checked against the bytes left before anything is
//! allocated.

use std::io::{BufRead, Read};

/// The longest line that is read, in bytes. Protocol 0 writes names and numbers as lines.
const MAX_LINE: u64 = 1 << 16;

/// A reader that knows its position and its length.
pub(crate) struct Source<R> {
    reader: R,
    position: u64,
    length: u64,
}

impl<R: BufRead> Source<R> {
    pub fn new(reader: R, length: u64) -> Self {
        Self { reader, position: 0, length }
    }

    /// Returns the number of bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the number of bytes that are left.
    pub fn left(&self) -> u64 {
        self.length - self.position
    }

    /// Advances the position, or fails if fewer bytes are left.
    fn take(&mut self, bytes: u64) -> Result<(), String> {
        if bytes > self.left() {
            return Err(format!(
                "truncated: {bytes} bytes are expected at byte {}, but {} are left",
                self.position,
                self.left()
            ));
        }
        self.position += bytes;
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    pub fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn bytes(&mut self, count: u64) -> Result<Vec<u8>, String> {
        self.take(count)?;
        let mut bytes = vec![0; usize::try_from(count).map_err(|error| error.to_string())?];
        self.reader.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Skips `count` bytes.
    pub fn skip(&mut self, count: u64) -> Result<(), String> {
        self.take(count)?;
        let skipped = std::io::copy(&mut self.reader.by_ref().take(count), &mut std::io::sink());
        skipped.map_err(|error| error.to_string()).map(drop)
    }

    /// Reads a line and returns it without its newline.
    pub fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        let most = self.left().min(MAX_LINE);
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        self.position += read as u64;
        if line.pop() != Some(b'\n') {
            return Err(format!("truncated, or a line of more than {MAX_LINE} bytes, before byte {}", self.position));
        }
        String::from_utf8(line).map_err(|_| format!("a line before byte {} is not UTF-8", self.position))
    }
}
