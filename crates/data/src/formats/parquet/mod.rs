//! Parquet files in the layout of image sets on the Hugging Face hub: a column of encoded images, a column of labels, and
//! the class names in the file's metadata. Pages are decoded when one of their rows is read.
//!
//! A file has at most one row for 16 bytes, and 1024 more: its columns can repeat a value without end. Opening it takes at
//! most 64 bytes for each of its bytes, for paths, labels and places of pages. A page is decoded to at most 256 times its
//! size and 64 MiB, and 512 MiB in all; the cache of pages keeps 64 MiB or one page. The metadata has at most 16 MiB.

mod footer;
mod pages;

use super::files::file_not_downloaded;
use super::{labels, shards};
use crate::encoded::{EncodedImages, ImageBytes};
use crate::error::{Error, Result};
use crate::memory::{Meter, entry_bytes};
use crate::options::{LabelFrom, ReadOptions};
use crate::report::BadFile;
use crate::source::{Discovered, Format, Source};
use ::files::{catch_panic, without_shortage};
use pages::{ColumnChunk, PagedColumn, for_each_value};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::data_type::{ByteArrayType, Int32Type, Int64Type};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
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
type Labels = Vec<Option<Arc<str>>>;

/// Maximum length of a label in bytes.
const MAX_LABEL: usize = 1 << 10;

/// Maximum length of the description of the `datasets` library in the metadata.
const MAX_DESCRIPTION: usize = 8 << 20;

