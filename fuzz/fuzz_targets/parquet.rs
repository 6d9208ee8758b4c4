//! A Parquet file of images; begin with crates/data/tests/hub.parquet.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.parquet", bytes));
