//! Printing that never panics, and that cannot be used to control the terminal.

use std::fmt::{Arguments, Write as _};
use std::io::{ErrorKind, Write, stderr, stdout};

use crate::ranks;

/// Characters of a message that are printed; the text of a file can be of any length.
const MESSAGE: usize = 4_000;

/// Prints to standard output, in rank 0 of an MPI job only. Ends the program if that fails: with status 0 if the reader of
/// a pipe closed it, as `head` does, else with an error. Commands print when their files are written, so nothing is lost.
pub fn print(text: Arguments) {
    if ranks::rank() == 0 {
        print_in_any_rank(text);
    }
}

/// As [`print()`], in any rank.
pub fn print_in_any_rank(text: Arguments) {
    // Made before the lock is taken: where memory runs out, the report needs the lock.
    let text = escaped(&text.to_string());
    let mut out = stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            ranks::exit_all(0);
        }
        print_error(format_args!("error: standard output: {error}\n"));
        ranks::exit_all(1);
    }
}

/// Prints to standard error, in rank 0 of an MPI job only. A failure is ignored: messages must not end a training, and there
/// is nowhere to report it.
pub fn print_error(text: Arguments) {
    if ranks::rank() == 0 {
        print_error_of_any_rank(text);
    }
}

/// Prints to standard error in any rank.
pub fn print_error_of_any_rank(text: Arguments) {
    let text = escaped(&text.to_string());
    let _ = stderr().lock().write_all(text.as_bytes());
}

/// Returns a message as one line of bounded length: line breaks are escaped, and the middle of a long one is left out.
pub fn one_line(message: &str) -> String {
    let line = message.replace('\n', "\\n");
    let count = line.chars().count();
    if count <= MESSAGE {
        return line;
    }
    let (begin, end) = (MESSAGE * 3 / 4, MESSAGE / 4);
    let head: String = line.chars().take(begin).collect();
    let tail: String = line.chars().skip(count - end).collect();
    format!("{head}[… {} characters …]{tail}", count - begin - end)
}

/// Returns whether a character controls the terminal, or changes the direction of the text.
pub fn controls(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters, except line breaks and tabs, and those that change the direction of the text, as JSON does.
/// File names, class names and the names of tensors can contain them.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if controls(character) && !matches!(character, '\n' | '\t') {
            // Writing to a string cannot fail.
            let _ = write!(safe, "\\u{:04x}", character as u32);
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\u{1b}[2J\tb\r\u{9b}\u{202e}\n"), "a\\u001b[2J\tb\\u000d\\u009b\\u202e\n");
        assert_eq!(escaped("…ümlaut"), "…ümlaut");
    }

    #[test]
    fn long_messages_keep_both_ends() {
        let line = one_line(&format!("begin\n{}end", "x".repeat(1_000_000)));
        assert!(line.starts_with("begin\\nxx") && line.ends_with("xend") && line.len() < 5_000, "{}", line.len());
        assert!(line.contains("996010 characters"), "{line}");
        assert_eq!(one_line("short"), "short");
    }
}
