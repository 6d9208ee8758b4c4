//! Label files: `dataset.json` of StyleGAN's and EDM's tools, and `metadata.jsonl` and `metadata.csv` of the `datasets`
//! library's `imagefolder`.
//!
//! A label file may have 256 MiB, and takes at most 64 times its size in memory. Only the columns of names and labels are
//! kept: rows are read one by one, and a name or label is never copied more often than it is in the file.

use super::files::{lower_file_name, normalized};
use crate::error::{Error, Result};
use crate::memory::{Meter, entry_bytes, read_expected};
use ::files::Charge;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::Read;
use std::path::Path;

/// Names of label files, in order of preference.
pub(crate) const LABEL_FILES: [&str; 3] = ["dataset.json", "metadata.jsonl", "metadata.csv"];

/// Names of the label column, in order of preference.
pub(crate) const LABEL_COLUMNS: [&str; 5] = ["label", "labels", "fine_label", "class", "class_id"];

/// Names of the column with the image's file in tables of other layouts, in order of preference.
const NAME_COLUMNS: [&str; 9] =
    ["file_name", "filename", "file", "path", "image", "image_name", "name", "image_id", "id"];

/// Returns the maximum number of classes of a set with so many images. It bounds the list of class names, whose length is
/// the highest label plus one.
pub(crate) fn max_classes(images: usize) -> usize {
    images.clamp(1 << 16, 1 << 20)
}

/// Maximum size of a label file. For a million images it is about 40 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Maximum length of a label in bytes.
pub(crate) const MAX_LABEL: usize = 1 << 10;

/// Maximum length of a row of names of columns, or of values, in bytes.
const MAX_ROW: usize = 1 << 20;

/// Maximum length of a name or label in JSON, in bytes.
const MAX_VALUE: usize = 64 << 10;

/// Number of columns that error messages show.
const MAX_SHOWN: usize = 20;

/// The content of a label file.
pub(crate) enum LabelFile {
    /// The file has the name of a label file but not its columns, which are listed.
    Unrelated(String),
    /// The images have no labels.
    Unlabeled,
    /// The labels of images.
    Labeled(Labels),
}

/// The label of each image as text, by [normalized](super::files::normalized) name relative to the label file.
pub(crate) struct Labels {
    pub names: HashMap<String, String>,
    meter: Meter,
}

impl Labels {
    fn new() -> Self {
        Self { names: HashMap::new(), meter: Meter::default() }
    }

    fn insert(&mut self, path: &Path, name: &str, label: String) -> Result<()> {
        if label.len() > MAX_LABEL {
            let message =
                format!("{:?} has a label of {} bytes; expected {MAX_LABEL} or fewer", truncated(name), label.len());
            return Err(Error::malformed(path, message));
        }
        let name = normalized(name);
        match self.names.get(&name) {
            Some(before) if *before != label => {
                let (name, before, label) = (truncated(&name), truncated(before), truncated(&label));
                let message =
                    format!("has the labels {before:?} and {label:?} for {name:?}; keep one row for each image");
                Err(Error::malformed(path, message))
            }
            Some(_) => Ok(()),
            None => {
                self.meter.add(entry_bytes(name.len() + label.len())).map_err(|e| Error::memory(path, e))?;
                self.names.insert(name, label);
                Ok(())
            }
        }
    }
}

/// The bytes of a label file.
pub(crate) struct LabelBytes {
    bytes: Vec<u8>,
    _charge: Charge,
}

/// Reads the bytes of a label file, which should be `length`.
pub(crate) fn read_bytes(path: &Path, source: impl Read, length: u64) -> Result<LabelBytes> {
    let mut charge = Charge::default();
    let too_long =
        || Error::malformed(path, format!("has more than {} MiB, which is too much for a label file", MAX_BYTES >> 20));
    if length > MAX_BYTES {
        return Err(too_long());
    }
    let bytes = read_expected(source, length, &mut charge).map_err(|e| Error::reading(path, e))?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(too_long()),
        false => Ok(LabelBytes { bytes, _charge: charge }),
    }
}

/// Parses a label file whose bytes `read` returns. Its extension determines the format. With a `column`, its values are the
/// labels, and the file may have another layout than that of the `datasets` library.
pub(crate) fn read(path: &Path, read: impl FnOnce() -> Result<LabelBytes>, column: Option<&str>) -> Result<LabelFile> {
    let _reading = ::files::Reading::new(path);
    let LabelBytes { bytes, _charge } = read()?;
    match lower_file_name(path).rsplit('.').next() {
        Some("json") => dataset_json(path, &bytes),
        Some("jsonl") => metadata_jsonl(path, &bytes, column),
        _ => metadata_csv(path, &bytes, column),
    }
}

