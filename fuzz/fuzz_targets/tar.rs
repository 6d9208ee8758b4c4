//! Reads a tar of images or a webdataset shard.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.tar", bytes));
