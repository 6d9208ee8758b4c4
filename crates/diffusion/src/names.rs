//! Names of enum values in files and on the command line.

use crate::Error;

/// Returns the name of a value. A table lists every value of its type, which a test checks.
pub(crate) fn name_of<T: PartialEq>(value: &T, table: &[(&'static str, T)]) -> &'static str {
    table.iter().find(|(_, known)| known == value).map_or("?", |&(name, _)| name)
}

/// Returns the value of a name or an alias, or an error that lists the names.
pub(crate) fn named<T: Copy>(
    what: &'static str,
    name: &str,
    [table, aliases]: [&[(&'static str, T)]; 2],
) -> Result<T, Error> {
    table.iter().chain(aliases).find(|(known, _)| *known == name).map(|&(_, value)| value).ok_or_else(|| Error::Name {
        what,
        name: name.to_owned(),
        expected: table.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
    })
}
