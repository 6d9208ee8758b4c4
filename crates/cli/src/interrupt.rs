//! What a long command says when it is interrupted, and its own command line to repeat.

use std::process;

use crate::terminal::quoted;

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
    let words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}
