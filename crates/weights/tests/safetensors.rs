//! Reading and writing safetensors: round trips, every dtype, malicious files.

use ddpm_weights::{Metadata, Tensor, Tensors, read_safetensors, views, write_safetensors};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Creates a folder and a file in it with these bytes.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Builds a file with this header and this many bytes of values.
fn with_header(header: &str, values: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..values).map(|i| i as u8));
    bytes
}

fn error(bytes: &[u8]) -> String {
    let (_folder, path) = file(bytes);
    let message = read_safetensors(&path).expect_err("should be an error").to_string();
    assert!(message.contains("x.safetensors"), "does not name the file: {message}");
    message
}

fn bits(tensors: &Tensors) -> Vec<(&str, &[usize], Vec<u32>)> {
    views(tensors).map(|(name, shape, data)| (name, shape, data.iter().map(|x| x.to_bits()).collect())).collect()
}

fn tensors() -> impl Strategy<Value = Tensors> {
    let tensor = prop::collection::vec(0usize..5, 0..5).prop_flat_map(|shape| {
        let n = shape.iter().product::<usize>();
        // All bit patterns: NaNs of any payload, infinities, subnormals, both zeros.
        prop::collection::vec(any::<u32>().prop_map(f32::from_bits), n)
            .prop_map(move |data| Tensor { shape: shape.clone(), data })
    });
    prop::collection::btree_map("\\PC{0,12}", tensor, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn round_trip(tensors in tensors(), mut metadata in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4)) {
        let (_folder, path) = file(b"");
        write_safetensors(&path, views(&tensors), &metadata).unwrap();
        let (read, about) = read_safetensors(&path).unwrap();
        prop_assert_eq!(bits(&read), bits(&tensors));
        metadata.entry("format".into()).or_insert("pt".into());
        prop_assert_eq!(about, metadata);

        // The reference implementation reads the same.
        let bytes = fs::read(&path).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(reference.len(), tensors.len());
        for (name, tensor) in &tensors {
            let view = reference.tensor(name).unwrap();
            prop_assert_eq!(view.shape(), &tensor.shape[..]);
            let values: Vec<u8> = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
            prop_assert_eq!(view.data(), &values[..]);
        }
    }

    /// Changing any byte must not panic, and truncating the file is always an error.
    #[test]
    fn damaged_files_do_not_panic(at in 0.0..1.0, flip in 1u8.., cut in 0.0..1.0) {
        let tensors = Tensors::from([
            ("a".to_owned(), Tensor { shape: vec![2, 3], data: vec![1.0; 6] }),
            ("b".to_owned(), Tensor { shape: vec![4], data: vec![2.0; 4] }),
        ]);
        let (_folder, path) = file(b"");
        write_safetensors(&path, views(&tensors), &Metadata::new()).unwrap();
        let whole = fs::read(&path).unwrap();

        let mut flipped = whole.clone();
        flipped[(at * whole.len() as f64) as usize] ^= flip;
        fs::write(&path, flipped).unwrap();
        let _ = read_safetensors(&path);

        fs::write(&path, &whole[..(cut * whole.len() as f64) as usize]).unwrap();
        prop_assert!(read_safetensors(&path).is_err());
    }

    #[test]
    fn random_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_folder, path) = file(&bytes);
        prop_assert!(read_safetensors(&path).is_err());
        let mut with_length = ((bytes.len() / 2) as u64).to_le_bytes().to_vec();
        with_length.extend(&bytes);
        fs::write(&path, &with_length).unwrap();
        prop_assert!(read_safetensors(&path).is_err());
    }
}

/// Reads one value of a dtype from its bytes.
fn read_one(dtype: Dtype, bytes: &[u8]) -> f32 {
    let view = TensorView::new(dtype, vec![1], bytes).unwrap();
    let (_folder, path) = file(&safetensors::serialize([("x", view)], None).unwrap());
    let (tensors, _) = read_safetensors(&path).unwrap();
    assert_eq!(tensors["x"].shape, [1]);
    tensors["x"].data[0]
}

