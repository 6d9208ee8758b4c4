//! Shared by the targets of image sets: opening any file returns a set or an error.

use data::{ReadOptions, Split, Summary};
use std::panic;
use std::path::Path;
use std::sync::Once;

/// Ignores panics of decoders, which panic on some damaged headers. `ddpm_data` catches these panics and returns an error,
/// but the fuzzer's panic hook would stop at them.
fn ignore_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let all = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !files::is_caught() {
                all(panic);
            }
        }));
    });
}

/// Opens a file of this name in an empty folder and reads all its images, once kept in memory and once streamed.
#[allow(dead_code, reason = "the target of labels has several files")]
pub fn read(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    // A batch of CIFAR-10 is opened by its folder.
    let path = if name.ends_with(".bin") { file.parent().unwrap() } else { &file };
    let split = if name.ends_with("test_batch.bin") { Split::Test } else { Split::Train };
    read_path(path, &ReadOptions { split, ..ReadOptions::default() });
}

/// Opens a path and reads all its images, once kept in memory and once streamed.
pub fn read_path(path: &Path, options: &ReadOptions) {
    ignore_caught_panics();
    for memory_limit_bytes in [1 << 20, 0] {
        let options = ReadOptions { resolution: Some((8, 8)), memory_limit_bytes, ..options.clone() };
        if let Ok(set) = data::open(path, &options) {
            let _ = Summary::new(&set);
        }
    }
}
