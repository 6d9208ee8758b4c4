//! Checks of the sizes that image files claim, where the decoders trust them: a file of 100 bytes could take gigabytes
//! before its decoder finds that it is truncated.

use image::ImageFormat;
use std::borrow::Cow;

/// Maximum number of scans of a progressive JPEG. Encoders write about ten; each costs a pass over all coefficients.
const MAX_SCANS: usize = 100;

/// Memory and work that a file claims beyond the pixels of its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Bytes of tables that are larger in memory than in the file.
    pub tables: u64,
    /// Pixels outside of the image, which pad its last tiles.
    pub padding: u64,
}

/// Checks a file of `length` bytes, or its start if it is not `complete`. An error of a start may be that something follows.
pub(crate) fn check(format: ImageFormat, bytes: &[u8], length: u64, complete: bool) -> Result<Extra, String> {
    match format {
        ImageFormat::WebP => {
            let tables = webp(bytes, complete)?.min(length.saturating_mul(WEBP_TABLES)).min(MAX_WEBP_TABLES);
            // Those of small files are left out, since charging locks.
            Ok(Extra { tables: tables.saturating_sub(FREE_WEBP_TABLES), padding: 0 })
        }
        ImageFormat::Tiff => tiff(bytes),
        _ => Ok(Extra::default()),
    }
}

/// Returns a PNG without its texts and colour profile, which do not change the pixels, and whose compressed forms would be
/// decompressed to any size. Other bytes are returned as they are.
pub(crate) fn without_texts(bytes: &[u8]) -> Cow<'_, [u8]> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    if !bytes.starts_with(SIGNATURE) {
        return Cow::Borrowed(bytes);
    }
    // The ranges that are kept, and the end of the last chunk that was looked at.
    let (mut kept, mut from, mut at) = (Vec::new(), 0, SIGNATURE.len());
    while let Some(&[a, b, c, d, ref kind @ ..]) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let end = at.saturating_add(length).saturating_add(12).min(bytes.len());
        if matches!(kind, b"iCCP" | b"zTXt" | b"iTXt" | b"tEXt") {
            kept.extend_from_slice(&bytes[from..at]);
            from = end;
        }
        at = end;
    }
    if from == 0 {
        return Cow::Borrowed(bytes);
    }
    kept.extend_from_slice(&bytes[from..]);
    Cow::Owned(kept)
}

/// Checks what the decoder of JPEG does not: that the pixels end with an end marker, since it fills the missing part of a
/// truncated file with grey; that CMYK has the marker of Adobe, whose inverted values it expects; and the number of scans.
pub(crate) fn check_jpeg(bytes: &[u8]) -> Result<(), &'static str> {
    // Skip the segments before the scan: they can contain a thumbnail with its own end marker.
    let (mut at, mut components, mut is_adobe) = (2, 0, false);
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        let segment = bytes.get(at + 4..).unwrap_or_default();
        match marker {
            0xff => {
                at += 1;
                continue;
            }
            0xda if components == 4 && !is_adobe => {
                return Err("is a CMYK JPEG without Adobe's marker, whose colours are not defined; convert it to RGB");
            }
            0xda => {
                // What follows the end marker, such as the video of a phone's picture, can contain any bytes.
                let mut markers = bytes[at..].windows(2).filter(|pair| matches!(pair, [0xff, 0xd9 | 0xda]));
                return match markers.position(|pair| pair[1] == 0xd9) {
                    None => break,
                    Some(scans) if scans > MAX_SCANS => Err("has more than 100 scans; encode it again"),
                    Some(_) => Ok(()),
                };
            }
            // Frames, with precision, height, width and number of components; not the tables C4, C8 and CC.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => components = segment.get(5).copied().unwrap_or(0),
            0xee => is_adobe |= segment.starts_with(b"Adobe"),
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    Err("is truncated: the JPEG has no end marker")
}

fn u16_le(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u24_le(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u16_le(bytes, at)? | u64::from(*bytes.get(at + 2)?) << 16)
}

fn u32_le(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?).into())
}

/// The size of the canvas of an extended WebP, which contains its frames.
type Canvas = Option<[u64; 2]>;