/// Returns the columns that can have the file names, and those that can have the labels.
fn columns<'a>(column: &'a Option<&str>) -> (&'static [&'static str], &'a [&'a str]) {
    match column {
        Some(column) => (&NAME_COLUMNS, std::slice::from_ref(column)),
        None => (&NAME_COLUMNS[..1], &LABEL_COLUMNS),
    }
}

fn missing_column(path: &Path, column: &str, found: &[&str]) -> Error {
    Error::malformed(path, format!("has no column {column:?} of labels; its columns are {}", shown(found)))
}

/// Returns the names of the first columns as text.
fn shown(columns: &[&str]) -> String {
    columns.iter().take(MAX_SHOWN).map(|name| truncated(name).escape_debug().to_string()).collect::<Vec<_>>().join(", ")
}

fn missing_names(path: &Path) -> Error {
    Error::malformed(path, format!("has no column of file names; expected one of {}", NAME_COLUMNS.join(", ")))
}

fn dataset_json(path: &Path, bytes: &[u8]) -> Result<LabelFile> {
    #[derive(Deserialize)]
    struct Dataset<'a> {
        #[serde(borrow)]
        labels: Option<&'a RawValue>,
    }
    let invalid = |e: serde_json::Error| {
        let expected = "expected {\"labels\": [[\"00000/img00000000.png\", 6], ...]} or null";
        // The message can quote a long text.
        Error::malformed(path, format!("{expected}: {}", truncated(&e.to_string())))
    };
    let dataset: Dataset = serde_json::from_slice(bytes).map_err(invalid)?;
    let Some(text) = dataset.labels else { return Ok(LabelFile::Unlabeled) };
    let mut rows = Rows { path, labels: Labels::new(), error: None };
    let read = serde_json::Deserializer::from_str(text.get()).deserialize_seq(&mut rows);
    match rows.error {
        Some(error) => Err(error),
        None => read.map(|()| LabelFile::Labeled(rows.labels)).map_err(invalid),
    }
}

/// Reads rows of a name and a label.
struct Rows<'p> {
    path: &'p Path,
    labels: Labels,
    error: Option<Error>,
}

impl<'de> Visitor<'de> for &mut Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of rows of a name and a label")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> std::result::Result<(), A::Error> {
        while let Some((name, label)) = rows.next_element::<(Cow<'de, str>, &'de RawValue)>()? {
            let inserted = value(self.path, label).and_then(|label| {
                let text = label_text(&label).ok_or_else(|| invalid_label(self.path, &name, &label))?;
                self.labels.insert(self.path, &name, text)
            });
            if let Err(error) = inserted {
                self.error = Some(error);
                return Err(de::Error::custom("an invalid row"));
            }
        }
        Ok(())
    }
}

/// Parses a value of JSON that should be a name or a label.
fn value(path: &Path, raw: &RawValue) -> Result<Value> {
    let length = raw.get().len();
    if length > MAX_VALUE {
        let message = format!("has a name or label of {length} bytes; expected {MAX_VALUE} or fewer");
        return Err(Error::malformed(path, message));
    }
    serde_json::from_str(raw.get()).map_err(|e| Error::malformed(path, e.to_string()))
}

/// Some columns of a JSON object.
pub(crate) struct Row<'a> {
    /// The names of the first columns.
    keys: Vec<String>,
    values: HashMap<Cow<'a, str>, &'a RawValue>,
}

