//! Reads a label file of two images. The first byte chooses its format, and whether labels come from a column.
#![no_main]

mod set;

use data::{LabelFrom, ReadOptions};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let name = ["dataset.json", "metadata.jsonl", "metadata.csv"][usize::from(choice) % 3];
    let label_from = if choice & 128 == 0 { LabelFrom::Folder } else { LabelFrom::Column("label".to_owned()) };
    let folder = tempfile::tempdir().unwrap();
    for image in ["a.pgm", "b.pgm"] {
        std::fs::write(folder.path().join(image), b"P5 1 1 255\n\x07").unwrap();
    }
    std::fs::write(folder.path().join(name), bytes).unwrap();
    set::read_path(folder.path(), &ReadOptions { label_from, ..ReadOptions::default() });
});