/// The memory of the Huffman tables of a lossless WebP for each of its bytes, divided by 4: what a file decodes to is
/// charged four times. A code of eleven symbols takes 11 bytes in the file, and a table of 4 KiB.
const WEBP_TABLES: u64 = 512 / 4;

/// The most that is charged for the tables of a file, also divided by 4: 2 GiB. Encoders write at most some thousand sets of
/// tables, of about 20 KiB each, but nothing in a header tells how many there are.
const MAX_WEBP_TABLES: u64 = (2 << 30) / 4;

/// The bytes of tables that are not charged, also divided by 4.
const FREE_WEBP_TABLES: u64 = (8 << 20) / 4;

/// Checks that the chunks of a WebP are in the file, and its frames in the canvas. Returns the bytes of its tables.
fn webp(bytes: &[u8], complete: bool) -> Result<u64, String> {
    let mut canvas = None;
    webp_chunks(bytes.get(12..).unwrap_or_default(), complete, &mut canvas, 0)
}

fn webp_chunks(mut chunks: &[u8], complete: bool, canvas: &mut Canvas, depth: usize) -> Result<u64, String> {
    // Those of the first frame, the only one that is decoded.
    let (mut tables, mut is_first) = (0, true);
    while let (Some(kind), Some(size)) = (chunks.get(..4), u32_le(chunks, 4)) {
        let kind: [u8; 4] = [kind[0], kind[1], kind[2], kind[3]];
        let rest = &chunks[8..];
        let whole = usize::try_from(size).ok().and_then(|size| rest.get(..size));
        let is_image = matches!(&kind, b"VP8 " | b"VP8L" | b"ALPH" | b"ANMF");
        if whole.is_none() && (complete || !is_image) {
            return Err("is truncated".to_owned());
        }
        let body = whole.unwrap_or(rest);
        if is_first && matches!(&kind, b"VP8L" | b"ALPH") {
            tables = size.saturating_mul(WEBP_TABLES);
        }
        let size_of = |at: usize| Some([u24_le(body, at)? + 1, u24_le(body, at + 3)? + 1]);
        let frame = match &kind {
            b"VP8X" => {
                // The orientation is in the EXIF chunk, which follows the image.
                if !complete && body.first().is_some_and(|flags| flags & 8 != 0) {
                    return Err("is truncated".to_owned());
                }
                *canvas = size_of(4);
                None
            }
            b"VP8 " => u16_le(body, 6).zip(u16_le(body, 8)).map(|(width, height)| [width & 0x3fff, height & 0x3fff]),
            b"VP8L" => u32_le(body, 1).map(|bits| [(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1]),
            b"ANMF" if depth == 0 => {
                let inside = webp_chunks(body.get(16..).unwrap_or_default(), complete && whole.is_some(), canvas, 1)?;
                tables = if is_first { inside } else { tables };
                size_of(6)
            }
            _ => None,
        };
        if let (Some([width, height]), Some(canvas)) = (frame, &*canvas)
            && (width > canvas[0] || height > canvas[1])
        {
            let [canvas_width, canvas_height] = canvas;
            return Err(format!("has a frame of {height}x{width} in a canvas of {canvas_height}x{canvas_width}"));
        }
        is_first &= !matches!(&kind, b"VP8 " | b"VP8L" | b"ANMF");
        // Chunks have an even size.
        let next = usize::try_from(size + (size & 1)).unwrap_or(usize::MAX);
        chunks = rest.get(next..).unwrap_or_default();
    }
    Ok(tables)
}

/// The tag of a TIFF that says what channels beyond the colors are. 1 is alpha that the colors are multiplied by already.
const EXTRA_SAMPLES: u64 = 338;

/// The tag of a TIFF that says whether the first pixel is in the highest bit of a byte (1) or in the lowest (2).
const FILL_ORDER: u64 = 266;

/// Checks that the values of a TIFF's first directory are in the file, and that its parts have not more pixels than the
/// image, up to the padding of the last ones.
fn tiff(bytes: &[u8]) -> Result<Extra, String> {
    let big = bytes.starts_with(b"MM");
    let number = |at: usize, size: usize| {
        let bytes = bytes.get(at..at.checked_add(size)?)?.iter();
        let digits = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if big { bytes.fold(0, digits) } else { bytes.rev().fold(0, digits) })
    };
    let is_bigtiff = number(2, 2) == Some(43);
    // Bytes of an offset or count, of the number of entries, and of an entry.
    let (word, entries, entry) = if is_bigtiff { (8, 8, 20) } else { (4, 2, 12) };
    let truncated = || "is truncated".to_owned();
    let start = number(word, word).and_then(|at| usize::try_from(at).ok()).ok_or_else(truncated)?;
    let count = number(start, entries).ok_or_else(truncated)?;
    if count > bytes.len() as u64 / entry as u64 {
        return Err(truncated());
    }
    let [mut width, mut height, mut tile_width, mut tile_height, mut rows, mut compression] = [0u64; 6];
    let mut tables = 0u64;
    for index in 0..count as usize {
        let at = start.saturating_add(entries).saturating_add(index * entry);
        let field = |offset: usize, size: usize| number(at.saturating_add(offset), size).ok_or_else(truncated);
        let (tag, kind, count) = (field(0, 2)?, field(2, 2)?, field(4, word)?);
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // Values of unknown types are not read.
            _ => 0,
        };
        let length = count.saturating_mul(size);
        let is_inline = length <= word as u64;
        if !is_inline && field(4 + word, word)?.saturating_add(length) > bytes.len() as u64 {
            return Err(truncated());
        }
        // The decoder expands each value of the image's own tags to 32 bytes, and then to 8.
        if tag < 400 {
            tables = tables.saturating_add(count.saturating_mul(40));
        }
        let value = if is_inline && count == 1 { field(4 + word, size.min(word as u64) as usize)? } else { 0 };
        let values = if is_inline { at.saturating_add(4 + word) } else { field(4 + word, word)? as usize };
        let is_associated = |index: usize| number(values.saturating_add(2 * index), 2) == Some(1);
        if tag == EXTRA_SAMPLES && kind == 3 && (0..count.min(16) as usize).any(is_associated) {
            return Err(
                "has colors that are multiplied by their alpha; save it with unassociated alpha, or as PNG".into()
            );
        }
        if tag == FILL_ORDER && value == 2 {
            return Err("has bits in reverse order (FillOrder 2), which is not read; save it again".into());
        }
        match tag {
            256 => width = value,
            257 => height = value,
            259 => compression = value,
            278 => rows = value,
            322 => tile_width = value,
            323 => tile_height = value,
            _ => {}
        }
    }
    let is_tiled = tile_width > 0 && tile_height > 0;
    let part = match is_tiled {
        true => [tile_width, tile_height],
        false => [width, if rows == 0 { height } else { rows.min(height) }],
    };
    let padded = |side: u64, part: u64| side.div_ceil(part.max(1)).saturating_mul(part);
    let area = width.saturating_mul(height);
    let padding = padded(width, part[0]).saturating_mul(padded(height, part[1])).saturating_sub(area);
    // Parts in JPEG have their own sizes, to which they are decoded.
    let is_larger = |frame: &[u8]| {
        let side = |at: usize| u64::from(frame[at]) << 8 | u64::from(frame[at + 1]);
        matches!(frame, [0xff, 0xc0..=0xc2, 0, _, 8, ..])
            && side(5) * side(7) > padded(part[0], 16).saturating_mul(padded(part[1], 16))
    };
    if matches!(compression, 6 | 7) && bytes.windows(9).any(is_larger) {
        return Err(format!("has a part of more than {}x{} pixels, its size in the header", part[1], part[0]));
    }
    Ok(Extra { tables, padding })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], kind, body, &[0; 4]].concat()
    }

    #[test]
    fn texts_are_taken_out_of_a_png() {
        let signature = b"\x89PNG\r\n\x1a\n";
        let (header, data) = (chunk(b"IHDR", &[7; 13]), chunk(b"IDAT", b"zTXt"));
        let texts = [chunk(b"zTXt", b"a\0b"), chunk(b"iCCP", b"")].concat();
        let plain = [&signature[..], &header, &data].concat();
        assert!(matches!(without_texts(&plain), Cow::Borrowed(bytes) if bytes == plain));
        assert_eq!(*without_texts(&[&signature[..], &header, &texts, &data].concat()), plain);
        assert_eq!(*without_texts(&[&plain[..], &texts].concat()), plain);
        // A chunk that claims more than there is.
        assert_eq!(*without_texts(&[&plain[..], &[0xff; 4], b"iTXt", b"rest"].concat()), plain);
        assert_eq!(*without_texts(b"GIF89a"), *b"GIF89a");
    }

    /// Phones put a video after the picture.
    #[test]
    fn what_follows_a_jpeg_does_not_count() {
        let mut jpeg = Vec::new();
        image::GrayImage::new(8, 8).write_to(&mut std::io::Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
        assert_eq!(check_jpeg(&jpeg), Ok(()));
        jpeg.extend([0xff, 0xda].repeat(200));
        assert_eq!(check_jpeg(&jpeg), Ok(()));
        let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        jpeg.splice(scan + 10..scan + 10, [0xff, 0xda].repeat(200));
        assert!(check_jpeg(&jpeg).unwrap_err().contains("100 scans"));
    }

    fn riff(kind: &[u8], body: &[u8]) -> Vec<u8> {
        [kind, &(body.len() as u32).to_le_bytes(), body].concat()
    }

    #[test]
    fn chunks_of_a_webp_are_in_the_file_and_frames_in_the_canvas() {
        let frame = riff(b"VP8L", &[0x2f, 9, 0, 0, 0, 0]);
        let canvas = |side: u8| riff(b"VP8X", &[0, 0, 0, 0, side - 1, 0, 0, side - 1, 0, 0]);
        let file = |parts: &[Vec<u8>]| [b"RIFF\0\0\0\0WEBP".to_vec(), parts.concat()].concat();
        assert_eq!(webp(&file(&[canvas(10), frame.clone()]), true), Ok(6 * 128));
        assert!(webp(&file(&[canvas(9), frame.clone()]), true).unwrap_err().contains("a frame of 1x10"));
        let inside = riff(b"ANMF", &[&[0; 16][..], &frame].concat());
        assert!(webp(&file(&[canvas(9), inside.clone()]), true).is_err());
        assert_eq!(webp(&file(&[canvas(10), inside]), true), Ok(6 * 128));
        let cut = file(&[frame])[..20].to_vec();
        assert_eq!((webp(&cut, false), webp(&cut, true)), (Ok(6 * 128), Err("is truncated".to_owned())));
        let claim = file(&[canvas(10), b"EXIF\xff\xff\xff\xff".to_vec()]);
        assert!(webp(&claim, false).is_err() && webp(&claim, true).is_err());
    }

    #[test]
    fn values_of_a_tiff_are_in_the_file() {
        let entry = |tag: u16, kind: u16, count: u32, value: u32| {
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
        };
        let file = |entries: &[Vec<u8>]| {
            [&b"II\x2a\0\x08\0\0\0"[..], &(entries.len() as u16).to_le_bytes(), &entries.concat(), &[0; 4]].concat()
        };
        let size = [entry(256, 4, 1, 100), entry(257, 4, 1, 30)];
        assert_eq!(tiff(&file(&size)), Ok(Extra { tables: 80, padding: 0 }));
        let tiles = [&size[..], &[entry(322, 4, 1, 64), entry(323, 4, 1, 64)]].concat();
        assert_eq!(tiff(&file(&tiles)), Ok(Extra { tables: 160, padding: 128 * 64 - 3000 }));
        let claim = [&size[..], &[entry(273, 4, 1 << 28, 8)]].concat();
        assert_eq!(tiff(&file(&claim)), Err("is truncated".to_owned()));
        let jpeg = |side: u8| {
            let frame = [0xff, 0xc0, 0, 11, 8, 0, side, 0, 100];
            tiff(&[file(&[&size[..], &[entry(259, 3, 1, 7)]].concat()), frame.to_vec()].concat())
        };
        assert!(jpeg(32).is_ok() && jpeg(40).unwrap_err().contains("more than 30x100"));
        let bits = |order| tiff(&file(&[&size[..], &[entry(266, 3, 1, order)]].concat()));
        assert!(bits(1).is_ok() && bits(2).unwrap_err().contains("reverse order"));
        let whole = file(&tiles);
        (0..whole.len() - 4).for_each(|end| assert!(tiff(&whole[..end]).is_err(), "{end}"));
    }
}