impl<'a> Row<'a> {
    /// Parses the `wanted` columns of an object. The others take no memory.
    pub fn parse(text: &'a [u8], wanted: &[&str]) -> serde_json::Result<Row<'a>> {
        let mut parser = serde_json::Deserializer::from_slice(text);
        let row = parser.deserialize_map(Wanted(wanted))?;
        parser.end()?;
        Ok(row)
    }

    /// Returns the first of `columns` that the row has.
    pub fn first(&self, path: &Path, columns: &[&str]) -> Result<Option<Value>> {
        let raw = columns.iter().find_map(|column| self.values.get(*column));
        raw.map(|raw| value(path, raw)).transpose()
    }
}

struct Wanted<'w>(&'w [&'w str]);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Row<'de>, A::Error> {
        let mut row = Row { keys: Vec::new(), values: HashMap::new() };
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if row.keys.len() < MAX_SHOWN {
                row.keys.push(truncated(&key));
            }
            if self.0.contains(&&*key) {
                row.values.insert(key, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(row)
    }
}

fn metadata_jsonl(path: &Path, bytes: &[u8], column: Option<&str>) -> Result<LabelFile> {
    let (name_columns, label_columns) = columns(&column);
    let wanted = [name_columns, label_columns].concat();
    let (mut labels, mut is_metadata, mut keys) = (Labels::new(), false, String::new());
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row = Row::parse(line, &wanted)
            .map_err(|e| Error::malformed(path, format!("line {}: expected one JSON object: {e}", number + 1)))?;
        let row_keys = || row.keys.iter().map(String::as_str).collect::<Vec<_>>();
        if let Some(column) = column.filter(|column| !row.values.contains_key(*column)) {
            return Err(missing_column(path, column, &row_keys()));
        }
        let name = row.first(path, name_columns)?.as_ref().and_then(label_text);
        let Some(name) = &name else {
            if column.is_some() {
                return Err(missing_names(path));
            }
            keys = shown(&row_keys());
            continue;
        };
        is_metadata = true;
        if let Some(label) = row.first(path, label_columns)?.filter(|label| !label.is_null()) {
            let label = label_text(&label).ok_or_else(|| invalid_label(path, name, &label))?;
            labels.insert(path, name, label)?;
        }
    }
    Ok(match (is_metadata, labels.names.is_empty()) {
        (false, _) => LabelFile::Unrelated(keys),
        (true, true) => LabelFile::Unlabeled,
        (true, false) => LabelFile::Labeled(labels),
    })
}

fn metadata_csv(path: &Path, bytes: &[u8], column: Option<&str>) -> Result<LabelFile> {
    let (name_columns, label_columns) = columns(&column);
    let malformed = |e: csv::Error| Error::malformed(path, format!("is not a table of comma-separated values: {e}"));
    if bytes.split(|&byte| byte == b'\n').any(|row| row.len() > MAX_ROW) {
        return Err(Error::malformed(path, format!("has a row of more than {MAX_ROW} bytes")));
    }
    // Many tables have a space after each comma.
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let header: Vec<&str> =
        table.headers().map_err(malformed)?.iter().map(|c| c.trim_start_matches('\u{feff}')).collect();
    let find = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|column| column == name));
    let (name, label) = match (find(name_columns), find(label_columns), column) {
        (_, None, Some(column)) => return Err(missing_column(path, column, &header)),
        (None, _, Some(_)) => return Err(missing_names(path)),
        (None, ..) => return Ok(LabelFile::Unrelated(shown(&header))),
        (Some(_), None, None) => return Ok(LabelFile::Unlabeled),
        (Some(name), Some(label), _) => (name, label),
    };
    let chosen = [header[name], header[label]];
    if let Some(twice) = chosen.iter().find(|name| header.iter().filter(|column| column == name).count() > 1) {
        return Err(Error::malformed(path, format!("has two columns {:?}", truncated(twice))));
    }
    let mut labels = Labels::new();
    let mut row = csv::StringRecord::new();
    while table.read_record(&mut row).map_err(malformed)? {
        if let (Some(name), Some(label)) = (row.get(name), row.get(label).filter(|label| !label.is_empty())) {
            labels.insert(path, name, without_zero_fraction(label).to_owned())?;
        }
    }
    Ok(LabelFile::Labeled(labels))
}

/// Returns `3` for `3.0`: pandas writes the integers of a column with a gap as floats. Other text is returned as it is.
fn without_zero_fraction(label: &str) -> &str {
    match label.split_once('.') {
        Some((integer, "0")) if integer.parse::<i64>().is_ok() => integer,
        _ => label,
    }
}

