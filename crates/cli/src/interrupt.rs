//! Signals that ask the program to end, what a long command says then, and its own command line to repeat.

use std::io;
use std::process;

use crate::error::{asks_for_json, print_json};
use crate::terminal::quoted;

/// The exit status of a command that was interrupted.
pub const INTERRUPTED: i32 = 130;

/// At a signal to end, prints `kept` and the command, and exits with status 130.
pub fn on_interrupt(kept: &'static str) -> anyhow::Result<()> {
    Ok(on_signals(move || {
        let message = format!("interrupted; {kept}: {}", this_command());
        eprintln!("\n{message}");
        print_json(asks_for_json(), &message);
        process::exit(INTERRUPTED);
    })?)
}

/// Calls a function, on a thread of its own, at each SIGINT, SIGTERM, SIGHUP and SIGUSR1. Those that the program was
/// started to ignore stay ignored: `nohup` ignores SIGHUP, and a shell script ignores SIGINT of commands in the background.
#[cfg(unix)]
pub fn on_signals(mut call: impl FnMut() + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let ignored = ignored_signals();
    let signals = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = signal_hook::iterator::Signals::new(signals.collect::<Vec<_>>())?;
    std::thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(|_| call()))?;
    Ok(())
}

/// Calls a function, on a thread of its own, at each Ctrl-C.
#[cfg(not(unix))]
pub fn on_signals(call: impl FnMut() + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(call).map_err(io::Error::other)
}

/// Makes a write above the limit of `ulimit -f` an error of that file, in place of a signal that ends the program without
/// a word.
pub fn report_file_limit() {
    #[cfg(unix)]
    {
        use std::sync::{Arc, atomic::AtomicBool};
        // A handler that does nothing but return. If it cannot be installed, the signal ends the program as before.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    }
}

/// Returns the set of signals that are ignored, as Linux tells it: bit n − 1 is signal n. Empty on other systems.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// Returns the command line of this process, quoted for a shell.
pub fn this_command() -> String {
    let words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}
