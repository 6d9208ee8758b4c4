//! Reads a `.safetensors` file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let _ = weights::read_safetensors(file.path());
    let _ = weights::families::import(file.path(), &Default::default());
});
