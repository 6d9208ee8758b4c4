//! `--preview`: pictures in terminals that show them.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;

use crate::Global;
use crate::error::usage;
use crate::terminal::warn;

/// Bytes of a larger picture are not sent to a terminal, which may be far away.
const LARGEST: u64 = 16 << 20;

/// Characters of one part of a picture in kitty's protocol.
const PART: usize = 4096;

/// The flag of the commands that write a picture.
#[derive(Args)]
pub struct PreviewArgs {
    /// Show the picture in the terminal too, if it is kitty, Ghostty, Konsole, WezTerm, iTerm2 or another one with kitty's or
    /// iTerm2's protocol
    #[arg(long)]
    preview: bool,
}

/// The pictures of a command, which are shown if the terminal can.
#[derive(Clone, Copy)]
pub struct Preview(Option<Protocol>);

/// How a terminal takes a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    /// <https://sw.kovidgoyal.net/kitty/graphics-protocol/>
    Kitty,
    /// <https://iterm2.com/documentation-images.html>
    Iterm2,
}

impl PreviewArgs {
    /// Finds out what the terminal can show. A warning says if it shows nothing.
    pub fn preview(&self, global: &Global) -> Preview {
        if !self.preview || global.quiet {
            return Preview(None);
        }
        let protocol = Protocol::of(|name| std::env::var(name).ok()).filter(|_| stderr().is_terminal());
        if protocol.is_none() {
            warn(
                "--preview: this terminal takes no pictures; kitty, Ghostty, Konsole, WezTerm and iTerm2 do, if neither tmux nor \
                 screen is between",
            );
        }
        Preview(protocol)
    }

    /// As [`PreviewArgs::preview`]; an error if the output is not a picture that terminals take.
    pub fn preview_of(&self, output: &Path, global: &Global) -> anyhow::Result<Preview> {
        if self.preview && !output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            return Err(usage("--preview shows a PNG; give -o a name that ends in .png"));
        }
        Ok(self.preview(global))
    }
}

impl Preview {
    /// Shows a PNG file on standard error. Does nothing if that is not possible: the file is what counts.
    pub fn show(self, path: &Path) {
        let Some(protocol) = self.0.filter(|_| crate::ranks::rank() == 0) else { return };
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGEST) {
            return;
        }
        let Ok(png) = std::fs::read(path) else { return };
        let Some((width, _)) = size_of_png(&png) else { return };
        let _ = stderr().lock().write_all(protocol.sequence(&png, columns(width)).as_bytes());
    }
}

impl Protocol {
    /// Returns the protocol of the terminal that these environment variables tell of.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let value = |name| variable(name).unwrap_or_default();
        let (term, program) = (value("TERM"), value("TERM_PROGRAM"));
        if variable("TMUX").is_some() || term.starts_with("screen") || term.starts_with("tmux") {
            return None;
        }
        // Over SSH, TERM and LC_TERMINAL are passed on, the others are not.
        if matches!(&*program, "iTerm.app" | "WezTerm" | "vscode" | "mintty") || value("LC_TERMINAL") == "iTerm2" {
            return Some(Self::Iterm2);
        }
        let is_kitty = ["kitty", "ghostty"].iter().any(|name| term.contains(name)) || program == "ghostty";
        (is_kitty || variable("KITTY_WINDOW_ID").is_some() || variable("KONSOLE_VERSION").is_some())
            .then_some(Self::Kitty)
    }

    /// Returns what makes the terminal draw a PNG over a number of columns.
    fn sequence(self, png: &[u8], columns: u32) -> String {
        let text = BASE64_STANDARD.encode(png);
        match self {
            Self::Iterm2 => {
                let size = png.len();
                format!("\x1b]1337;File=inline=1;size={size};width={columns};preserveAspectRatio=1:{text}\x07\n")
            }
            Self::Kitty => {
                let mut sequence = String::with_capacity(text.len() + text.len() / 100 + 64);
                let parts = text.len().div_ceil(PART);
                // q=2: the terminal does not answer, and this program does not wait.
                let mut keys = format!("f=100,a=T,q=2,c={columns},");
                for (i, part) in text.as_bytes().chunks(PART).enumerate() {
                    let part = String::from_utf8_lossy(part);
                    let more = u8::from(i + 1 < parts);
                    // Writing to a string cannot fail.
                    let _ = write!(sequence, "\x1b_G{keys}m={more};{part}\x1b\\");
                    keys.clear();
                }
                sequence.push('\n');
                sequence
            }
        }
    }
}

/// Returns the columns for a picture of a width in pixels: about twice its size, where a column has ten pixels.
fn columns(width: u32) -> u32 {
    (width / 5).clamp(24, 72)
}

/// Returns width and height of a PNG, which its first chunk holds.
fn size_of_png(png: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    png.starts_with(b"\x89PNG\r\n\x1a\n").then_some(())?;
    Some((number(16)?, number(20)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(variables: &[(&str, &str)]) -> Option<Protocol> {
        Protocol::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn terminals_are_known_by_their_variables() {
        assert_eq!(protocol(&[("TERM", "xterm-256color")]), None);
        assert_eq!(protocol(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(protocol(&[("TERM", "xterm-ghostty")]), Some(Protocol::Kitty));
        assert_eq!(protocol(&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "240202")]), Some(Protocol::Kitty));
        assert_eq!(protocol(&[("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::Iterm2));
        assert_eq!(protocol(&[("TERM_PROGRAM", "WezTerm")]), Some(Protocol::Iterm2));
        assert_eq!(protocol(&[("LC_TERMINAL", "iTerm2"), ("TERM", "xterm")]), Some(Protocol::Iterm2));
        // tmux and screen keep the variables of the terminal around them, and show none of its pictures.
        assert_eq!(protocol(&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")]), None);
        assert_eq!(protocol(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/tmux-0/default,1,0")]), None);
    }

    #[test]
    fn a_picture_arrives_whole() {
        let png: Vec<u8> = (0..20_000u32).map(|i| (i * i % 251) as u8).collect();
        let text = Protocol::Kitty.sequence(&png, 40);
        let parts: Vec<&str> = text.trim_end().split_terminator("\x1b\\").collect();
        let (keys, data): (Vec<&str>, Vec<&str>) = parts.iter().map(|part| part[3..].split_once(';').unwrap()).unzip();
        assert!(parts.iter().all(|part| part.starts_with("\x1b_G")) && data.iter().all(|data| data.len() <= PART));
        assert_eq!(keys[0], "f=100,a=T,q=2,c=40,m=1");
        assert!(keys[1..keys.len() - 1].iter().all(|keys| *keys == "m=1") && keys[keys.len() - 1] == "m=0");
        assert_eq!(BASE64_STANDARD.decode(data.concat()).unwrap(), png);

        let text = Protocol::Iterm2.sequence(&png, 40);
        let (keys, data) = text.trim_end().split_once(':').unwrap();
        assert_eq!(keys, "\x1b]1337;File=inline=1;size=20000;width=40;preserveAspectRatio=1");
        assert_eq!(BASE64_STANDARD.decode(data.strip_suffix('\x07').unwrap()).unwrap(), png);
    }

    #[test]
    fn the_size_of_a_png_is_that_of_its_first_chunk() {
        let mut png = Vec::new();
        let image = image::GrayImage::new(130, 7);
        image.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        assert_eq!(size_of_png(&png), Some((130, 7)));
        assert_eq!(size_of_png(&png[..20]), None);
        assert_eq!(size_of_png(b"GIF89a, and so on, and so on"), None);
        assert_eq!([columns(20), columns(130), columns(4_000)], [24, 26, 72]);
    }
}
