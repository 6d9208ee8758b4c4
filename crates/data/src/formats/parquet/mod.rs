//! Parquet files in the layout of image sets on the Hugging Face hub: a column of encoded images, a column of labels, and
//! the class names in the file's metadata. Pages are decoded when one of their rows is read.

mod footer;
mod pages;

use super::files::file_not_downloaded;
use super::{labels, shards};
use crate::encoded::EncodedImages;
use crate::error::{Error, Result};
use crate::options::{LabelFrom, ReadOptions};
use crate::report::BadFile;
use crate::source::{Discovered, Format, Source};
use pages::{ColumnChunk, PagedColumn, catch_panic, read_column};
use parquet::basic::Type;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

pub(crate) const FORMAT: Format = Format {
    expected: "Parquet files with a column image of encoded images (a .parquet file, or a folder of train-*.parquet etc.)",
    detect: |path| shards::detect(path, &EXTENSIONS),
    open,
};

const EXTENSIONS: [&str; 1] = [".parquet"];

/// Names of the image column, in order of preference.
const IMAGE_COLUMNS: [&str; 5] = ["image", "img", "images", "picture", "png"];

/// The label of each row as text, or `None` for a null.
type Labels = Vec<Option<String>>;

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let shards = shards::find(path, &EXTENSIONS, options)?;
    let column = match &options.label_from {
        LabelFrom::Folder => None,
        LabelFrom::Column(column) => Some(column.as_str()),
        LabelFrom::FileName => {
            let message = "is in Parquet format, whose images have no file names to take labels from".to_owned();
            return Err(Error::Unsupported { path: path.to_owned(), message });
        }
    };
    let (mut pages, mut paths, mut bad) = (PagedColumn::default(), Vec::new(), Vec::new());
    let (mut texts, mut class_names, mut has_labels) = (Labels::new(), Vec::new(), false);
    for shard in &shards {
        match catch_panic(|| Shard::open(shard, column)) {
            Ok(found) => {
                let rows = found.images.iter().map(|chunk| chunk.rows).sum();
                paths.extend((0..rows).map(|row| shard.join(row.to_string())));
                has_labels |= found.labels.is_some();
                texts.extend(found.labels.unwrap_or_else(|| vec![None; rows]));
                if !found.class_names.is_empty() {
                    class_names = found.class_names;
                }
                found.images.into_iter().for_each(|chunk| pages.add(chunk));
            }
            Err(reason) => {
                let reason = file_not_downloaded(shard).map_or(reason.clone(), |cause| format!("{cause} ({reason})"));
                bad.push(BadFile { path: shard.clone(), reason });
            }
        }
    }
    // Test splits with withheld labels have -1 in every row.
    has_labels &= texts.iter().any(|label| label.as_deref() != Some("-1"));
    let mut labels = None;
    if has_labels {
        let texts: Vec<_> = texts.iter().map(Option::as_ref).collect();
        let (indices, found) = labels::to_indices(path, &texts, |row| paths[row].display().to_string())?;
        let highest = indices.iter().flatten().max().copied();
        match highest {
            Some(label) if found.is_empty() && !class_names.is_empty() && label as usize >= class_names.len() => {
                let message = format!("has label {label}, but its metadata names {} classes", class_names.len());
                return Err(Error::malformed(path, message));
            }
            _ if !found.is_empty() => class_names = found,
            _ => {}
        }
        labels = indices;
    }
    let pages = Arc::new(pages);
    let files = paths.len() + bad.len();
    let images = EncodedImages {
        paths,
        open: Box::new(move |index| Ok(Box::new(Cursor::new(pages.value(index)?.data().to_vec())))),
    };
    Ok(Discovered {
        files,
        class_names: if labels.is_some() { class_names } else { Vec::new() },
        labels,
        bad,
        ..Discovered::new("Parquet", Source::Encoded(images))
    })
}

