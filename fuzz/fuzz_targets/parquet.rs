//! Reads a Parquet file of images. Start from crates/data/tests/hub.parquet.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.parquet", bytes));
