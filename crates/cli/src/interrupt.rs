//! What a long command says when it is interrupted, and its own command line to repeat.

use std::ffi::OsStr;
use std::process;

/// The exit status of a command that was interrupted.
const INTERRUPTED: i32 = 130;

/// At SIGINT or SIGTERM, prints `kept` and the command, and exits with status 130.
pub fn on_interrupt(kept: &'static str) -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(move || {
        eprintln!("\ninterrupted; {kept}: {}", this_command());
        process::exit(INTERRUPTED);
    })?)
}

/// Returns the command line of this process, quoted for a shell.
pub fn this_command() -> String {
    let words: Vec<String> = std::env::args_os().map(|word| quoted(&word)).collect();
    words.join(" ")
}

/// Returns a word as a POSIX shell reads it back.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        let quote = |word: &str| quoted(OsStr::new(word));
        assert_eq!(quote("runs/a-1.png"), "runs/a-1.png");
        assert_eq!(quote("my photos"), "'my photos'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("$HOME"), "'$HOME'");
    }
}