/// One file.
struct Shard {
    /// The image column of each row group.
    images: Vec<ColumnChunk>,
    labels: Option<Labels>,
    class_names: Vec<String>,
}

impl Shard {
    /// Opens a file. With a `column`, its values are the labels.
    fn open(path: &Path, column: Option<&str>) -> std::result::Result<Shard, String> {
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        let metadata = footer::read(&mut file, length)?;
        let columns = metadata.file_metadata().schema_descr().columns();
        let image = image_column(columns.iter().map(AsRef::as_ref)).ok_or_else(|| {
            let names: Vec<_> = columns.iter().map(|column| column.path().string()).take(8).collect();
            let names = names.join(", ").escape_debug().to_string();
            format!("has no column image of encoded images (binary, or a struct of bytes and path); it has {names}")
        })?;
        let label_columns = column.map_or_else(|| labels::LABEL_COLUMNS.to_vec(), |column| vec![column]);
        let label = label_columns.iter().find_map(|name| {
            let kinds = [Type::INT32, Type::INT64, Type::BYTE_ARRAY];
            let is = |c: &&Arc<ColumnDescriptor>| c.path().parts() == [*name] && kinds.contains(&c.physical_type());
            columns.iter().position(|column| is(&column)).map(|at| (*name, at))
        });

        if let (None, Some(column)) = (label, column) {
            return Err(format!("has no column {column:?} of integers or strings"));
        }
        let (mut images, mut texts) = (Vec::new(), Labels::new());
        for group in metadata.row_groups() {
            let rows = usize::try_from(group.num_rows())
                .map_err(|_| "is corrupt: a row group has a negative number of rows")?;
            images.push(ColumnChunk::new(path, length, group.column(image), rows)?);
            if let Some((_, label)) = label {
                texts.extend(label_texts(&ColumnChunk::new(path, length, group.column(label), rows)?)?);
            }
        }
        let class_names = label.and_then(|(name, _)| class_names(&metadata, name)).unwrap_or_default();
        Ok(Shard { images, labels: label.map(|_| texts), class_names })
    }
}

/// Returns the column of encoded images: a binary column, or the field `bytes` of a struct.
fn image_column<'a>(columns: impl Iterator<Item = &'a ColumnDescriptor> + Clone) -> Option<usize> {
    let is = |column: &ColumnDescriptor, name: Option<&str>| {
        let holds = column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0;
        holds
            && match column.path().parts() {
                [only] => name == Some(only),
                [of, bytes] => bytes == "bytes" && name.is_none_or(|name| name == of),
                _ => false,
            }
    };
    let names = IMAGE_COLUMNS.iter().map(|name| Some(*name)).chain([None]);
    names.into_iter().find_map(|name| columns.clone().position(|column| is(column, name)))
}

/// Reads a column of labels as text.
fn label_texts(chunk: &ColumnChunk) -> std::result::Result<Labels, String> {
    fn text<T: ToString>(values: Vec<Option<T>>) -> Labels {
        values.into_iter().map(|value| value.map(|value| value.to_string())).collect()
    }
    Ok(match chunk.kind() {
        Type::INT32 => text(read_column::<Int32Type>(chunk)?),
        Type::INT64 => text(read_column::<Int64Type>(chunk)?),
        _ => {
            let name = |value: ByteArray| String::from_utf8_lossy(value.data()).into_owned();
            read_column::<ByteArrayType>(chunk)?.into_iter().map(|value| value.map(name)).collect()
        }
    })
}

/// Returns the class names that the `datasets` library writes to the metadata.
fn class_names(metadata: &ParquetMetaData, column: &str) -> Option<Vec<String>> {
    let values = metadata.file_metadata().key_value_metadata()?;
    let text = values.iter().find(|entry| entry.key == "huggingface")?.value.as_ref()?;
    let value: Value = serde_json::from_str(text).ok()?;
    let names = value.pointer(&format!("/info/features/{column}/names"))?.as_array()?;
    names.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
}
