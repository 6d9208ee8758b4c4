//! Printing that never panics.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::process::exit;

/// Prints to standard output. Ends the program if that fails: with status 0 if the reader of a pipe closed it, as `head`
/// does, else with an error. Commands print when their files are written, so nothing is lost.
pub fn print(text: Arguments) {
    let mut out = stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            exit(0);
        }
        print_error(format_args!("error: standard output: {error}\n"));
        exit(1);
    }
}

/// Prints to standard error. A failure is ignored: messages must not end a training, and there is nowhere to report it.
pub fn print_error(text: Arguments) {
    let _ = stderr().lock().write_fmt(text);
}
