//! A tar of images, or one of webdataset's shards.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.tar", bytes));
