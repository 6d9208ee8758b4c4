//! Zip archives of images, such as StyleGAN's and EDM's `dataset_tool.py` makes: read like a folder, in place.

use super::tree::{self, is_hidden, normal};
use super::{Format, file_name, labels};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::set::Found;
use flate2::{Crc, read::DeflateDecoder};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive, result::ZipError};

pub(crate) const FORMAT: Format = Format {
    expected: "a .zip of images, as of a folder (classes from its dataset.json, or its subfolders)",
    recognise: |path| path.is_file() && file_name(path).ends_with(".zip"),
    open,
};

/// A file inside, as the directory at the archive's end has it.
#[derive(Clone)]
struct Member {
    name: String,
    /// Where its own header begins.
    start: u64,
    packed: u64,
    size: u64,
    crc: u32,
    method: CompressionMethod,
    encrypted: bool,
}

fn open(path: &Path, options: &Options) -> Result<Found> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut members = directory(BufReader::new(file)).map_err(|error| match error {
        ZipError::Io(e) => Error::reading(path, e),
        e => Error::malformed(path, format!("is truncated or not a zip archive ({e}); fetch it again")),
    })?;
    members.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let read = |index: usize| {
        let place = path.join(&names[index]);
        labels::bytes(&place, members[index].open(path).map_err(|e| Error::reading(&place, e))?)
    };
    let part = tree::part(path, &names, options.split, &read)?;
    part.found(
        "zip",
        path,
        |index| path.join(&names[index]),
        Vec::new(),
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
        let name = normal(&entry.name().unwrap_or_else(|_| String::from_utf8_lossy(entry.name_raw())));
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
    /// Its bytes, of which no more come than the directory promises.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        if self.encrypted {
            return Err(io::Error::other("is encrypted; unpack the archive"));
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut header = [0; 30];
        file.read_exact(&mut header)?;
        if header[..4] != *b"PK\x03\x04" {
            return Err(io::Error::other("is not where the archive's directory says"));
        }
        // The name and the extra field here may have other lengths than in the directory.
        let length = |at: usize| i64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        file.seek_relative(length(26) + length(28))?;
        let packed = BufReader::new(file.take(self.packed));
        let bytes: Box<dyn Read> = match self.method {
            CompressionMethod::Stored => Box::new(packed),
            CompressionMethod::Deflated => Box::new(DeflateDecoder::new(packed)),
            method => {
                return Err(io::Error::other(format!("is compressed by {method}; unpack it and use store or deflate")));
            }
        };
        Ok(Box::new(Checked { bytes: bytes.take(self.size), crc: Crc::new(), expected: self.crc }))
    }
}

/// Bytes whose checksum is compared at their end: a JPEG decoder notices less.
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
            return Err(io::Error::other("is truncated or corrupt: its checksum is another"));
        }
        Ok(count)
    }
}
