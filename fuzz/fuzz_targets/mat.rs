//! Reads a MAT-file of images.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.mat", bytes));