/// Returns a label as text if it is an integer or a string.
pub(crate) fn label_text(label: &Value) -> Option<String> {
    match label {
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        // As `without_zero_fraction`.
        Value::Number(number) => {
            let integer = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e9)?;
            Some((integer as i64).to_string())
        }
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
/// indices, and there are no names. Otherwise the indices are the positions in the list of names in natural order. `image`
/// returns the name of an image for the error message that it has no label.
pub(crate) fn to_indices(
    path: &Path,
    labels: &[Option<&str>],
    image: impl Fn(usize) -> String,
) -> Result<(Option<Vec<u32>>, Vec<String>)> {
    if let Some(missing) = labels.iter().position(Option::is_none) {
        let count = labels.iter().filter(|label| label.is_none()).count();
        let message = format!("has no label for {count} of {} images, such as {:?}", labels.len(), image(missing));
        return Err(Error::malformed(path, message));
    }
    let names: BTreeSet<&str> = labels.iter().flatten().copied().collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by(|a, b| natural_order(a, b));
    let index: HashMap<&str, u32> = if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.iter().filter_map(|name| Some((*name, name.parse().ok()?))).collect()
    } else {
        names.iter().zip(0..).map(|(name, label)| (*name, label)).collect()
    };
    let most = max_classes(labels.len());
    let labels = labels.iter().flatten().map(|name| {
        index.get(name).copied().filter(|&label| (label as usize) < most).ok_or_else(|| {
            let (name, images) = (truncated(name), labels.len());
            let message = format!(
                "has the label {name:?}; labels of {images} images must not be negative and must be less than {most}"
            );
            Error::malformed(path, message)
        })
    });
    let labels = labels.collect::<Result<Vec<u32>>>()?;
    let is_named = names.iter().any(|name| name.parse::<i64>().is_err());
    let names = if is_named { names.into_iter().map(str::to_owned).collect() } else { Vec::new() };
    Ok((Some(labels), names))
}

/// The names of images relative to a label file, for looking up their labels.
pub(crate) struct ImageNames<'a> {
    names: Vec<&'a str>,
    /// Whether only the whole name counts.
    exact: bool,
    /// The number of images that have a file name, in any folder.
    files: HashMap<&'a str, usize>,
}

impl<'a> ImageNames<'a> {
    pub fn new(names: impl Iterator<Item = &'a str>, exact: bool) -> Self {
        let names: Vec<&str> = names.collect();
        let mut files = HashMap::new();
        if !exact {
            names.iter().for_each(|name| *files.entry(file_name(name)).or_default() += 1);
        }
        Self { names, exact, files }
    }

    /// Returns the label of an image: by its name, and unless names must be exact, by its file name if no other image has
    /// the same, and by either without the extension.
    pub fn find<'l>(&self, image: usize, labels: &'l HashMap<String, String>) -> Option<&'l str> {
        let name = self.names[image];
        // A backslash is part of a name on Linux, but names in labels are normalized.
        let with_slashes = || if name.contains('\\') { labels.get(&normalized(name)) } else { None };
        let whole = labels.get(name).or_else(with_slashes).map(String::as_str);
        if self.exact || whole.is_some() {
            return whole;
        }
        let file = Some(file_name(name)).filter(|file| self.files[file] == 1);
        let without_extension = |name: &'a str| name.rsplit_once('.').map(|(stem, _)| stem);
        [Some(name), without_extension(name), file, file.and_then(without_extension)]
            .into_iter()
            .find_map(|name| labels.get(name?).map(String::as_str))
    }
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Compares names as people sort them: digits as numbers, so that `9` precedes `10`.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (run_a, run_b) = (first_run(rest_a), first_run(rest_b));
        if run_a.is_empty() || run_b.is_empty() {
            // Equal numbers can be written differently: `1` and `01`.
            return run_a.cmp(run_b).then_with(|| a.cmp(b));
        }
        (rest_a, rest_b) = (&rest_a[run_a.len()..], &rest_b[run_b.len()..]);
        let is_number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(run_a) && is_number(run_b) {
            let (a, b) = (run_a.trim_start_matches('0'), run_b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            run_a.cmp(run_b)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Returns the digits, or the characters other than digits, at the start of a name.
fn first_run(name: &str) -> &str {
    let starts_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    let end = name.find(|c: char| c.is_ascii_digit() != starts_with_digit);
    &name[..end.unwrap_or(name.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_compared_as_numbers() {
        let mut names = ["10", "9", "cat", "1", "01", "cat10", "cat9b", "cat9", "Zebra", "99999999999999999999999", ""];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            ["", "01", "1", "9", "10", "99999999999999999999999", "Zebra", "cat", "cat9", "cat9b", "cat10"]
        );
    }

    proptest::proptest! {
        /// `sort_by` may panic if the order is not total.
        #[test]
        fn the_order_is_total(names in proptest::collection::vec("[0-2a]{0,4}", 3)) {
            let [a, b, c] = [&names[0], &names[1], &names[2]];
            proptest::prop_assert_eq!(natural_order(a, b), natural_order(b, a).reverse());
            proptest::prop_assert_eq!(natural_order(a, b).is_eq(), a == b);
            if natural_order(a, b).is_le() && natural_order(b, c).is_le() {
                proptest::prop_assert!(natural_order(a, c).is_le());
            }
        }
    }
}