#[test]
fn every_dtype_is_converted() {
    let f16 = |bits: u16| read_one(Dtype::F16, &bits.to_le_bytes());
    assert_eq!(f16(0x3c00), 1.0);
    assert_eq!(f16(0xc000), -2.0);
    assert_eq!(f16(0x7bff), 65504.0);
    assert_eq!(f16(0x0001), 2f32.powi(-24)); // the least subnormal
    assert_eq!(f16(0x83ff), -1023.0 * 2f32.powi(-24)); // the largest
    assert_eq!(f16(0x0400), 2f32.powi(-14)); // the least normal
    assert_eq!(f16(0x8000).to_bits(), (-0.0f32).to_bits());
    assert_eq!(f16(0x7c00), f32::INFINITY);
    assert_eq!(f16(0xfc00), f32::NEG_INFINITY);
    assert!(f16(0x7e00).is_nan() && f16(0x7c01).is_nan());

    // bf16 is the upper half of f32.
    for half in [0x3f80u16, 0xc000, 0x0001, 0x807f, 0x7f7f, 0x7f80, 0xff80, 0x8000] {
        assert_eq!(read_one(Dtype::BF16, &half.to_le_bytes()).to_bits(), u32::from(half) << 16, "{half:#x}");
    }
    assert!(read_one(Dtype::BF16, &0x7fc0u16.to_le_bytes()).is_nan());

    for bits in [0u32, 1, 0x8000_0000, 0x3f80_0000, 0x7f80_0000, 0x7fc0_1234, 0xff80_0001, 0x007f_ffff] {
        assert_eq!(read_one(Dtype::F32, &bits.to_le_bytes()).to_bits(), bits, "{bits:#x}");
    }

    assert_eq!(read_one(Dtype::F64, &0.1f64.to_le_bytes()), 0.1f32);
    assert_eq!(read_one(Dtype::F64, &1e300f64.to_le_bytes()), f32::INFINITY);
    assert!(read_one(Dtype::F64, &f64::NAN.to_le_bytes()).is_nan());

    assert_eq!(read_one(Dtype::BOOL, &[0]), 0.0);
    assert_eq!(read_one(Dtype::BOOL, &[1]), 1.0);
    assert_eq!(read_one(Dtype::U8, &[200]), 200.0);
    assert_eq!(read_one(Dtype::I8, &(-100i8).to_le_bytes()), -100.0);
    assert_eq!(read_one(Dtype::U16, &60_000u16.to_le_bytes()), 60_000.0);
    assert_eq!(read_one(Dtype::I16, &(-30_000i16).to_le_bytes()), -30_000.0);
    assert_eq!(read_one(Dtype::U32, &u32::MAX.to_le_bytes()), 4_294_967_296.0);
    assert_eq!(read_one(Dtype::I32, &(-16_777_215i32).to_le_bytes()), -16_777_215.0);
    assert_eq!(read_one(Dtype::I64, &(-999i64).to_le_bytes()), -999.0);
    assert_eq!(read_one(Dtype::U64, &(1u64 << 40).to_le_bytes()), 1_099_511_627_776.0);
}

#[test]
fn unsupported_dtype_is_an_error() {
    let header = r#"{"x":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}"#;
    let message = error(&with_header(header, 2));
    assert!(message.contains("`x`") && message.contains("F8_E4M3 is not supported"), "{message}");
}

/// The tensor is larger than one chunk of the reader.
#[test]
fn long_tensor_is_read() {
    let data: Vec<f32> = (0..700_001).map(|i| i as f32).collect();
    let tensors = Tensors::from([
        ("long".to_owned(), Tensor { shape: vec![700_001], data }),
        ("short".to_owned(), Tensor { shape: vec![], data: vec![7.0] }),
    ]);
    let (_folder, path) = file(b"");
    write_safetensors(&path, views(&tensors), &Metadata::new()).unwrap();
    assert_eq!(read_safetensors(&path).unwrap().0, tensors);
}

#[test]
fn equal_tensors_give_equal_bytes() {
    let (_folder, path) = file(b"");
    let items = [("b", &[1usize][..], &[1.0f32][..]), ("a", &[2], &[2.0, 3.0]), ("c", &[0, 9], &[])];
    let metadata = Metadata::from([("seed".into(), "1".into()), ("author".into(), "me".into())]);
    write_safetensors(&path, items, &metadata).unwrap();
    let first = fs::read(&path).unwrap();
    write_safetensors(&path, items.into_iter().rev(), &metadata).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);

    let header = concat!(
        r#"{"__metadata__":{"author":"me","format":"pt","seed":"1"},"#,
        r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"#,
        r#""b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"#,
        r#""c":{"dtype":"F32","shape":[0,9],"data_offsets":[12,12]}}"#
    );
    let padded = header.len().next_multiple_of(8);
    assert_eq!(first[..8], (padded as u64).to_le_bytes());
    assert_eq!(std::str::from_utf8(&first[8..8 + padded]).unwrap().trim_end(), header);
    assert_eq!(first[8 + padded..], [2.0f32, 3.0, 1.0].map(f32::to_le_bytes).concat());
}

#[test]
fn inconsistent_tensors_are_not_written() {
    let (_folder, path) = file(b"before");
    let write = |items: &[(&str, &[usize], &[f32])]| {
        write_safetensors(&path, items.iter().copied(), &Metadata::new()).unwrap_err().to_string()
    };
    assert!(write(&[("w", &[2, 2], &[1.0; 3])]).contains("tensor `w`: has shape [2, 2] but 3 values"));
    assert!(write(&[("w", &[usize::MAX, 8], &[1.0])]).contains("tensor `w`"));
    assert!(write(&[("w", &[1], &[1.0]), ("w", &[1], &[2.0])]).contains("the name is used twice or reserved"));
    assert!(write(&[("__metadata__", &[1], &[1.0])]).contains("the name is used twice or reserved"));
    assert_eq!(fs::read(&path).unwrap(), b"before");
}

