//! Zip archives of images, such as those of StyleGAN's and EDM's `dataset_tool.py`. They are read like a folder, without
//! unpacking.
//!
//! Opening takes at most 16 bytes of memory for each byte of the archive's directory. Files in the archive may not overlap:
//! thousands of entries could share one compressed image, and take hours to read. Names have at most 4096 bytes.

use super::files::{is_hidden, lower_file_name, normalized, normalized_bytes};
use super::tar::MAX_NAME;
use super::{labels, tree};
use crate::encoded::ImageBytes;
use crate::error::{Error, Result};
use crate::memory::{self, Meter, entry_bytes};
use crate::options::ReadOptions;
use crate::source::{Discovered, Format};
use ::files::{Charge, Unchanged};
use flate2::{Crc, read::DeflateDecoder};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use zip::result::{ZipError, ZipResult};
use zip::{CompressionMethod, ZipArchive};

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
    let (archive, charge) = open_archive(path)?.map_err(|error| match error {
        ZipError::Io(e) => Error::reading(path, e),
        e => Error::malformed(path, format!("is truncated or not a zip archive ({e}); download it again")),
    })?;
    let (mut members, meter) = directory(path, archive)?;
    drop(charge);
    check_overlaps(path, &members)?;
    members.sort_by(|a, b| a.name.split('/').cmp(b.name.split('/')));
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let unchanged = Arc::new(Unchanged::default());
    let read = |index: usize| {
        let file = path.join(&names[index]);
        let member = members[index].open(path, &unchanged).map_err(|e| Error::reading(&file, e))?;
        labels::read_bytes(&file, member.source, member.length)
    };
    let mut part = tree::select(path, &names, options.split, &options.label_from, &read)?;
    part.charge = meter.into_charge();
    part.into_discovered(
        "zip",
        path,
        |index| path.join(&names[index]),
        |images| {
            let members: Vec<Member> = images.iter().map(|&index| members[index].clone()).collect();
            let (path, unchanged) = (path.to_owned(), Arc::clone(&unchanged));
            Box::new(move |index| members[index].open(&path, &unchanged))
        },
    )
}

/// Opens an archive, and charges its directory. Returns the zip crate's error if it is none.
pub(crate) fn open_archive(path: &Path) -> Result<ZipResult<(ZipArchive<BufReader<File>>, Charge)>> {
    let (mut file, length) = ::files::open_regular(path).map_err(|e| Error::io(path, e))?;
    let directory = directory_length(&mut file, length).map_err(|e| Error::io(path, e))?;
    let charge = memory::charge(path, directory.saturating_mul(EXPANSION))?;
    Ok(ZipArchive::new(BufReader::new(file)).map(|archive| (archive, charge)))
}

/// The memory of the zip crate for each byte of the directory, whose entries have 46 bytes and more.
const EXPANSION: u64 = 16;

/// Returns the length of the directory at the end of a file of `length` bytes, which precedes an end record of 22 bytes and a
/// comment. Returns 0 if there is none.
fn directory_length(file: &mut File, length: u64) -> io::Result<u64> {
    const RECORD: usize = 22;
    const LONGEST: u64 = RECORD as u64 + 0xffff;
    let tail = length.saturating_sub(LONGEST);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(tail))?;
    file.by_ref().take(LONGEST).read_to_end(&mut bytes)?;
    file.rewind()?;
    let Some(at) = bytes.windows(RECORD).rposition(|record| record.starts_with(b"PK\x05\x06")) else { return Ok(0) };
    let word = |at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    let (size, start) = (word(at + 12), word(at + 16));
    let before = tail + at as u64;
    // The record of a large archive has only ones, and another one precedes it.
    if size == u64::from(u32::MAX) || start == u64::from(u32::MAX) {
        let record = bytes[..at].windows(56).rposition(|record| record.starts_with(b"PK\x06\x06"));
        let size = record.map(|at| word(at + 40) | word(at + 44) << 32);
        return Ok(size.map_or(before, |size| size.min(before)));
    }
    Ok(size.max(before.saturating_sub(start)).min(before))
}

fn directory(path: &Path, archive: ZipArchive<BufReader<File>>) -> Result<(Vec<Member>, Meter)> {
    let (mut members, mut meter) = (Vec::new(), Meter::default());
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(|e| {
            Error::malformed(path, format!("is truncated or not a zip archive ({e}); download it again"))
        })?;
        let name = match entry.name() {
            Ok(name) => normalized(&name),
            Err(_) => normalized_bytes(entry.name_raw()),
        };
        if name.len() > MAX_NAME {
            return Err(Error::malformed(
                path,
                format!("has a name of {} bytes; expected {MAX_NAME} or fewer", name.len()),
            ));
        }
        if entry.is_file() && !is_hidden(&name) {
            meter.add(2 * entry_bytes(name.len())).map_err(|e| Error::memory(path, e))?;
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
    Ok((members, meter))
}

/// Checks that no two entries share bytes.
fn check_overlaps(path: &Path, members: &[Member]) -> Result<()> {
    let mut places: Vec<(u64, u64)> = members.iter().map(|member| (member.start, member.packed)).collect();
    places.sort_unstable();
    // A header has 30 bytes and more.
    match places.windows(2).all(|pair| pair[0].0.saturating_add(30).saturating_add(pair[0].1) <= pair[1].0) {
        true => Ok(()),
        false => {
            Err(Error::malformed(path, "has entries that share their bytes, as zip bombs do; pack the images again"))
        }
    }
}

impl Member {
    /// Returns a reader of the content, limited to the size in the central directory.
    fn open(&self, path: &Path, unchanged: &Unchanged) -> io::Result<ImageBytes> {
        if self.encrypted {
            return Err(io::Error::other("is encrypted; unpack the archive"));
        }
        let (mut file, _) = unchanged.open(path)?;
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
        // Deflate packs at most 1032 bytes into one.
        let length = self.size.min(self.packed.saturating_mul(1032));
        let source = Checked { bytes: bytes.take(self.size), crc: Crc::new(), expected: self.crc };
        Ok(ImageBytes { source: Box::new(source), length })
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
