//! Errors of configurations.

use std::{io, path::PathBuf};

use toml::{
    Table,
    de::{DeTable, DeValue},
};

use super::{PRESETS, keys::nearest};

/// An error of reading, changing or validating a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// An error in a file.
    #[error("{path}:{line}{error}", path = path.display(), line = line.map_or(" ".to_owned(), |n| format!("{n}: ")))]
    In {
        /// The configuration file.
        path: PathBuf,
        /// The line, counted from 1, if it is known.
        line: Option<usize>,
        /// The error.
        error: Box<ConfigError>,
    },
    /// The text is not TOML.
    #[error("{message}")]
    Syntax {
        /// The parser's message.
        message: String,
        /// The position in bytes from the start of the text.
        offset: Option<usize>,
    },
    /// The key does not exist.
    #[error("unknown key `{key}`: {hint}")]
    UnknownKey {
        /// Section and name as given.
        key: String,
        /// The nearest key, or all keys.
        hint: String,
    },
    /// The value of a key is wrong.
    #[error("`{key}`: {message}")]
    Value {
        /// Section and name.
        key: String,
        /// The value that was found and what is expected.
        message: String,
    },
    /// The preset does not exist.
    #[error("unknown preset `{name}`: {hint}")]
    UnknownPreset {
        /// The name as given.
        name: String,
        /// The nearest name, and all names.
        hint: String,
    },
    /// An assignment without `=`.
    #[error("`{0}`: expected section.key=value, such as train.steps=2000")]
    Assignment(String),
    /// A value that cannot be written as TOML.
    #[error("the configuration cannot be written as TOML: {0}")]
    Write(String),
}

impl ConfigError {
    pub(super) fn value(key: &str, message: String) -> Self {
        Self::Value { key: key.to_owned(), message }
    }

    pub(super) fn syntax(error: toml::de::Error) -> Self {
        Self::Syntax { message: error.message().replace('\n', ", "), offset: error.span().map(|s| s.start) }
    }

    pub(super) fn unknown_preset(name: &str) -> Self {
        let names = PRESETS.map(|(name, _)| name);
        let known = names.join(", ");
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean `{near}`? There are {known}"),
            None => format!("there are {known}"),
        };
        Self::UnknownPreset { name: name.to_owned(), hint }
    }

    /// Returns the line of `text`, counted from 1, that the error is about.
    pub(super) fn line_in(&self, text: &str) -> Option<usize> {
        let offset = match self {
            Self::Syntax { offset, .. } => (*offset)?,
            Self::UnknownKey { key, .. } | Self::Value { key, .. } => offset_of(key, text)?,
            Self::UnknownPreset { .. } => offset_of("preset", text)?,
            _ => return None,
        };
        Some(text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1)
    }
}

/// Returns the position of `key` (`section` or `section.name`, perhaps with an index after it) in a TOML text.
fn offset_of(key: &str, text: &str) -> Option<usize> {
    fn find<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<(usize, &'t DeValue<'i>)> {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some((key.span().start, value.get_ref()))
    }
    let document = DeTable::parse(text).ok()?;
    let mut parts = key.split(['.', '[']);
    let (section, values) = find(document.get_ref(), parts.next()?)?;
    match parts.next() {
        None => Some(section),
        Some(name) => Some(find(values.as_table()?, name)?.0),
    }
}

/// Translates serde's message about the value of a key of `table`, such as
/// `invalid type: string "many", expected usize`.
pub(super) fn wrong_value(table: &Table, key: &str, message: &str) -> ConfigError {
    let mut parts = key.split(['.', '[']);
    let mut part = || parts.next();
    let value = part().and_then(|section| table.get(section)?.get(part()?)).and_then(|value| match part() {
        Some(index) => value.get(index.trim_end_matches(']').parse::<usize>().ok()?),
        None => Some(value),
    });
    let (Some(value), Some((_, expected))) = (value, message.split_once(", expected ")) else {
        return ConfigError::value(key, message.to_owned());
    };
    let expected = match expected {
        "usize" | "u64" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "path string" => "a path",
        "string only" => "a word",
        other => other,
    };
    let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let near = value.as_str().and_then(|word| nearest(word, &words));
    let hint = near.map_or(String::new(), |word| format!("; did you mean `{word}`?"));
    ConfigError::value(key, format!("got {value}, expected {expected}{hint}"))
}
