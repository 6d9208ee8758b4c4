//! Label files: `dataset.json` of StyleGAN's and EDM's tools, and `metadata.jsonl` and `metadata.csv` of the `datasets`
//! library's `imagefolder`.

use super::files::{lower_file_name, normalized};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;

/// Names of label files, in order of preference.
pub(crate) const LABEL_FILES: [&str; 3] = ["dataset.json", "metadata.jsonl", "metadata.csv"];

/// Names of the label column, in order of preference.
pub(crate) const LABEL_COLUMNS: [&str; 5] = ["label", "labels", "fine_label", "class", "class_id"];

/// Maximum number of classes. It bounds the list of class names, whose length is the highest label plus one.
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// Maximum size of a label file. For a million images it is about 40 MB.
const MAX_BYTES: u64 = 256 << 20;

/// The content of a label file.
pub(crate) enum LabelFile {
    /// The file has the name of a label file but not its columns.
    Unrelated,
    /// The images have no labels.
    Unlabeled,
    /// The label of each image as text, by [normalized](super::files::normalized) name relative to the label file.
    Labeled(HashMap<String, String>),
}

/// Reads the bytes of a label file.
pub(crate) fn read_bytes(path: &Path, source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::malformed(
            path,
            format!("has more than {} MiB, which is too much for a label file", MAX_BYTES >> 20),
        ));
    }
    Ok(bytes)
}

/// Parses a label file. Its extension determines the format.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<LabelFile> {
    match lower_file_name(path).rsplit('.').next() {
        Some("json") => dataset_json(path, bytes),
        Some("jsonl") => metadata_jsonl(path, bytes),
        _ => metadata_csv(path, bytes),
    }
}

fn dataset_json(path: &Path, bytes: &[u8]) -> Result<LabelFile> {
    #[derive(Deserialize)]
    struct Dataset {
        labels: Option<Vec<(String, Value)>>,
    }
    let dataset: Dataset = serde_json::from_slice(bytes).map_err(|e| {
        Error::malformed(path, format!("expected {{\"labels\": [[\"00000/img00000000.png\", 6], ...]}} or null: {e}"))
    })?;
    let Some(rows) = dataset.labels else { return Ok(LabelFile::Unlabeled) };
    let mut labels = HashMap::new();
    for (name, label) in rows {
        let label = label_text(&label).ok_or_else(|| invalid_label(path, &name, &label))?;
        labels.insert(normalized(&name), label);
    }
    Ok(LabelFile::Labeled(labels))
}

fn metadata_jsonl(path: &Path, bytes: &[u8]) -> Result<LabelFile> {
    let (mut labels, mut is_metadata) = (HashMap::new(), false);
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|e| Error::malformed(path, format!("line {}: expected one JSON object: {e}", number + 1)))?;
        let Some(name) = row.get("file_name").and_then(Value::as_str) else { continue };
        is_metadata = true;
        if let Some(label) = LABEL_COLUMNS.iter().find_map(|column| row.get(*column)).filter(|label| !label.is_null()) {
            let label = label_text(label).ok_or_else(|| invalid_label(path, name, label))?;
            labels.insert(normalized(name), label);
        }
    }
    Ok(match (is_metadata, labels.is_empty()) {
        (false, _) => LabelFile::Unrelated,
        (true, true) => LabelFile::Unlabeled,
        (true, false) => LabelFile::Labeled(labels),
    })
}

fn metadata_csv(path: &Path, bytes: &[u8]) -> Result<LabelFile> {
    let malformed = |e: csv::Error| Error::malformed(path, format!("is not a table of comma-separated values: {e}"));
    let mut table = csv::Reader::from_reader(bytes);
    let columns = table.headers().map_err(malformed)?;
    let find = |name: &str| columns.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
    let Some(name) = find("file_name") else { return Ok(LabelFile::Unrelated) };
    let Some(label) = LABEL_COLUMNS.iter().find_map(|column| find(column)) else { return Ok(LabelFile::Unlabeled) };
    let mut labels = HashMap::new();
    for row in table.records() {
        let row = row.map_err(malformed)?;
        if let (Some(name), Some(label)) = (row.get(name), row.get(label).filter(|label| !label.is_empty())) {
            labels.insert(normalized(name), label.to_owned());
        }
    }
    Ok(LabelFile::Labeled(labels))
}

/// Returns a label as text if it is an integer or a string.
pub(crate) fn label_text(label: &Value) -> Option<String> {
    match label {
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::String(name) => Some(name.clone()),
        _ => None,
    }
}

fn invalid_label(path: &Path, name: &str, label: &Value) -> Error {
    let label: String = label.to_string().chars().take(40).collect();
    let message = format!("{:?} has the label {label}, expected an integer or a string", truncated(name));
    Error::malformed(path, message)
}

fn truncated(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Converts labels to class indices, and returns them with the class names. If all labels are integers, they are the
/// indices, and there are no names. Otherwise the indices are the positions in the sorted list of names. `image`
/// returns the name of an image for the error message that it has no label.
pub(crate) fn to_indices(
    path: &Path,
    labels: &[Option<&String>],
    image: impl Fn(usize) -> String,
) -> Result<(Option<Vec<u32>>, Vec<String>)> {
    if let Some(missing) = labels.iter().position(Option::is_none) {
        let count = labels.iter().filter(|label| label.is_none()).count();
        let message = format!("has no label for {count} of {} images, such as {:?}", labels.len(), image(missing));
        return Err(Error::malformed(path, message));
    }
    let names: BTreeSet<&str> = labels.iter().flatten().map(|name| name.as_str()).collect();
    let index: HashMap<&str, u32> = if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.iter().filter_map(|name| Some((*name, name.parse().ok()?))).collect()
    } else {
        names.iter().zip(0..).map(|(name, label)| (*name, label)).collect()
    };
    let labels = labels.iter().flatten().map(|name| {
        index.get(name.as_str()).copied().filter(|&label| (label as usize) < MAX_CLASSES).ok_or_else(|| {
            Error::malformed(
                path,
                format!(
                    "has the label {:?}; labels must not be negative and must be less than {MAX_CLASSES}",
                    truncated(name)
                ),
            )
        })
    });
    let labels = labels.collect::<Result<Vec<u32>>>()?;
    let is_named = names.iter().any(|name| name.parse::<i64>().is_err());
    let names = if is_named { names.into_iter().map(str::to_owned).collect() } else { Vec::new() };
    Ok((Some(labels), names))
}
