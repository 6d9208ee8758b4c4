//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A piece of work with a known end.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Instant,
    name: &'static str,
}

impl Progress {
    /// `total` units of work, of which `done` are done.
    pub fn new(name: &'static str, total: u64, done: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total).with_position(done);
            let style = ProgressStyle::with_template("{prefix} [{bar:32}] {pos}/{len} {msg} ETA {eta}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(name);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, quiet, last_line: Instant::now(), name }
    }

    /// Says how much work there is, where that was not known before.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Moves the bar; `message` follows it.
    pub fn set(&self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        }
    }

    /// Changes what follows the bar.
    pub fn set_message(&self, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message());
        }
    }

    /// A line where there is no bar, at most every `every`.
    pub fn line_every(&mut self, every: Duration, line: impl FnOnce() -> String) {
        if self.bar.is_none() && !self.quiet && self.last_line.elapsed() >= every {
            eprintln!("{}: {}", self.name, line());
            self.last_line = Instant::now();
        }
    }

    /// A line that stays, above the bar if there is one.
    pub fn say(&self, line: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}", line.as_ref())),
            None if self.quiet => {}
            None => eprintln!("{}", line.as_ref()),
        }
    }

    /// A warning, which is never quiet.
    pub fn warn(&self, line: impl AsRef<str>) {
        let line = format!("warning: {}", line.as_ref());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Whether there is a bar.
    pub fn is_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// 3725 s as `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}