/// Each file violates one rule of the format.
#[test]
fn malformed_files_are_errors() {
    let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let cases = [
        ("the header is no JSON", "{]".to_owned(), 0, "header"),
        ("overlap", format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#), 12, "`b`"),
        ("same bytes", format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#), 8, "`b`"),
        ("hole", format!(r#"{{{a},"b":{{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}}}"#), 20, "`b`"),
        ("too short", format!("{{{a}}}"), 7, "truncated"),
        ("too long", format!("{{{a}}}"), 9, "too long"),
        ("values but no tensor", "{}".to_owned(), 1, "too long"),
        (
            "same name twice",
            format!(r#"{{{a},"a":{{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}}}"#),
            12,
            "appears twice",
        ),
        ("shape", r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#.to_owned(), 8, "`a`"),
        ("backwards", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#.to_owned(), 8, "`a`"),
        ("overflow", r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.into(), 0, "`a`"),
        ("bits", r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#.into(), 0, "`a`"),
        ("huge", r#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#.into(), 8, ""),
        ("half a byte", r#"{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,0]}}"#.into(), 0, "`a`"),
        ("negative", r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#.into(), 8, "`a`"),
        ("dtype", r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#.into(), 8, "`a`"),
        ("metadata", r#"{"__metadata__":{"a":1}}"#.into(), 0, "`__metadata__`"),
        ("deep", format!("{{\"a\":{}", "[".repeat(100_000)), 0, "header"),
    ];
    for (what, header, values, expected) in cases {
        let message = error(&with_header(&header, values));
        assert!(message.contains(expected), "{what}: {message}");
    }

    for header_length in [u64::MAX, 1 << 62, 100_000_001] {
        let mut bytes = header_length.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert!(error(&bytes).contains("its header would have"));
    }
    let mut bytes = 100_000_000u64.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    assert!(error(&bytes).contains("truncated"));
    assert!(error(b"").contains("0 bytes"));
    assert!(error(b"1234567").contains("7 bytes"));
}

/// An empty tensor is valid even if the product of its other dimensions overflows.
#[test]
fn empty_tensor_is_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#;
    let (_folder, path) = file(&with_header(header, 0));
    assert!(read_safetensors(&path).unwrap().0["a"].data.is_empty());
}

#[test]
fn folder_and_missing_file_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let message = read_safetensors(folder.path()).unwrap_err().to_string();
    assert!(message.contains("is not a regular file"), "{message}");
    let message = read_safetensors(folder.path().join("none.safetensors")).unwrap_err().to_string();
    assert!(message.contains("cannot read") && message.contains("none.safetensors"), "{message}");
}

#[test]
fn shards_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, items: &[(&str, f32)]| {
        let tensors = items.iter().map(|&(name, x)| (name.into(), Tensor { shape: vec![1], data: vec![x] })).collect();
        write_safetensors(folder.path().join(name), views(&tensors), &Metadata::new()).unwrap();
    };
    write("m-1.safetensors", &[("a", 1.0), ("b", 2.0)]);
    write("m-2.safetensors", &[("c", 3.0)]);
    let index = folder.path().join("m.safetensors.index.json");
    let read = |weight_map: &str| {
        let text = format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{weight_map}}}"#);
        fs::write(&index, text).unwrap();
        read_safetensors(&index).map(|(tensors, _)| tensors).map_err(|error| error.to_string())
    };

    let tensors = read(r#"{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}"#).unwrap();
    assert_eq!(tensors.values().map(|t| t.data[0]).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);

    let missing = read(r#"{"a":"m-1.safetensors","d":"m-2.safetensors"}"#).unwrap_err();
    assert!(missing.contains("`d`") && missing.contains("m-2.safetensors"), "{missing}");
    let gone = read(r#"{"a":"m-3.safetensors"}"#).unwrap_err();
    assert!(gone.contains("m-3.safetensors"), "{gone}");
    for outside in ["../m-1.safetensors", "/etc/passwd", "sub/m.safetensors", "", ".", ".."] {
        let message = read(&format!(r#"{{"a":"{outside}"}}"#)).unwrap_err();
        assert!(message.contains("same folder"), "{message}");
    }
    write("m-2.safetensors", &[("a", 3.0)]);
    let twice = read(r#"{"a":"m-1.safetensors","c":"m-2.safetensors"}"#).unwrap_err();
    assert!(twice.contains("`a`") && twice.contains("another shard"), "{twice}");
    assert!(read("3").unwrap_err().contains("index of safetensors shards"));
}
