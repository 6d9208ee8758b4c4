//! Reads any pickle as the object of a file in torch's legacy format.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;

/// The pickles before the object: the magic number, the version, and facts about the machine.
const BEFORE: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

fuzz_target!(|object: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(BEFORE).unwrap();
    file.write_all(object).unwrap();
    // No storages follow.
    file.write_all(b"\x80\x02].").unwrap();
    if let Ok(torch) = weights::TorchFile::open(file.path()) {
        let _ = torch.pickle().describe(torch.pickle().root);
        let _ = torch.read(torch.tensors().keys());
    }
});
