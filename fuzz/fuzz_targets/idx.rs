//! Reads an IDX file of images.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("train-images-idx3-ubyte", bytes));
