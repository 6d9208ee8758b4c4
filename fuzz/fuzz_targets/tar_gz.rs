//! Reads a compressed tar of images. Without seeds, the fuzzer rarely produces valid gzip.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.tar.gz", bytes));
