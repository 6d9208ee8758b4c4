//! Randomly corrupted files must result in an error or an image, never in a panic.

use crate::common::*;
use ddpm_data::{ReadOptions, Summary, open};
use proptest::prelude::*;
use tempfile::tempdir;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (name, mut bytes) in valid_files() {
            for (at, value, in_head) in &damage {
                // Half of the damage is in the first bytes, which contain the headers.
                let end = if *in_head { bytes.len().min(128) } else { bytes.len() };
                bytes[at.index(end)] = *value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let folder = tempdir().unwrap();
            let file = put(&folder.path().join(name), &bytes);
            let path = if name.starts_with("folder") { file.parent().unwrap() } else { &file };
            for memory_limit_bytes in [1 << 20, 0] {
                let options = ReadOptions { resolution: Some((8, 8)), memory_limit_bytes, ..ReadOptions::default() };
                match open(path, &options) {
                    Ok(set) => prop_assert!(Summary::new(&set).images <= set.len()),
                    Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
                }
            }
        }
    }
}

#[test]
fn valid_files_are_read() {
    for (name, bytes) in valid_files() {
        let folder = tempdir().unwrap();
        let file = put(&folder.path().join(name), &bytes);
        let path = if name.starts_with("folder") { file.parent().unwrap() } else { &file };
        let set = opened(path, &ReadOptions { resolution: Some((8, 8)), ..ReadOptions::default() });
        assert!(set.report().bad.is_empty(), "{:?}", set.report());
    }
}
