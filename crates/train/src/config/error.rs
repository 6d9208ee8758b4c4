//! What can be wrong with a configuration, in words for the person who wrote it.

use std::{io, path::PathBuf};

use toml::{
    Table,
    de::{DeTable, DeValue},
};

use super::{PRESETS, keys::nearest};

/// A configuration could not be read, changed or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something in a file is wrong.
    #[error("{path}:{line}{error}", path = path.display(), line = line.map_or(" ".to_owned(), |n| format!("{n}: ")))]
    In {
        /// The configuration file.
        path: PathBuf,
        /// The line, from 1, if the error has one.
        line: Option<usize>,
        /// What is wrong.
        error: Box<ConfigError>,
    },
    /// The text is not TOML.
    #[error("{message}")]
    Syntax {
        /// What TOML expects.
        message: String,
        /// Where, in bytes from the text's beginning.
        offset: Option<usize>,
    },
    /// There is no such key.
    #[error("unknown key `{key}`: {hint}")]
    UnknownKey {
        /// Section and name as given.
        key: String,
        /// The nearest key there is, or all there are.
        hint: String,
    },
    /// A key has a value that it cannot have.
    #[error("`{key}`: {message}")]
    Value {
        /// Section and name.
        key: String,
        /// What was given and what is expected.
        message: String,
    },
    /// There is no such preset.
    #[error("unknown preset `{name}`: {hint}")]
    UnknownPreset {
        /// The name as given.
        name: String,
        /// The nearest name, and all there are.
        hint: String,
    },
    /// An assignment has no `=`.
    #[error("`{0}`: expected section.key=value, such as train.steps=2000")]
    Assignment(String),
    /// The configuration has a value that TOML cannot express.
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

    /// The line of `text`, from 1, that the error is about.
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

/// Where `key` (`section` or `section.name`, perhaps with an index after it) stands in a TOML text.
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

/// The error of a key of `table` about whose value serde says `message`, such as
/// `invalid type: string "many", expected usize`, in a user's words.
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
