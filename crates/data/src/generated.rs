//! The program's own output: images that it wrote carry a mark, and the folder of a training run is known by its files.
//! Neither is training data when it lies in a folder of images.

use flate2::Crc;
use std::io::Read;
use std::path::Path;

/// Keyword and text of the PNG chunk that marks images of this program.
pub const MARK: (&str, &str) = ("Software", "ddpm");

/// Extensions of the image files that the program writes.
pub(crate) const MARKED_EXTENSIONS: [&str; 3] = ["png", "apng", "gif"];

/// Length of a PNG's signature and of its first chunk, IHDR.
const IHDR_END: usize = 33;

/// The mark is among the first chunks.
const HEAD_BYTES: u64 = 4096;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Adds the [`MARK`] to an encoded PNG, so that it is not read as training data. Other bytes are returned as they are.
pub fn mark_png(mut png: Vec<u8>) -> Vec<u8> {
    if png.starts_with(PNG_SIGNATURE) && png.len() > IHDR_END {
        let data = [b"tEXt", MARK.0.as_bytes(), b"\0", MARK.1.as_bytes()].concat();
        let mut crc = Crc::new();
        crc.update(&data);
        let length = (data.len() - 4) as u32;
        let chunk = [&length.to_be_bytes()[..], &data, &crc.sum().to_be_bytes()].concat();
        png.splice(IHDR_END..IHDR_END, chunk);
    }
    png
}

/// Returns whether a PNG or GIF was written by this program.
pub fn is_generated(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = files::open_regular(path).and_then(|(file, _)| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.is_ok() && has_mark(&head)
}

fn has_mark(head: &[u8]) -> bool {
    let contains = |mark: &str| head.windows(mark.len()).any(|bytes| bytes == mark.as_bytes());
    if head.starts_with(b"GIF8") {
        return contains(&format!("{}: {}\n", MARK.0, MARK.1));
    }
    if !head.starts_with(PNG_SIGNATURE) {
        return false;
    }
    let mark = format!("{}\0{}", MARK.0, MARK.1);
    let mut chunks = &head[PNG_SIGNATURE.len()..];
    while let Some((length, rest)) = chunks.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        match (rest.get(..4), rest.get(4..).and_then(|rest| rest.get(..length))) {
            (Some(b"tEXt"), Some(text)) if text == mark.as_bytes() => return true,
            (Some(b"IDAT"), _) | (None, _) | (_, None) => return false,
            // The checksum is not part of the length.
            (Some(_), Some(_)) => chunks = rest.get(4 + length + 4..).unwrap_or_default(),
        }
    }
    false
}

/// Returns whether a folder is that of a training run.
pub(crate) fn is_run(folder: &Path) -> bool {
    folder.join("config.toml").is_file() && folder.join("checkpoints").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png() -> Vec<u8> {
        let mut png = std::io::Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut png, &[7; 4], 2, 2, image::ExtendedColorType::L8, image::ImageFormat::Png)
            .unwrap();
        png.into_inner()
    }

    #[test]
    fn a_marked_png_is_known_and_still_the_same_image() {
        let (plain, marked) = (png(), mark_png(png()));
        assert!(!has_mark(&plain) && has_mark(&marked));
        let pixels = |png: &[u8]| image::load_from_memory(png).unwrap().into_luma8().into_raw();
        assert_eq!(pixels(&plain), pixels(&marked));
        assert_eq!(mark_png(b"no png".to_vec()), b"no png");
        assert!(has_mark(b"GIF89a....Software: ddpm\nmodel: x\n"));
    }

    /// No prefix of a file is a panic, and a length beyond the end is not followed.
    #[test]
    fn damaged_files_are_not_marked() {
        let marked = mark_png(png());
        for end in 0..IHDR_END + 12 {
            assert!(!has_mark(&marked[..end]), "{end}");
        }
        let mut long = png();
        long[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(!has_mark(&long));
    }
}
