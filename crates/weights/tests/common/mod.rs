//! Measuring what reading a file takes, and building files by code. Tests that use it count all allocations of their
//! process, so each of their files has only such tests.
#![allow(dead_code, reason = "each test uses a part")]

use ddpm_weights::families::{ImportOptions, import};
use ddpm_weights::read_tensors;
use peak_alloc::PeakAlloc;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

pub const MIB: usize = 1 << 20;

/// Serializes the tests, since the allocator counts for all of them.
static ALONE: Mutex<()> = Mutex::new(());

/// Returns the time for which this thread has computed, where the system tells it: a busy machine does not add to that. Else
/// the time on the clock.
fn computing_time(begin: Instant) -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|number| number.parse().ok());
    nanoseconds.map_or_else(|| begin.elapsed(), Duration::from_nanos)
}

/// Runs `read`, and checks the memory and time it takes: at most `most` bytes, and a second, or ten without optimization.
pub fn measure<T>(what: &str, most: usize, read: impl FnOnce() -> T) -> T {
    let (begin, before) = (Instant::now(), ALLOCATOR.current_usage());
    ALLOCATOR.reset_peak_usage();
    let computed = computing_time(begin);
    let result = read();
    let seconds = (computing_time(begin) - computed).as_secs_f64();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= most, "{what}: {peak} bytes; at most {most} are expected");
    let limit = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    assert!(seconds < limit, "{what}: {seconds} s");
    result
}

/// Reads and imports a file of `size` bytes, and checks that it takes at most four times its size and a mebibyte of memory.
/// Returns the error of reading all tensors.
pub fn read(what: &str, path: &Path, size: usize) -> Option<String> {
    let error = measure(what, 4 * size + MIB, || {
        let error = read_tensors(path).err().map(|error| error.to_string());
        let _ = import(path, &ImportOptions::default());
        error
    });
    if let Some(error) = &error {
        assert!(error.len() < 1500, "{what}: a message of {} bytes", error.len());
        assert!(!error.chars().any(char::is_control), "{what}: {error:?}");
    }
    error
}

pub struct Place {
    _alone: MutexGuard<'static, ()>,
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

/// Waits until no other test measures.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn place() -> Place {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    Place { path: folder.path().join("x.pt"), _folder: folder, _alone: alone }
}

pub fn assert_rejected(place: &Place, what: &str, bytes: &[u8], reason: &str) {
    fs::write(&place.path, bytes).unwrap();
    let error = read(what, &place.path, bytes.len());
    let error = error.unwrap_or_else(|| panic!("{what} should be an error"));
    assert!(error.contains(reason), "{what}: {error}");
}

/// Builds a file of the legacy format around the pickle of the object.
pub fn legacy(object: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [magic, &b"\x80\x02M\xe9\x03."[..], b"\x80\x02}.", object, b"\x80\x02]."].concat()
}

/// Builds a file of the zip format.
pub fn zipped(method: CompressionMethod, entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(format!("x/{name}"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Builds the pickle of a tensor from the pickles of its storage's length, its shape and its stride.
pub fn tensor(len: &[u8], shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let storage =
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu";
    [storage, len, b"tQK\0", shape, stride, b"\x89}tR"].concat()
}

pub fn long(number: u64) -> Vec<u8> {
    [&b"\x8a\x09"[..], &number.to_le_bytes(), b"\0"].concat()
}

/// Encodes a number as LevelDB and protocol buffers do.
pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Builds a LevelDB table whose index lists the blocks, each with the number of times that it is listed.
pub fn table(blocks: &[(&[u8], usize)]) -> Vec<u8> {
    let mut out = Vec::new();
    let add = |out: &mut Vec<u8>, block: &[u8]| {
        let begin = out.len();
        out.extend([block, &[0]].concat());
        let crc = crc32c::crc32c(&out[begin..]).rotate_right(15).wrapping_add(0xa282_ead8);
        out.extend(crc.to_le_bytes());
        [varint(begin as u64), varint(block.len() as u64)].concat()
    };
    let mut index = Vec::new();
    for (block, times) in blocks {
        let handle = add(&mut out, block);
        index.extend([&[0, 1, handle.len() as u8, b'z'][..], &handle].concat().repeat(*times));
    }
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let mut footer = [&[0, 0][..], &add(&mut out, &index)].concat();
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    out.extend(footer);
    out
}
