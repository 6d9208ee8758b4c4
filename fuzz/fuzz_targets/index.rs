//! Reads a JSON index of shards, next to one shard, `a.safetensors`. The first two bytes of the input say where to split it
//! into the two.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [low, high, bytes @ ..] = bytes else { return };
    let at = usize::from(u16::from_le_bytes([*low, *high])).min(bytes.len());
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("x.safetensors.index.json");
    std::fs::write(&index, &bytes[..at]).unwrap();
    std::fs::write(folder.path().join("a.safetensors"), &bytes[at..]).unwrap();
    let _ = weights::read_tensors(&index);
});
