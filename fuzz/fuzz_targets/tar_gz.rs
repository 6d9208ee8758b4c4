//! A compressed tar of images; the fuzzer seldom gets past gzip by itself.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("images.tar.gz", bytes));
