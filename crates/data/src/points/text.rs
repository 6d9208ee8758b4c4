//! Points as comma-separated values.

use super::{Points, check_dims};
use crate::error::{Error, Result};
use files::Charge;
use std::io::Read;
use std::path::Path;

/// The longest row, in bytes: 65535 dimensions of 25 characters.
const MAX_ROW: usize = 2 << 20;
/// The longest file. Its numbers take at most four times its length, at two characters a number.
const MAX_BYTES: u64 = 1 << 30;
/// The names of a column of labels.
const LABELS: [&str; 3] = ["label", "class", "target"];
/// The most classes: labels are words of a few groups, not numbers.
const MAX_CLASSES: usize = 10_000;

/// Reads rows of numbers, with or without a header. A column named `label`, `class` or `target` has the classes.
pub(super) fn read(path: &Path, charge: &mut Charge) -> Result<Points> {
    let (file, length) = ::files::open_regular(path).map_err(|e| Error::io(path, e))?;
    if length > MAX_BYTES {
        let message = format!("has {length} bytes; expected {MAX_BYTES} or fewer: save the points as .npy");
        return Err(Error::malformed(path, message));
    }
    // The text, and a number of 8 bytes for each two characters.
    charge.grow(length.saturating_mul(5)).map_err(|e| Error::memory(path, e))?;
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if let Some(stand_in) = ::files::stand_in(&bytes) {
        return Err(Error::malformed(path, stand_in));
    }
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Points> {
    if bytes.split(|&byte| byte == b'\n').any(|row| row.len() > MAX_ROW) {
        return Err(Error::malformed(path, format!("has a row of more than {MAX_ROW} bytes")));
    }
    let malformed = |e: csv::Error| Error::malformed(path, format!("is not a table of comma-separated values: {e}"));
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).has_headers(false).from_reader(bytes);
    let mut row = csv::StringRecord::new();
    let (mut points, mut column, mut classes) = (Points::default(), None, Vec::<String>::new());
    let mut labels = Vec::new();
    let mut number = 0usize;
    while table.read_record(&mut row).map_err(malformed)? {
        number += 1;
        if number == 1 && row.iter().any(|cell| cell.parse::<f64>().is_err()) {
            column = row.iter().position(|name| LABELS.contains(&&*name.to_lowercase()));
            points.dims = check_dims(path, (row.len() - usize::from(column.is_some())) as u64)?;
            continue;
        }
        if points.dims == 0 {
            points.dims = check_dims(path, row.len() as u64)?;
        }
        for (i, cell) in row.iter().enumerate() {
            if Some(i) == column {
                labels.push(class_of(path, &mut classes, cell)?);
                continue;
            }
            let value = cell.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(|| {
                let cell: String = cell.escape_debug().take(40).collect();
                Error::malformed(
                    path,
                    format!("row {number}, column {}: expected a finite number, found \"{cell}\"", i + 1),
                )
            })?;
            points.values.push(value);
        }
    }
    if points.values.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            message: "has no points; expected rows of numbers".to_owned(),
        });
    }
    if column.is_some() {
        sort_classes(&mut classes, &mut labels);
        (points.labels, points.class_names) = (Some(labels), classes);
    }
    Ok(points)
}

/// Returns the number of a class, a new one for a new name.
fn class_of(path: &Path, classes: &mut Vec<String>, name: &str) -> Result<u32> {
    if let Some(found) = classes.iter().position(|class| class == name) {
        return Ok(found as u32);
    }
    if classes.len() == MAX_CLASSES || name.is_empty() {
        let message = match name {
            "" => "has a row without a label".to_owned(),
            _ => format!("has more than {MAX_CLASSES} different labels; leave the column out if they are no classes"),
        };
        return Err(Error::malformed(path, message));
    }
    classes.push(name.to_owned());
    Ok(classes.len() as u32 - 1)
}

/// Sorts the classes: by number if all are numbers, else by name.
fn sort_classes(classes: &mut Vec<String>, labels: &mut [u32]) {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    let numbers: Option<Vec<f64>> = classes.iter().map(|class| class.parse().ok()).collect();
    match numbers {
        Some(numbers) => order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b])),
        None => order.sort_by(|&a, &b| classes[a].cmp(&classes[b])),
    }
    let mut new = vec![0; order.len()];
    order.iter().enumerate().for_each(|(position, &old)| new[old] = position as u32);
    labels.iter_mut().for_each(|label| *label = new[*label as usize]);
    *classes = order.into_iter().map(|old| std::mem::take(&mut classes[old])).collect();
}

/// Returns points as comma-separated values with a header `x0,x1,…`, and a column `label` if there are labels.
pub fn write(dims: usize, values: &[f64], labels: Option<&[u32]>) -> String {
    let mut header: Vec<String> = (0..dims).map(|i| format!("x{i}")).collect();
    header.extend(labels.map(|_| "label".to_owned()));
    let mut text = header.join(",") + "\n";
    for (i, point) in values.chunks_exact(dims).enumerate() {
        let mut row: Vec<String> = point.iter().map(f64::to_string).collect();
        row.extend(labels.map(|labels| labels[i].to_string()));
        text += &(row.join(",") + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Points, String> {
        parse(Path::new("points.csv"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_with_and_without_a_header_are_read() {
        let bare = parsed("1, 2.5\n-3e-2,4\n").unwrap();
        assert_eq!((bare.dims, bare.values, bare.labels), (2, vec![1.0, 2.5, -0.03, 4.0], None));
        let named = parsed("\u{feff}x,label,y\n1,b,2\n3,a,4\n5,b,6\n").unwrap();
        assert_eq!((named.dims, named.values), (2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!((named.labels.unwrap(), named.class_names), (vec![1, 0, 1], vec!["a".to_owned(), "b".to_owned()]));
        let numbers = parsed("label,x\n10,1\n9,2\n").unwrap();
        assert_eq!((numbers.labels.unwrap(), numbers.class_names), (vec![1, 0], vec!["9".to_owned(), "10".to_owned()]));
    }

    #[test]
    fn other_tables_are_errors_that_name_the_place() {
        for (text, expected) in [
            ("", "has no points"),
            ("x,y\n", "has no points"),
            ("1,2\n3\n", "comma-separated"),
            ("1,2\n3,nan\n", "row 2, column 2: expected a finite number, found \"nan\""),
            ("1,2\n3,four\n", "row 2, column 2"),
            ("label\na\n", "0 dimensions"),
            ("x,label\n1,\n", "without a label"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = write(2, &[1.0, -2.5, 1e-7, 4.0], Some(&[1, 0]));
        let read = parsed(&text).unwrap();
        assert_eq!((read.dims, read.values, read.labels), (2, vec![1.0, -2.5, 1e-7, 4.0], Some(vec![1, 0])));
    }
}
