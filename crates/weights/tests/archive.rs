//! Recognizing the format of weights files, and reading TensorFlow checkpoints, which `tools/goldens_tensorflow.py`
//! wrote with its own writer. (A checkpoint of a PyPI package, written by TensorFlow 2, was read once by hand: the
//! checksums of all 73 variables matched.)

use ddpm_weights::{Archive, Format, read_safetensors, read_tensors};
use std::fs;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

#[test]
fn format_is_recognized_by_contents() {
    let folder = tempfile::tempdir().unwrap();
    let floats = read_tensors(file("protocol4.pt")).unwrap();
    for (name, format) in [
        ("protocol4.pt", Format::Torch),
        ("legacy.pt", Format::Torch),
        ("legacy_protocol1.pt", Format::Torch),
        ("expected.safetensors", Format::Safetensors),
        ("tensorflow/model.ckpt-790000.index", Format::TensorFlow),
        ("tensorflow/old.ckpt", Format::TensorFlow),
    ] {
        let path = folder.path().join("weights.txt");
        fs::copy(file(name), &path).unwrap();
        assert_eq!(Format::of(&path).unwrap(), format, "{name}");
    }
    let path = folder.path().join("x");
    for (bytes, reason) in [
        (&b"\x89HDF\r\n"[..], "an HDF5 file"),
        (b"", "not a supported weights file"),
        (b"GIF89a", "not a supported weights file"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = read_tensors(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    // An index of torch shards, as transformers and diffusers write it.
    fs::copy(file("protocol4.pt"), folder.path().join("model-00001-of-00001.bin")).unwrap();
    let index = r#"{"metadata": {"total_size": 40}, "weight_map": {"a": "model-00001-of-00001.bin", "b": "model-00001-of-00001.bin"}}"#;
    let path = folder.path().join("model.bin.index.json");
    fs::write(&path, index).unwrap();
    assert_eq!(read_tensors(&path).unwrap(), floats);
}

#[test]
fn tensorflow_checkpoints_are_read() {
    let expected = read_safetensors(file("tensorflow/expected.safetensors")).unwrap().0;
    for name in ["", ".index", ".data-00001-of-00002", ".meta"] {
        let path = file(&format!("tensorflow/model.ckpt-790000{name}"));
        assert_eq!(read_tensors(path).unwrap(), expected, "{name}");
    }
    assert_eq!(read_tensors(file("tensorflow/old.ckpt")).unwrap(), expected);
    assert_eq!(read_tensors(file("tensorflow")).unwrap(), expected, "a folder with one checkpoint");
}

#[test]
fn damaged_tensorflow_checkpoints_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let shards = ["data-00000-of-00002", "data-00001-of-00002"];
    let index = folder.path().join("m.index");
    let (table, data) = (
        fs::read(file("tensorflow/model.ckpt-790000.index")).unwrap(),
        shards.map(|shard| fs::read(file(&format!("tensorflow/model.ckpt-790000.{shard}"))).unwrap()),
    );
    let place = |table: &[u8], data: [&[u8]; 2]| {
        fs::write(&index, table).unwrap();
        for (shard, bytes) in shards.iter().zip(data) {
            fs::write(index.with_extension(shard), bytes).unwrap();
        }
        read_tensors(&index).map_err(|error| error.to_string())
    };
    place(&table, [&data[0], &data[1]]).unwrap();
    // Flips a bit in every byte of the index but its footer.
    for i in 0..table.len() - 48 {
        let mut flipped = table.clone();
        flipped[i] ^= 1;
        fs::write(&index, &flipped).unwrap();
        let opened = Archive::open(&index);
        // Only the metaindex, which is not read, may differ.
        if opened.is_ok() {
            assert!((table.len() - 48 - i) < 200, "a flip of byte {i} is not detected");
        }
    }
    let mut flipped = data[1].clone();
    flipped[5] ^= 1;
    let error = place(&table, [&data[0], &flipped]).unwrap_err();
    assert!(error.contains("m.data-00001-of-00002: tensor `") && error.contains("checksum differs"), "{error}");
    let error = place(&table, [&data[0], &data[1][..10]]).unwrap_err();
    assert!(error.contains("truncated"), "{error}");
}
