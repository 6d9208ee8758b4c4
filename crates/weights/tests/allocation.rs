//! The memory that reading safetensors takes is bounded by the file's size, whatever its header claims. This test is
//! alone in its file because it measures the whole process.
#![cfg(target_os = "linux")]

use ddpm_weights::{Metadata, read_safetensors, write_safetensors};
use std::fs;
use std::path::Path;

/// Returns the greatest size that the address space of this process ever had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn write(path: &Path, header_length: usize, header: &[u8]) {
    let bytes = [&(header_length as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    fs::write(path, bytes).unwrap();
}

#[test]
fn memory_is_bounded_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    // Warms up the allocator.
    write_safetensors(&path, [("w", &[1 << 20][..], &vec![1.0; 1 << 20][..])], &Metadata::new()).unwrap();
    read_safetensors(&path).unwrap();

    let before = peak();
    let header = br#"{"a":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}"#;
    write(&path, header.len(), header);
    assert!(read_safetensors(&path).is_err());
    write(&path, 99_000_000, header);
    assert!(read_safetensors(&path).is_err());
    assert!(peak() - before < 8 << 20, "{} bytes for a header's claims", peak() - before);

    // A valid file (of zeros, sparse on disk) takes its size and a buffer.
    let header = br#"{"a":{"dtype":"F32","shape":[16777216],"data_offsets":[0,67108864]}}"#;
    write(&path, header.len(), header);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 + header.len() as u64 + (64 << 20)).unwrap();
    let before = peak();
    read_safetensors(&path).unwrap();
    assert!(peak() - before < 68 << 20, "{} bytes for a file of 64 MiB", peak() - before);

    // The densest header: two bytes in the file for each dimension, which takes eight in memory.
    let zeros = vec!["0"; 1 << 20].join(",");
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{zeros}],"data_offsets":[0,8]}}}}"#);
    write(&path, header.len(), header.as_bytes());
    drop((header, zeros));
    let before = peak();
    assert!(read_safetensors(&path).is_err());
    assert!(peak() - before < 64 << 20, "{} bytes for a header of 2 MiB", peak() - before);
}
