//! Parquet files as the Hugging Face hub keeps image sets: a column of encoded images, a column of labels, and the
//! names of the classes in the file's metadata. Read in place, a page at a time.

mod footer;
mod pages;

use super::{Format, file_name, labels, tree};
use crate::encoded::Encoded;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::set::{Found, Source};
use pages::{Chunk, Pages, guarded, read_whole};
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
    expected: "Parquet files with a column image of encoded images (a .parquet, or a folder of train-*.parquet and so on)",
    recognise: |path| match path.is_file() {
        true => file_name(path).ends_with(ENDS[0]),
        false => tree::are_shards(path, &ENDS),
    },
    open,
};

const ENDS: [&str; 1] = [".parquet"];

/// What a column of images may be called, in the order of preference.
const IMAGES: [&str; 5] = ["image", "img", "images", "picture", "png"];

/// One label of each row, as text; a row may lack it.
type Labels = Vec<Option<String>>;

fn open(path: &Path, options: &Options) -> Result<Found> {
    let shards = tree::shards(path, &ENDS, options)?;
    let (mut pages, mut names, mut bad) = (Pages::default(), Vec::new(), Vec::new());
    let (mut texts, mut class_names, mut has_labels) = (Labels::new(), Vec::new(), false);
    for shard in &shards {
        match guarded(|| Shard::open(shard)) {
            Ok(found) => {
                let rows = found.images.iter().map(|chunk| chunk.rows).sum();
                names.extend((0..rows).map(|row| shard.join(row.to_string())));
                has_labels |= found.labels.is_some();
                texts.extend(found.labels.unwrap_or_else(|| vec![None; rows]));
                if !found.class_names.is_empty() {
                    class_names = found.class_names;
                }
                found.images.into_iter().for_each(|chunk| pages.add(chunk));
            }
            Err(reason) => bad.push((shard.clone(), reason)),
        }
    }
    // A test part that keeps its labels to itself has -1 everywhere.
    has_labels &= texts.iter().any(|label| label.as_deref() != Some("-1"));
    let mut labels = None;
    if has_labels {
        let texts: Vec<_> = texts.iter().map(Option::as_ref).collect();
        let (indices, found) = labels::classes(path, &texts, |row| names[row].display().to_string())?;
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
    Ok(Found {
        format: "Parquet",
        files: names.len() + bad.len(),
        source: Source::Encoded(Encoded {
            names,
            open: Box::new(move |index| Ok(Box::new(Cursor::new(pages.value(index)?.data().to_vec())))),
        }),
        class_names: if labels.is_some() { class_names } else { Vec::new() },
        labels,
        bad,
        other_files: 0,
    })
}

/// What one file holds.
struct Shard {
    /// The image column in each group of rows.
    images: Vec<Chunk>,
    labels: Option<Labels>,
    class_names: Vec<String>,
}

impl Shard {
    fn open(path: &Path) -> std::result::Result<Shard, String> {
        let mut file = File::open(path).map_err(|e| e.to_string())?;
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        let metadata = footer::read(&mut file, length)?;
        let columns = metadata.file_metadata().schema_descr().columns();
        let image = image_column(columns.iter().map(AsRef::as_ref)).ok_or_else(|| {
            let names: Vec<_> = columns.iter().map(|column| column.path().string()).take(8).collect();
            let names = names.join(", ").escape_debug().to_string();
            format!("has no column image of encoded images (binary, or a struct of bytes and path), only {names}")
        })?;
        let label = labels::COLUMNS.iter().find_map(|name| {
            let kinds = [Type::INT32, Type::INT64, Type::BYTE_ARRAY];
            let is = |c: &&Arc<ColumnDescriptor>| c.path().parts() == [*name] && kinds.contains(&c.physical_type());
            columns.iter().position(|column| is(&column)).map(|at| (*name, at))
        });

        let (mut images, mut texts) = (Vec::new(), Labels::new());
        for group in metadata.row_groups() {
            let rows = usize::try_from(group.num_rows()).map_err(|_| "has a group of less than no rows")?;
            images.push(Chunk::new(path, length, group.column(image), rows)?);
            if let Some((_, label)) = label {
                texts.extend(label_texts(&Chunk::new(path, length, group.column(label), rows)?)?);
            }
        }
        let class_names = label.and_then(|(name, _)| class_names(&metadata, name)).unwrap_or_default();
        Ok(Shard { images, labels: label.map(|_| texts), class_names })
    }
}

/// The column of encoded images: of bytes, by itself or in a struct with their paths.
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
    let names = IMAGES.iter().map(|name| Some(*name)).chain([None]);
    names.into_iter().find_map(|name| columns.clone().position(|column| is(column, name)))
}

fn label_texts(chunk: &Chunk) -> std::result::Result<Labels, String> {
    fn text<T: ToString>(values: Vec<Option<T>>) -> Labels {
        values.into_iter().map(|value| value.map(|value| value.to_string())).collect()
    }
    Ok(match chunk.kind() {
        Type::INT32 => text(read_whole::<Int32Type>(chunk)?),
        Type::INT64 => text(read_whole::<Int64Type>(chunk)?),
        _ => {
            let name = |value: ByteArray| String::from_utf8_lossy(value.data()).into_owned();
            read_whole::<ByteArrayType>(chunk)?.into_iter().map(|value| value.map(name)).collect()
        }
    })
}

/// Names of the classes that the datasets library left in the metadata.
fn class_names(metadata: &ParquetMetaData, column: &str) -> Option<Vec<String>> {
    let values = metadata.file_metadata().key_value_metadata()?;
    let text = values.iter().find(|entry| entry.key == "huggingface")?.value.as_ref()?;
    let value: Value = serde_json::from_str(text).ok()?;
    let names = value.pointer(&format!("/info/features/{column}/names"))?.as_array()?;
    names.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
}
