//! Classes that a file beside the images tells: `dataset.json` of StyleGAN's and EDM's tools, and the `metadata.jsonl`
//! or `metadata.csv` of the datasets library's `imagefolder`.

use super::MAX_CLASSES;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;

/// Names of these files, in the order in which they are looked for.
pub(crate) const FILES: [&str; 3] = ["dataset.json", "metadata.jsonl", "metadata.csv"];

/// What a column of classes may be called, in the order of preference.
pub(crate) const COLUMNS: [&str; 5] = ["label", "labels", "fine_label", "class", "class_id"];

/// The most that such a file may have; a million images take 40 MB.
const MAX_BYTES: u64 = 256 << 20;

/// What a file of labels says.
pub(crate) enum Told {
    /// It is another file that happens to have this name.
    Nothing,
    /// That the images have no classes.
    NoLabels,
    /// The label of each image, as text, by its [normal](super::tree::normal) name beside the file.
    Labels(HashMap<String, String>),
}

/// Reads the bytes of a file of labels.
pub(crate) fn bytes(path: &Path, source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::malformed(path, format!("has more than {} MiB, too much for labels", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Reads a file of labels, whose name says which kind it is.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Told> {
    match super::file_name(path).rsplit('.').next() {
        Some("json") => dataset_json(path, bytes),
        Some("jsonl") => metadata_jsonl(path, bytes),
        _ => metadata_csv(path, bytes),
    }
}

fn dataset_json(path: &Path, bytes: &[u8]) -> Result<Told> {
    #[derive(Deserialize)]
    struct Dataset {
        labels: Option<Vec<(String, Value)>>,
    }
    let dataset: Dataset = serde_json::from_slice(bytes).map_err(|e| {
        Error::malformed(path, format!("expected {{\"labels\": [[\"00000/img00000000.png\", 6], ...]}} or null: {e}"))
    })?;
    let Some(labels) = dataset.labels else { return Ok(Told::NoLabels) };
    let mut told = HashMap::new();
    for (name, label) in labels {
        let label = text(&label).ok_or_else(|| no_label(path, &name, &label))?;
        told.insert(super::tree::normal(&name), label);
    }
    Ok(Told::Labels(told))
}

fn metadata_jsonl(path: &Path, bytes: &[u8]) -> Result<Told> {
    let (mut told, mut is_ours) = (HashMap::new(), false);
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|e| Error::malformed(path, format!("line {}: expected one JSON object: {e}", number + 1)))?;
        let Some(name) = row.get("file_name").and_then(Value::as_str) else { continue };
        is_ours = true;
        if let Some(label) = COLUMNS.iter().find_map(|column| row.get(*column)).filter(|label| !label.is_null()) {
            let label = text(label).ok_or_else(|| no_label(path, name, label))?;
            told.insert(super::tree::normal(name), label);
        }
    }
    Ok(match (is_ours, told.is_empty()) {
        (false, _) => Told::Nothing,
        (true, true) => Told::NoLabels,
        (true, false) => Told::Labels(told),
    })
}

fn metadata_csv(path: &Path, bytes: &[u8]) -> Result<Told> {
    let malformed = |e: csv::Error| Error::malformed(path, format!("is not a table with commas: {e}"));
    let mut table = csv::Reader::from_reader(bytes);
    let columns = table.headers().map_err(malformed)?;
    let find = |name: &str| columns.iter().position(|column| column.trim_start_matches('\u{feff}') == name);
    let Some(name) = find("file_name") else { return Ok(Told::Nothing) };
    let Some(label) = COLUMNS.iter().find_map(|column| find(column)) else { return Ok(Told::NoLabels) };
    let mut told = HashMap::new();
    for row in table.records() {
        let row = row.map_err(malformed)?;
        if let (Some(name), Some(label)) = (row.get(name), row.get(label).filter(|label| !label.is_empty())) {
            told.insert(super::tree::normal(name), label.to_owned());
        }
    }
    Ok(Told::Labels(told))
}

/// A label as text, if it is a whole number or a name.
pub(crate) fn text(label: &Value) -> Option<String> {
    match label {
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::String(name) => Some(name.clone()),
        _ => None,
    }
}

fn no_label(path: &Path, name: &str, label: &Value) -> Error {
    let label: String = label.to_string().chars().take(40).collect();
    let message = format!("{:?} has the label {label}, expected a whole number or a name", shortened(name));
    Error::malformed(path, message)
}

fn shortened(name: &str) -> String {
    name.chars().take(200).collect()
}

/// Labels by index: the numbers themselves if all are numbers, else the places of the names in their sorted order.
/// `image` names the image of an index, for a message that it has no label.
pub(crate) fn classes(
    path: &Path,
    labels: &[Option<&String>],
    image: impl Fn(usize) -> String,
) -> Result<(Option<Vec<u32>>, Vec<String>)> {
    if let Some(missing) = labels.iter().position(Option::is_none) {
        let count = labels.iter().filter(|label| label.is_none()).count();
        let message = format!("gives no label for {count} of {} images, such as {:?}", labels.len(), image(missing));
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
            Error::malformed(path, format!("has the label {:?}, negative or not below {MAX_CLASSES}", shortened(name)))
        })
    });
    let labels = labels.collect::<Result<Vec<u32>>>()?;
    let is_named = names.iter().any(|name| name.parse::<i64>().is_err());
    let names = if is_named { names.into_iter().map(str::to_owned).collect() } else { Vec::new() };
    Ok((Some(labels), names))
}
