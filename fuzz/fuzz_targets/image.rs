//! Decodes an encoded image. Its format comes from its content, whatever its name.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("image.png", bytes));
