//! Reads a TensorFlow index and its data file. The first two bytes of the input say where to split it into the two. Checksums
//! reject most random input, so start from crates/weights/tests/files/tensorflow.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [low, high, bytes @ ..] = bytes else { return };
    let at = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("x.index");
    std::fs::write(&index, &bytes[..at]).unwrap();
    std::fs::write(folder.path().join("x.data-00000-of-00001"), &bytes[at..]).unwrap();
    let _ = weights::read_tensors(&index);
    let _ = weights::families::import(&index, &Default::default());
});
