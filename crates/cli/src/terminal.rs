//! Progress on standard error (a bar on a terminal, plain lines elsewhere), and numbers as people read them.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ddpm::data::ImageSet;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{Global, output_streams, ranks};

/// Without a bar, the time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of work that is counted in units.
pub struct Progress {
    name: &'static str,
    unit: &'static str,
    quiet: bool,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Instant,
    /// Units that were done before this process began.
    before: usize,
}

impl Progress {
    /// Progress of the work `name`, counted in `unit`, such as "images".
    pub fn new(name: &'static str, unit: &'static str, global: &Global) -> Self {
        let quiet = global.quiet || ranks::rank() > 0;
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:32}] {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(name);
            bar
        });
        let now = Instant::now();
        Self { name, unit, quiet, bar, start: now, last_line: now, before: 0 }
    }

    /// Sets how many units were done before this process began; they do not count for the speed.
    pub fn set_before(&mut self, units: usize) {
        self.before = units;
    }

    /// Shows how many units are done, how fast, and how long the rest takes.
    pub fn update(&mut self, done: usize, total: usize) {
        let (unit, made) = (self.unit, done.saturating_sub(self.before) as f64);
        self.update_with(done, total, |seconds| rate(made / seconds, unit));
    }

    /// Shows how many units are done and how long the rest takes, with `detail` of the seconds since the start.
    pub fn update_with(&mut self, done: usize, total: usize, detail: impl FnOnce(f64) -> String) {
        if self.quiet || self.bar.is_none() && self.last_line.elapsed() < LINE_EVERY {
            return;
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let left = seconds * total.saturating_sub(done) as f64 / done.saturating_sub(self.before).max(1) as f64;
        let (unit, detail, left) = (self.unit, detail(seconds), duration(left));
        let text = format!("{done}/{total} {unit}, {detail}, ETA {left}");
        match &self.bar {
            Some(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(text);
            }
            None => {
                eprintln!("{}: {text}", self.name);
                self.last_line = Instant::now();
            }
        }
    }

    /// Shows a message after the bar, or from time to time as a line.
    pub fn message(&mut self, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => bar.set_message(message()),
            None if !self.quiet && self.last_line.elapsed() >= LINE_EVERY => {
                eprintln!("{}: {}", self.name, message());
                self.last_line = Instant::now();
            }
            None => {}
        }
    }

    /// Prints a line that stays, above the bar if there is one.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            self.print(line.as_ref());
        }
    }

    /// Prints a warning, which `--quiet` does not suppress.
    pub fn warn(&self, line: impl AsRef<str>) {
        self.print(&format!("warning: {}", output_streams::one_line(line.as_ref())));
    }

    fn print(&self, line: &str) {
        self.suspend(|| eprintln!("{line}"));
    }

    /// Prints something else than a line, above the bar if there is one.
    pub fn suspend(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Returns whether there is a bar.
    pub fn is_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Returns the seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints the warnings about a set of images, which `--quiet` does not suppress.
pub fn warn_about(set: &ImageSet) {
    for warning in &set.report().warnings {
        warn(warning);
    }
}

/// Prints a line that is not a result, unless with --quiet.
pub fn say(line: impl AsRef<str>, global: &Global) {
    if !global.quiet {
        eprintln!("{}", output_streams::one_line(line.as_ref()));
    }
}

/// Prints a warning, which `--quiet` does not suppress.
pub fn warn(line: impl AsRef<str>) {
    eprintln!("warning: {}", output_streams::one_line(line.as_ref()));
}

/// Returns a speed with as many digits as tell it apart.
pub fn rate(per_second: f64, unit: &str) -> String {
    let digits = if per_second < 10.0 { 2 } else { usize::from(per_second < 100.0) };
    format!("{per_second:.digits$} {unit}/s")
}

/// Returns seconds as `0.6 s`, `42 s`, `2 min 05 s` or `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Returns a word of a command as a shell reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns bytes as `0.47 GB`.
pub fn gigabytes(bytes: f64) -> String {
    format!("{:.2} GB", bytes / 1e9)
}

/// Returns `1 image` or `2 images`.
pub fn counted(n: usize, unit: &str) -> String {
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

/// Returns 35746307 as `35,746,307`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(35_746_307), "35,746,307");
        assert_eq!(grouped(999), "999");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        let shown = ["runs/a-1", "my runs", "it's", "", "$x"].map(quoted);
        assert_eq!(shown, ["runs/a-1", "'my runs'", r"'it'\''s'", "''", "'$x'"]);
    }

    #[test]
    fn durations_have_two_digits_or_units() {
        let shown = [0.0, 0.6, 9.94, 9.96, 59.4, 59.6, 125.0, 3725.0].map(duration);
        assert_eq!(shown, ["0.0 s", "0.6 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "2 min 05 s", "1 h 02 min"]);
        assert_eq!(
            [1.234, 12.34, 123.4].map(|x| rate(x, "images")),
            ["1.23 images/s", "12.3 images/s", "123 images/s"]
        );
    }
}
