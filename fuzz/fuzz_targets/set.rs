//! Shared by the targets of image sets: opening any file returns a set or an error.

use data::{ReadOptions, Split, Summary};

/// Opens a file of this name in an empty folder and reads all its images, once kept in memory and once streamed.
pub fn read(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    // A batch of CIFAR-10 is opened by its folder.
    let path = if name.ends_with(".bin") { file.parent().unwrap() } else { &file };
    let split = if name.ends_with("test_batch.bin") { Split::Test } else { Split::Train };
    for memory_limit_bytes in [1 << 20, 0] {
        let options = ReadOptions { resolution: Some((8, 8)), split, memory_limit_bytes, ..ReadOptions::default() };
        if let Ok(set) = data::open(path, &options) {
            let _ = Summary::new(&set);
        }
    }
}
