//! JSON as Python writes it, with `Infinity`, `-Infinity` and `NaN` for numbers.
//!
//! `serde_json` has no such numbers. They are read as strings that begin with a NUL, which no other string of a
//! configuration does, and written back as they were.

use serde::{Deserialize, Deserializer, Serializer};
use serde_json::{Map, Value};

/// The greatest number of values that is read, since each takes up to 200 bytes.
const MAX_VALUES: usize = 1 << 19;
/// The most characters of a text that are shown.
const MAX_CHARS: usize = 200;

const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads an object.
pub(super) fn read(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    // Every value but the first follows one of these. Those in strings are counted too, which does no harm.
    let values = text.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    if values > MAX_VALUES {
        let message = format_args!("it has about {values} values, expected {MAX_VALUES} or fewer");
        return Err(serde::de::Error::custom(message));
    }
    let mut plain = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(**word));
        let length = match word {
            Some(word) => {
                plain += &format!("\"\\u0000{word}\"");
                word.len()
            }
            None => {
                // An escaped character is part of the string, whatever it is.
                let escaped = (in_string && c == '\\').then(|| rest[1..].chars().next().map_or(0, char::len_utf8));
                let length = c.len_utf8() + escaped.unwrap_or(0);
                in_string ^= c == '"';
                plain += &rest[..length];
                length
            }
        };
        rest = &rest[length..];
    }
    serde_json::from_str(&plain)
}

/// Formats a value, indented by two.
pub(super) fn write(value: &Value) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(WORDS.iter().fold(text, |text, word| text.replace(&format!("\"\\u0000{word}\""), word)))
}

/// Makes numbers that JSON does not have the strings of their names.
pub(super) fn plain(value: Value) -> Value {
    match value {
        Value::String(word) => word.trim_start_matches('\0').into(),
        Value::Array(list) => list.into_iter().map(plain).collect(),
        Value::Object(keys) => Value::Object(keys.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        value => value,
    }
}

/// Formats a value in one line, for messages, shortened.
pub(super) fn show(value: &Value) -> String {
    short(&write(value).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Shortens a text of a file to 200 characters, and escapes control characters, which terminals would obey.
pub(super) fn short(text: &str) -> String {
    let mut chars = text.chars();
    let escape = |c: char| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() };
    let short: String = chars.by_ref().take(MAX_CHARS).map(escape).collect();
    if chars.next().is_some() { short + "…" } else { short }
}

/// Serializes a number that may be infinite.
pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        number if number.is_finite() => serializer.serialize_f64(*number),
        number if number.is_nan() => serializer.serialize_str("\0NaN"),
        number if *number > 0.0 => serializer.serialize_str("\0Infinity"),
        _ => serializer.serialize_str("\0-Infinity"),
    }
}

/// Deserializes a number that may be infinite.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(word) if word == "\0-Infinity" => Ok(f64::NEG_INFINITY),
        Value::String(word) if word == "\0Infinity" => Ok(f64::INFINITY),
        Value::String(word) if word == "\0NaN" => Ok(f64::NAN),
        value => value.as_f64().ok_or_else(|| serde::de::Error::custom("expected a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_python_are_read_and_written_back() {
        let text =
            "{\n  \"a\": -Infinity,\n  \"b\": [\n    Infinity,\n    NaN\n  ],\n  \"c\": \"NaN, \\\"Infinity\\\" é\"\n}";
        let keys = read(text).unwrap();
        assert_eq!(keys["c"], "NaN, \"Infinity\" é");
        assert_eq!(write(&Value::Object(keys)).unwrap(), text);
        for broken in ["{\"a\": --Infinity}", "{\"a\": InfinityNaN}", "{\"a\": 1Infinity}", "{\"a\\", "\"", "{\"a"] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn long_texts_are_shortened_and_many_values_refused() {
        assert_eq!(short("a\u{1b}[2J\"b\""), "a\\u{1b}[2J\"b\"");
        assert_eq!(short(&"é".repeat(1000)), "é".repeat(200) + "…");
        let zeros = format!("{{\"a\": [{}0]}}", "0,".repeat(1 << 19));
        assert!(read(&zeros).unwrap_err().to_string().contains("or fewer"));
    }
}
