//! Reads a whole file of `torch.save`. Start from crates/weights/tests/files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    if let Ok(torch) = weights::TorchFile::open(file.path()) {
        let _ = torch.read(torch.tensors().keys());
    }
    let _ = weights::families::import(file.path(), &Default::default());
});
