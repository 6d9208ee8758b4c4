//! Showing text of files in messages.

use std::fmt::{self, Display, Write};

/// The most characters of a text that are shown.
const MAX_CHARS: usize = 200;
/// The most dimensions of a shape that are shown.
const MAX_SIZES: usize = 16;

/// Shortens a text that a file contains, such as the name of a tensor, to 200 characters, and escapes control
/// characters, which terminals would obey.
pub(crate) fn shown(text: impl Display) -> String {
    let mut short = Shortened { text: String::new(), left: MAX_CHARS };
    if write!(short, "{text}").is_err() {
        short.text.push('…');
    }
    short.text
}

/// A text that refuses what exceeds its length.
struct Shortened {
    text: String,
    left: usize,
}

impl Write for Shortened {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            match c {
                '"' | '\'' | '\\' => self.text.push(c),
                _ => self.text.extend(c.escape_debug()),
            }
        }
        Ok(())
    }
}

/// Formats a list of numbers, such as a shape, as `[64, 3, 3, 3]`, shortened.
pub(crate) fn shown_sizes<T: Display>(sizes: &[T]) -> String {
    let first: Vec<String> = sizes.iter().take(MAX_SIZES).map(T::to_string).collect();
    match sizes.len() > MAX_SIZES {
        true => format!("[{}, … {} in all]", first.join(", "), sizes.len()),
        false => format!("[{}]", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_and_escaped() {
        assert_eq!(shown("mid_block.attentions.0.\"é\""), "mid_block.attentions.0.\"é\"");
        assert_eq!(shown("a\u{1b}[2J\n\u{202e}"), "a\\u{1b}[2J\\n\\u{202e}");
        assert_eq!(shown("ab".repeat(100)), "ab".repeat(100));
        assert_eq!(shown("ab".repeat(500_000)), "ab".repeat(100) + "…");
        assert_eq!(shown_sizes(&[64, 3]), "[64, 3]");
        assert_eq!(shown_sizes::<usize>(&[]), "[]");
        assert!(shown_sizes(&[1; 1000]).ends_with("1, 1, … 1000 in all]"));
    }
}
