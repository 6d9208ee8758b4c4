//! Reads a zip of images.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.zip", bytes));
