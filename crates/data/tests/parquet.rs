//! Parquet files as on the Hugging Face hub: written by pyarrow, in several shards, and corrupted.
#![cfg(feature = "parquet")]

use crate::common::*;
use ddpm_data::{Error, ReadOptions, Summary, open};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use tempfile::tempdir;

const STRUCT: &str = "message m { optional group image { optional binary bytes; } optional int64 label; }";

/// A file with one row group of optional images, and labels.
fn file(schema: &str, images: &[Option<Vec<u8>>], labels: &[i64], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(2);
    let properties = Arc::new(properties.set_write_batch_size(1).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = images.iter().flatten().map(|image| ByteArray::from(image.clone())).collect();
    let depth = if schema_is_nested(column.typed::<ByteArrayType>()) { 2 } else { 1 };
    let levels: Vec<i16> = images.iter().map(|image| if image.is_some() { depth } else { 0 }).collect();
    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
    if !labels.is_empty() {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(labels, Some(&vec![1; labels.len()]), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn schema_is_nested(column: &parquet::column::writer::ColumnWriterImpl<ByteArrayType>) -> bool {
    column.get_descriptor().path().parts().len() == 2
}

fn images(values: std::ops::Range<u8>) -> Vec<Option<Vec<u8>>> {
    values.map(|value| Some(dot(value))).collect()
}

#[test]
fn reads_files_of_pyarrow() {
    // Made by parquet_golden.py.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub.parquet");
    let set = opened(&path, &ReadOptions::default());
    assert_eq!((shape(&set), dots(&set)), ([10, 2, 2, 1], (0..10).map(|i| 10 * i + 1).collect()));
    assert_eq!(set.labels(), Some(&[0, 1, 2, 0, 1, 2, 0, 1, 2, 0][..]));
    assert_eq!(set.class_names(), ["cat", "dog", "fox"]);
    // Streamed, in any order.
    let set = open(&path, &streamed(&ReadOptions::default())).unwrap();
    let out = set.read([9, 0, 5]).unwrap();
    assert_eq!((out[0], out[4], out[8]), (91, 1, 51));
}

#[test]
fn reads_shards_and_columns_of_every_kind() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, values) in
        [("train-00000-of-00002", 0..3), ("train-00001-of-00002", 3..5), ("validation-00000-of-00001", 7..9)]
    {
        let labels: Vec<i64> = values.clone().map(|value| i64::from(value) % 2).collect();
        put(&at(&format!("hub/data/{name}.parquet")), &file(STRUCT, &images(values), &labels, Compression::SNAPPY));
    }
    put(&at("hub/README.md"), b"the card");
    let set = opened(&at("hub"), &ReadOptions::default());
    assert_eq!((dots(&set), set.labels()), (vec![0, 1, 2, 3, 4], Some(&[0, 1, 0, 1, 0][..])));
    let set = opened(&at("hub"), &test_split());
    assert_eq!((dots(&set), set.labels()), (vec![7, 8], Some(&[1, 0][..])));
    let set = opened(&at("hub/data/validation-00000-of-00001.parquet"), &ReadOptions::default());
    assert_eq!(dots(&set), [7, 8]);
    assert!(matches!(open(&at("hub/data/train-00000-of-00002.parquet"), &test_split()), Err(Error::NoHeldOut { .. })));

    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
        let schema = "message m { optional binary img; }";
        let path = put(&at("plain.parquet"), &file(schema, &images(0..7), &[], compression));
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((dots(&set), set.labels()), (vec![0, 1, 2, 3, 4, 5, 6], None));
    }
    // A split with withheld labels, rows without bytes, and rows that are not images.
    let path = put(&at("a.parquet"), &file(STRUCT, &images(0..2), &[-1, -1], Compression::SNAPPY));
    assert_eq!(opened(&path, &ReadOptions::default()).labels(), None);
    let rows = [Some(dot(1)), None, Some(b"not an image".to_vec()), Some(dot(4))];
    let set = opened(&put(&path, &file(STRUCT, &rows, &[1, 2, 3, 4], Compression::SNAPPY)), &ReadOptions::default());
    assert_eq!((dots(&set), set.labels(), set.report().bad.len()), (vec![1, 4], Some(&[1, 4][..]), 2));
    assert_eq!(set.report().bad[0].path, path.join("1"));
    assert!(set.report().bad[0].reason.contains("no bytes"), "{:?}", set.report());
}

/// A time is stored as an integer, and is no label.
#[test]
fn columns_that_are_not_labels_are_a_warning() {
    let schema =
        "message m { optional group image { optional binary bytes; } optional int64 label (TIMESTAMP_MILLIS); }";
    let folder = tempdir().unwrap();
    let path = put(&folder.path().join("a.parquet"), &file(schema, &images(0..2), &[1, 2], Compression::SNAPPY));
    let set = opened(&path, &ReadOptions::default());
    assert_eq!((set.len(), set.labels()), (2, None));
    let warnings = set.report().warnings.join("; ");
    assert!(warnings.contains("a.parquet: the column label gives no labels"), "{warnings}");
}

#[test]
fn files_that_name_other_classes_are_refused() {
    let folder = tempdir().unwrap();
    let mut bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub.parquet")).unwrap();
    put(&folder.path().join("train-0.parquet"), &bytes);
    put(&folder.path().join("train-1.parquet"), &bytes);
    assert_eq!(opened(folder.path(), &ReadOptions::default()).class_names(), ["cat", "dog", "fox"]);
    let at = bytes.windows(5).position(|window| window == b"\"fox\"").unwrap();
    bytes[at + 1..at + 4].copy_from_slice(b"elk");
    put(&folder.path().join("train-1.parquet"), &bytes);
    let message = open(folder.path(), &ReadOptions::default()).err().unwrap().to_string();
    assert!(message.contains("train-1.parquet") && message.contains("other classes"), "{message}");
}

#[test]
fn errors_name_what_was_expected() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let refuses = |bytes: &[u8], words: &[&str]| {
        put(&path, bytes);
        let message = refused(&path, &ReadOptions::default());
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refuses(
        &file("message m { optional binary text (STRING); }", &images(0..1), &[], Compression::SNAPPY),
        &["column image", "text"],
    );
    refuses(&file(STRUCT, &images(0..2), &[0, -5], Compression::SNAPPY), &["\"-5\"", "negative"]);
    refuses(b"", &["truncated"]);
    refuses(b"PAR1 and no more PAR1", &["a.parquet"]);
    let whole = file(STRUCT, &images(0..9), &[0; 9], Compression::SNAPPY);
    for cut in 0..whole.len() {
        refuses(&whole[..cut], &["truncated"]);
    }
}

/// A page without a header, found by fuzzing, on which the parquet crate panics.
#[test]
fn panics_of_the_parquet_crate_are_errors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_page_header.parquet");
    assert!(refused(&path, &ReadOptions::default()).contains("corrupt"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn corrupt_files_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_end in any::<bool>(),
        compression in prop::sample::select(vec![Compression::SNAPPY, Compression::UNCOMPRESSED]),
    ) {
        let mut bytes = file(STRUCT, &images(0..5), &[0, 1, 2, 3, 4], compression);
        let start = if in_end { bytes.len() - 600 } else { 0 };
        for (at, value) in damage {
            let at = start + at.index(bytes.len() - start);
            bytes[at] = value;
        }
        let folder = tempdir().unwrap();
        let path = put(&folder.path().join("a.parquet"), &bytes);
        for memory_limit_bytes in [1 << 20, 0] {
            let options = ReadOptions { resolution: Some((2, 2)), memory_limit_bytes, ..ReadOptions::default() };
            match open(&path, &options) {
                Ok(set) => prop_assert!(Summary::new(&set).images <= set.len()),
                Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
    }
}