/// The rows that any file may have, and the bytes of the file for each row more. The smallest images have more.
const FREE_ROWS: u64 = 1024;
const BYTES_PER_ROW: u64 = 16;

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
    let (mut meter, mut warnings) = (Meter::default(), Vec::new());
    for shard in &shards {
        let _reading = ::files::Reading::new(shard);
        let opened = without_shortage(|| catch_panic(|| Shard::open(shard, column, &mut meter)));
        match opened
            .map_err(|e| Error::io(shard, e))?
            .unwrap_or_else(|panic| Err(format!("is corrupt: its metadata cannot be read ({panic})")))
        {
            Ok(found) => {
                let rows = found.images.iter().map(|chunk| chunk.rows).sum();
                let path_bytes = entry_bytes(shard.as_os_str().len() + 20);
                meter.add(path_bytes * rows as u64).map_err(|e| Error::memory(shard, e))?;
                paths.extend((0..rows).map(|row| shard.join(row.to_string())));
                has_labels |= found.labels.is_some();
                texts.extend(found.labels.unwrap_or_else(|| vec![None; rows]));
                match found.class_names {
                    names if names.is_empty() || names == class_names => {}
                    names if class_names.is_empty() => class_names = names,
                    _ => {
                        let message = "its metadata names other classes than that of the files before".to_owned();
                        return Err(Error::malformed(shard, message));
                    }
                }
                warnings.extend(found.warning.filter(|_| warnings.is_empty()));
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
        let texts: Vec<_> = texts.iter().map(Option::as_deref).collect();
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
        open: Box::new(move |index| {
            let bytes = pages.value(index)?;
            let length = bytes.as_ref().len() as u64;
            Ok(ImageBytes { source: Box::new(Cursor::new(bytes)), length })
        }),
    };
    Ok(Discovered {
        files,
        class_names: if labels.is_some() { class_names } else { Vec::new() },
        labels,
        bad,
        warnings,
        charge: meter.into_charge(),
        ..Discovered::new("Parquet", Source::Encoded(images))
    })
}

/// One file.
struct Shard {
    /// The image column of each row group.
    images: Vec<ColumnChunk>,
    labels: Option<Labels>,
    class_names: Vec<String>,
    /// A column of labels that is not read.
    warning: Option<String>,
}

impl Shard {
    /// Opens a file. With a `column`, its values are the labels.
    fn open(path: &Path, column: Option<&str>, meter: &mut Meter) -> std::result::Result<Shard, String> {
        let (mut file, length) = ::files::open_regular(path).map_err(|e| e.to_string())?;
        let (metadata, _charge) = footer::read(&mut file, length)?;
        let columns = metadata.file_metadata().schema_descr().columns();
        let image = image_column(columns.iter().map(AsRef::as_ref)).ok_or_else(|| {
            let names: Vec<_> = columns.iter().map(|column| column.path().string()).take(8).collect();
            let names = names.join(", ").escape_debug().to_string();
            format!("has no column image of encoded images (binary, or a struct of bytes and path); it has {names}")
        })?;
        let label_columns = column.map_or_else(|| labels::LABEL_COLUMNS.to_vec(), |column| vec![column]);
        let label = label_columns.iter().find_map(|name| {
            let is = |c: &&Arc<ColumnDescriptor>| c.path().parts() == [*name] && has_labels(c);
            columns.iter().position(|column| is(&column)).map(|at| (*name, at))
        });
        let of_other_kind = |name: &&&str| columns.iter().any(|column| column.path().parts()[0] == **name);
        let warning = match (label, column) {
            (None, Some(column)) => return Err(format!("has no column {column:?} of integers or strings")),
            (None, None) => label_columns.iter().find(of_other_kind).map(|name| {
                format!("{}: the column {name} gives no labels: it has neither integers nor strings", path.display())
            }),
            (Some(_), _) => None,
        };
        let (mut images, mut texts) = (Vec::new(), Texts { labels: Labels::new(), known: HashSet::new() });
        let (mut rows_of_file, mut column_bytes) = (0u64, [0u64; 2]);
        for group in metadata.row_groups() {
            let rows =
                u64::try_from(group.num_rows()).map_err(|_| "is corrupt: a row group has a negative number of rows")?;
            rows_of_file = rows_of_file.saturating_add(rows);
            if rows_of_file > FREE_ROWS + length / BYTES_PER_ROW {
                return Err(format!("claims {rows_of_file} rows or more in {length} bytes"));
            }
            let columns = [Some(image), label.map(|(_, label)| label)];
            for (bytes, column) in column_bytes.iter_mut().zip(columns.into_iter().flatten()) {
                *bytes = bytes.saturating_add(u64::try_from(group.column(column).compressed_size()).unwrap_or(0));
            }
            if column_bytes.iter().any(|&bytes| bytes > length) {
                return Err("is corrupt: its row groups share their bytes".to_owned());
            }
            let rows = rows as usize;
            images.push(ColumnChunk::new(path, length, group.column(image), rows, meter)?);
            if let Some((_, label)) = label {
                texts.read(&ColumnChunk::new(path, length, group.column(label), rows, meter)?, meter)?;
            }
        }
        let class_names = label.and_then(|(name, _)| class_names(&metadata, name)).unwrap_or_default();
        Ok(Shard { images, labels: label.map(|_| texts.labels), class_names, warning })
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

/// Returns whether a column has integers or strings, and not numbers of another kind that are stored as integers.
fn has_labels(column: &ColumnDescriptor) -> bool {
    use ConvertedType::{ENUM, INT_8, INT_16, INT_32, INT_64, NONE, UINT_8, UINT_16, UINT_32, UINT_64, UTF8};
    // The types of files today, and those of older ones.
    let logical = column.logical_type_ref();
    let converted = [NONE, UTF8, ENUM, INT_8, INT_16, INT_32, INT_64, UINT_8, UINT_16, UINT_32, UINT_64];
    [Type::INT32, Type::INT64, Type::BYTE_ARRAY].contains(&column.physical_type())
        && matches!(logical, None | Some(LogicalType::String | LogicalType::Enum | LogicalType::Integer(_)))
        && converted.contains(&column.converted_type())
}

/// The labels of a file as text. Equal ones share their memory.
struct Texts {
    labels: Labels,
    known: HashSet<Arc<str>>,
}

impl Texts {
    /// Adds the labels of a column.
    fn read(&mut self, chunk: &ColumnChunk, meter: &mut Meter) -> std::result::Result<(), String> {
        match chunk.kind() {
            Type::INT32 => {
                for_each_value::<Int32Type>(chunk, &mut |value| self.add(value.map(|n| n.to_string()), meter))
            }
            Type::INT64 => {
                for_each_value::<Int64Type>(chunk, &mut |value| self.add(value.map(|n| n.to_string()), meter))
            }
            _ => for_each_value::<ByteArrayType>(chunk, &mut |value| {
                if let Some(value) = value.as_ref().filter(|value| value.len() > MAX_LABEL) {
                    return Err(format!("has a label of {} bytes; expected {MAX_LABEL} or fewer", value.len()));
                }
                self.add(value.as_ref().map(|value| String::from_utf8_lossy(value.data())), meter)
            }),
        }
    }

    fn add(&mut self, label: Option<impl AsRef<str>>, meter: &mut Meter) -> std::result::Result<(), String> {
        let mut add = |bytes| meter.add(bytes).map_err(|e| e.to_string());
        add(2 * size_of::<Option<Arc<str>>>() as u64)?;
        let Some(label) = label else {
            self.labels.push(None);
            return Ok(());
        };
        let label = label.as_ref();
        let known = match self.known.get(label) {
            Some(known) => Arc::clone(known),
            None => {
                add(entry_bytes(label.len()))?;
                let new: Arc<str> = label.into();
                self.known.insert(Arc::clone(&new));
                new
            }
        };
        self.labels.push(Some(known));
        Ok(())
    }
}

/// Returns the class names that the `datasets` library writes to the metadata.
fn class_names(metadata: &ParquetMetaData, column: &str) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Description<'a> {
        #[serde(borrow)]
        info: Info<'a>,
    }
    #[derive(Deserialize)]
    struct Info<'a> {
        #[serde(borrow)]
        features: HashMap<Cow<'a, str>, &'a RawValue>,
    }
    #[derive(Deserialize)]
    struct ClassLabel {
        names: Vec<String>,
    }
    let values = metadata.file_metadata().key_value_metadata()?;
    let text = values.iter().find(|entry| entry.key == "huggingface")?.value.as_ref()?;
    let text = Some(text).filter(|text| text.len() <= MAX_DESCRIPTION)?;
    let description: Description = serde_json::from_str(text).ok()?;
    let feature: ClassLabel = serde_json::from_str(description.info.features.get(column)?.get()).ok()?;
    Some(feature.names)
}
