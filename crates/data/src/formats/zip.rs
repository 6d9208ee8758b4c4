//! Zip archives of images, such as those of StyleGAN's and EDM's `dataset_tool.py`. They are read like a folder, without
//! unpacking.

use super::files::{is_hidden, lower_file_name, normalized};
use super::{labels, tree};
use crate::error::{Error, Result};
use crate::options::ReadOptions;
use crate::source::{Discovered, Format};
use flate2::{Crc, read::DeflateDecoder};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive, result::ZipError};

pub(crate) const FORMAT: Format = Format {
    expected: "a .zip of such a folder",
    detect: |path| path.is_file() && lower_file_name(path).ends_with(".zip"),
    open,
};

/// A file in the archive, according to the central directory.
#[derive(Clone)]
struct Member {
    name: String,
    /// Offset of the local header.
    start: u64,
    packed: u64,
    size: u64,
    crc: u32,
    method: CompressionMethod,
    encrypted: bool,
}

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut members = directory(BufReader::new(file)).map_err(|error| match error {
        ZipError::Io(e) => Error::reading(path, e),
        e => Error::malformed(path, format!("is truncated or not a zip archive ({e}); download it again")),
    })?;
    members.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let read = |index: usize| {
        let file = path.join(&names[index]);
        labels::read_bytes(&file, members[index].open(path).map_err(|e| Error::reading(&file, e))?)
    };
    let part = tree::select(path, &names, options.split, &options.label_from, &read)?;
    part.into_discovered(
        "zip",
        path,
        |index| path.join(&names[index]),
        |images| {
            let members: Vec<Member> = images.iter().map(|&index| members[index].clone()).collect();
            let path = path.to_owned();
            Box::new(move |index| members[index].open(&path))
        },
    )
}

fn directory(file: BufReader<File>) -> zip::result::ZipResult<Vec<Member>> {
    let archive = ZipArchive::new(file)?;
    let mut members = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index)?;
        let name = normalized(&entry.name().unwrap_or_else(|_| String::from_utf8_lossy(entry.name_raw())));
        if entry.is_file() && !is_hidden(&name) {
            members.push(Member {
                name,
                start: entry.header_start(),
                packed: entry.compressed_size(),
                size: entry.size(),
                crc: entry.crc32(),
                method: entry.compression(),
                encrypted: entry.encrypted(),
            });
        }
    }
    Ok(members)
}

impl Member {
    /// Returns a reader of the content, limited to the size in the central directory.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        if self.encrypted {
            return Err(io::Error::other("is encrypted; unpack the archive"));
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut header = [0; 30];
        file.read_exact(&mut header)?;
        if header[..4] != *b"PK\x03\x04" {
            return Err(io::Error::other("is not at the offset in the archive's directory"));
        }
        // The name and the extra field can have other lengths than in the central directory.
        let length = |at: usize| i64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        file.seek_relative(length(26) + length(28))?;
        let packed = BufReader::new(file.take(self.packed));
        let bytes: Box<dyn Read> = match self.method {
            CompressionMethod::Stored => Box::new(packed),
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new(packed)),
            method => {
                return Err(io::Error::other(format!(
                    "is compressed with {method}; pack the archive again with deflate"
                )));
            }
        };
        Ok(Box::new(Checked { bytes: bytes.take(self.size), crc: Crc::new(), expected: self.crc }))
    }
}

/// A reader that verifies the checksum at the end, because a JPEG decoder misses many errors.
struct Checked<R> {
    bytes: R,
    crc: Crc,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.crc.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::other("is truncated or corrupt: its checksum does not match"));
        }
        Ok(count)
    }
}
