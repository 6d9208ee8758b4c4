//! Errors as the program reports them: one line on standard error, one JSON object on standard output with `--json`.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Display, Write as _};
use std::io::{ErrorKind, Write};
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ddpm::files;

use crate::{output_streams, ranks};

/// A mistake in the command itself: exit status 2.
#[derive(Debug)]
struct Usage(String);

impl Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}

/// Returns an error of the command itself.
pub fn usage(error: impl Display) -> anyhow::Error {
    Usage(error.to_string()).into()
}

/// Reports an error and returns the exit status: 2 for usage, else 1.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let line = output_streams::one_line(&joined(error));
    ranks::wait_for_root();
    output_streams::print_error_of_any_rank(format_args!("{}error: {line}\n", ranks::prefix()));
    if json {
        // Rank 0 would have ended the job by now.
        output_streams::print_in_any_rank(format_args!("{}\n", serde_json::json!({ "error": line })));
    }
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// Whether [`out_of_memory`] prints JSON too.
static JSON: AtomicBool = AtomicBool::new(false);

/// Prepares [`out_of_memory`], which cannot allocate.
pub fn prepare() {
    JSON.store(asks_for_json(), Ordering::SeqCst);
    // The first use of these allocates. There is nothing to be written yet.
    let _ = std::io::stdout().flush();
    let _ = files::memory_limit();
}

/// Ends the program when the system has no memory left, in place of the abort that would follow. It allocates nothing.
pub fn out_of_memory(bytes: usize) {
    static FAILED: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static REPORTS: Cell<bool> = const { Cell::new(false) };
    }
    if FAILED.swap(true, Ordering::SeqCst) {
        // Another thread reports, and ends the program. If it waits for this one, this one ends it.
        if !REPORTS.get() {
            std::thread::sleep(Duration::from_secs(5));
        }
        return;
    }
    REPORTS.set(true);
    let mut line = Line { bytes: [0; 2048], length: 0 };
    // What does not fit is left out.
    let _ = files::with_memory_limit(|limit| {
        files::with_file_being_read(|path| match path {
            Some(path) => write!(line, "{}: reading it takes more memory than ", path.display()),
            None => write!(line, "out of memory: {} MiB more exceed ", bytes.div_ceil(1 << 20)),
        })?;
        match limit {
            Some(limit) => write!(line, "{} ({:.2} GB)", limit.source, limit.bytes as f64 / 1e9)?,
            None => write!(line, "the system's memory")?,
        }
        files::with_file_being_read(|path| match path {
            Some(_) => Ok(()),
            None => write!(line, "; use a smaller batch size or smaller images"),
        })
    });
    let line = &line.bytes[..line.length];
    let write = |out: &mut dyn Write, parts: [&[u8]; 3]| parts.into_iter().try_for_each(|part| out.write_all(part));
    let _ = write(&mut std::io::stderr(), [b"error: ", line, b"\n"]);
    if JSON.load(Ordering::SeqCst) {
        let _ = write(&mut std::io::stdout(), [b"{\"error\":\"", line, b"\"}\n"]);
    }
    std::process::exit(1);
}

/// A line of bounded length, without characters that have a meaning in JSON or for a terminal.
struct Line {
    bytes: [u8; 2048],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let is_safe = !output_streams::controls(character) && !"\"\\".contains(character);
            let safe = if is_safe { character } else { '?' };
            let room = self.bytes.get_mut(self.length..self.length + safe.len_utf8()).ok_or(fmt::Error)?;
            self.length += safe.encode_utf8(room).len();
        }
        Ok(())
    }
}

/// Reports what clap found while it parsed the arguments: a mistake, or text that was asked for by `--help` or `--version`.
pub fn report_parse(error: &clap::Error, json: bool) -> ExitCode {
    match error.source().and_then(in_plain_words) {
        Some((from, to)) => {
            let text = error.to_string().replace(&from, to);
            ranks::wait_for_root();
            output_streams::print_error_of_any_rank(format_args!("{}{}\n", ranks::prefix(), text.trim_end()));
            print_json(json, &first_paragraph(&text));
        }
        None => {
            let printed = match error.use_stderr() {
                true => {
                    ranks::wait_for_root();
                    output_streams::print_error_of_any_rank(format_args!("{}", ranks::prefix()));
                    error.print()
                }
                false if ranks::rank() == 0 => error.print(),
                false => Ok(()),
            };
            if error.use_stderr() {
                print_json(json, &first_paragraph(&error.to_string()));
            } else if let Err(failed) = printed
                && failed.kind() != ErrorKind::BrokenPipe
            {
                eprintln!("error: standard output: {failed}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Returns the text of an error of the standard library about a number, and what to say instead: what was expected.
fn in_plain_words(source: &(dyn Error + 'static)) -> Option<(String, &'static str)> {
    let expected = match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => "the number is too large",
        Some(_) => "expected a whole number of at least 0",
        None if source.is::<ParseFloatError>() => "expected a number",
        None => return None,
    };
    Some((source.to_string(), expected))
}

/// Returns whether the command line asks for JSON. It may not be parsed yet, or the flags may be out of reach.
pub fn asks_for_json() -> bool {
    std::env::args_os().any(|argument| argument == "--json")
}

/// Prints an error as JSON if that was asked for.
pub fn print_json(json: bool, message: &str) {
    if json {
        println!("{}", serde_json::json!({ "error": message }));
    }
}

/// Joins an error and its causes, leaving out those that are already part of the text.
fn joined(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line += &format!(": {cause}");
        }
    }
    line
}

/// Returns clap's message in one line, without the usage that follows it.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace(" For more information, try '--help'.", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_clap_is_one_line() {
        let text = "error: invalid value 'x' for '--fit <FIT>'\n  [possible values: crop, pad]\n\nFor more information, try \
                    '--help'.\n";
        assert_eq!(first_paragraph(text), "invalid value 'x' for '--fit <FIT>' [possible values: crop, pad]");
        let text = "error: unexpected argument '--x' found\n\nUsage: ddpm sample <MODEL>\n\nFor more information, try \
                    '--help'.\n";
        assert_eq!(first_paragraph(text), "unexpected argument '--x' found");
    }

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("disk full").context("x.png: disk full").context("cannot write");
        assert_eq!(joined(&error), "cannot write: x.png: disk full");
    }
}
