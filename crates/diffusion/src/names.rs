//! Enums that are words in files and on command lines: one table of names each.

use crate::Error;

/// The name of a value. The tables list every value; a test holds them to it.
pub(crate) fn name_of<T: PartialEq>(value: &T, table: &[(&'static str, T)]) -> &'static str {
    table.iter().find(|(_, known)| known == value).map_or("?", |&(name, _)| name)
}

/// The value with this name, or an error that lists the names there are.
pub(crate) fn named<T: Copy>(what: &'static str, name: &str, table: &[(&'static str, T)]) -> Result<T, Error> {
    table.iter().find(|(known, _)| *known == name).map(|&(_, value)| value).ok_or_else(|| Error::Name {
        what,
        name: name.to_owned(),
        expected: table.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
    })
}
