//! Many images as one picture: PNG grids, progressive sheets, animated PNGs and GIFs.

use super::{Error, Images, Result, to_u8};
use gif::{AnyExtension, Extension, Repeat};
use png::{BitDepth, ColorType};
use rayon::prelude::*;
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use weights::atomic;

/// Small images are enlarged until their longer side has this many pixels …
const CELL: usize = 64;
/// … as long as the picture stays within this.
const PICTURE: usize = 2000;
/// GIF's limit, and data::grid's.
const LONGEST: usize = 65_535;

/// Colours are learned (NeuQuant, Dekker 1994) from one in this many pixels; 10 is faster, and visibly worse where there
/// are few.
const GIF_SPEED: i32 = 3;

/// How long the finished images of an animation are shown, in hundredths of a second.
const HOLD: u16 = 200;

/// How many pixels apart images are laid out, and what each pixel is enlarged to.
pub(super) struct Layout {
    columns: usize,
    gap: usize,
    factor: usize,
}

impl Layout {
    /// As near to a square as whole rows allow.
    pub fn grid(n: usize, height: usize, width: usize) -> Result<Self> {
        let columns = (n as f64 * height as f64 / width.max(1) as f64).sqrt().ceil() as usize;
        Self::new(n, columns, height, width)
    }

    fn new(n: usize, columns: usize, height: usize, width: usize) -> Result<Self> {
        let columns = columns.clamp(1, n.max(1));
        let rows = n.div_ceil(columns);
        let longest = |gap| {
            let side = |cells: usize, pixels: usize| cells.saturating_mul(pixels.saturating_add(gap));
            side(rows, height).max(side(columns, width)).saturating_sub(gap)
        };
        let wanted = CELL.div_ceil(height.max(width).max(1));
        let factor = wanted.min(PICTURE / longest(1).max(1)).max(1);
        let gap = if factor == 1 { 2 } else { 1 };
        if longest(gap) > LONGEST {
            return Err(Error::GridTooLarge { rows, columns, height, width });
        }
        Ok(Layout { columns, gap, factor })
    }
}

/// How PNG calls a number of channels.
pub(super) fn color(channels: usize) -> Result<ColorType> {
    match channels {
        1 => Ok(ColorType::Grayscale),
        3 => Ok(ColorType::Rgb),
        4 => Ok(ColorType::Rgba),
        _ => Err(Error::Channels(channels)),
    }
}

/// Images side by side, u8 `[height,width,channels]`, not yet enlarged.
struct Picture {
    height: usize,
    width: usize,
    color: ColorType,
    factor: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Lays out u8 images, N,H,W,C with `[H,W,C]` = `shape`.
    fn new(images: &[u8], [height, width, channels]: [usize; 3], layout: &Layout) -> Result<Self> {
        let color = color(channels)?;
        let grid = |images: &[u8], channels| data::grid(images, [height, width, channels], layout.columns, layout.gap);
        // A grid is RGB whatever it is made of, so that transparency takes one of its own.
        let (rgb, alpha) = if color == ColorType::Rgba {
            let rgb: Vec<u8> = images.chunks_exact(4).flat_map(|rgba| &rgba[..3]).copied().collect();
            let alpha: Vec<u8> = images.iter().skip(3).step_by(4).copied().collect();
            (grid(&rgb, 3)?, Some(grid(&alpha, 1)?))
        } else {
            (grid(images, channels)?, None)
        };
        let (height, width, factor) = (rgb.height() as usize, rgb.width() as usize, layout.factor);
        let pixels = match alpha {
            Some(alpha) => rgb.pixels().zip(alpha.pixels()).flat_map(|(c, a)| [c[0], c[1], c[2], a[0]]).collect(),
            None if channels == 1 => rgb.iter().step_by(3).copied().collect(),
            None => rgb.into_raw(),
        };
        Ok(Picture { height, width, color, factor, pixels })
    }

    fn grid(images: &Images) -> Result<Self> {
        let [n, height, width, channels] = images.shape();
        Self::new(&to_u8(&images.pixels), [height, width, channels], &Layout::grid(n, height, width)?)
    }

    /// Height and width once enlarged.
    fn size(&self) -> [usize; 2] {
        [self.height * self.factor, self.width * self.factor]
    }

    fn enlarged(&self) -> Cow<'_, [u8]> {
        enlarge(&self.pixels, self.width, self.color.samples(), self.factor)
    }
}

/// Repeats each pixel `factor` times in both directions.
fn enlarge(pixels: &[u8], width: usize, channels: usize, factor: usize) -> Cow<'_, [u8]> {
    if factor == 1 {
        return pixels.into();
    }
    let mut out = Vec::with_capacity(pixels.len() * factor * factor);
    for row in pixels.chunks_exact(width * channels) {
        let begin = out.len();
        for pixel in row.chunks_exact(channels) {
            (0..factor).for_each(|_| out.extend_from_slice(pixel));
        }
        let end = out.len();
        (1..factor).for_each(|_| out.extend_from_within(begin..end));
    }
    out.into()
}

/// A PNG encoder for 8-bit pixels of `[height,width]` that will write `info` as text chunks.
pub(super) fn png<'a, W: Write>(
    file: W,
    [height, width]: [usize; 2],
    color: ColorType,
    info: &[(String, String)],
) -> io::Result<png::Encoder<'a, W>> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut encoder = png::Encoder::new(file, side(width)?, side(height)?);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in info {
        let (keyword, text) = (keyword.clone(), text.clone());
        // tEXt, which more programs read, holds Latin-1 alone.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
    }
    Ok(encoder)
}

fn write_picture(path: &Path, picture: &Picture, info: &[(String, String)]) -> Result<()> {
    atomic::write_file(path, |file| {
        let mut file = png(file, picture.size(), picture.color, info)?.write_header()?;
        file.write_image_data(&picture.enlarged())?;
        Ok(file.finish()?)
    })?;
    Ok(())
}

/// One PNG with all images.
pub(super) fn write_grid(path: &Path, images: &Images, info: &[(String, String)]) -> Result<()> {
    write_picture(path, &Picture::grid(images)?, info)
}

/// Writes a progressive sheet as a PNG: each row is an image, its columns are `columns` of the `frames` in even steps,
/// among them the first and the last (one column: the last; all if there are not more). An interpolation is a sheet
/// too: its frames are the values of λ.
///
/// The frames have one shape, and 1, 3 or 4 channels. `info` becomes text chunks, as in [`write()`](super::write()).
///
/// # Errors
/// As [`write()`](super::write()).
pub fn sheet(path: &Path, frames: &[Images], columns: usize, info: &[(String, String)]) -> Result<()> {
    let Some(last) = frames.last() else {
        return Err(Error::Shape("a sheet of no frames".to_owned()));
    };
    check_frames(frames, last)?;
    let columns = columns.clamp(1, frames.len());
    let steps = (columns - 1).max(1);
    // Counted from the end, so that a single column is the last.
    let picked: Vec<Vec<u8>> = (0..columns)
        .rev()
        .map(|k| &frames[frames.len() - 1 - (k * (frames.len() - 1) + steps / 2) / steps])
        .map(|frame| to_u8(&frame.pixels))
        .collect();
    let [n, height, width, channels] = last.shape();
    let size = height * width * channels;
    let row = |image: usize| picked.iter().flat_map(move |frame| &frame[image * size..][..size]);
    let cells: Vec<u8> = (0..n).flat_map(row).copied().collect();
    let layout = Layout::new(n * columns, columns, height, width)?;
    let picture = Picture::new(&cells, [height, width, channels], &layout)?;
    super::Output::Grid(path.to_owned()).create_folder()?;
    write_picture(path, &picture, info)
}

/// A GIF if the path says so, else an animated PNG.
pub(super) fn write_animation(
    path: &Path,
    images: &Images,
    frames: &[Images],
    info: &[(String, String)],
) -> Result<()> {
    check_frames(frames, images)?;
    let last = (frames.last() != Some(images)).then_some(images);
    let frames: Vec<_> = frames.iter().chain(last).collect();
    let pictures = frames.par_iter().map(|frame| Picture::grid(frame)).collect::<Result<Vec<_>>>()?;
    let is_gif = path.extension().is_some_and(|name| name.eq_ignore_ascii_case("gif"));
    let write = if is_gif { write_gif } else { write_apng };
    write(path, &pictures, info)
}

fn check_frames(frames: &[Images], images: &Images) -> Result<()> {
    for (index, frame) in frames.iter().enumerate() {
        if frame.shape() != images.shape() {
            let (found, expected) = (frame.shape(), images.shape());
            return Err(Error::Shape(format!("frame {index} has shape {found:?}, expected {expected:?} (N,H,W,C)")));
        }
        frame.check()?;
    }
    Ok(())
}

/// How long each of `count` frames is shown, in hundredths of a second: four seconds in all, but neither faster than
/// viewers follow nor slower than motion.
fn delay(index: usize, count: usize) -> u16 {
    if index + 1 == count { HOLD } else { (400 / count).clamp(4, 20) as u16 }
}

fn write_apng(path: &Path, pictures: &[Picture], info: &[(String, String)]) -> Result<()> {
    let Some(last) = pictures.last() else { return Ok(()) };
    atomic::write_file(path, |file| {
        let mut encoder = png(file, last.size(), last.color, info)?;
        encoder.set_animated(pictures.len() as u32, 0)?;
        encoder.set_sep_def_img(true)?;
        let mut file = encoder.write_header()?;
        // The picture for those who do not animate it, and for thumbnails.
        file.write_image_data(&last.enlarged())?;
        for (index, picture) in pictures.iter().enumerate() {
            file.set_frame_delay(delay(index, pictures.len()), 100)?;
            file.write_image_data(&picture.enlarged())?;
        }
        Ok(file.finish()?)
    })?;
    Ok(())
}

fn write_gif(path: &Path, pictures: &[Picture], info: &[(String, String)]) -> Result<()> {
    let frames = pictures.par_iter().map(gif_frame).collect::<Result<Vec<_>>>()?;
    atomic::write_file(path, |file| encode_gif(file, pictures, frames, info).map_err(io::Error::other))?;
    Ok(())
}

fn encode_gif(
    file: &mut dyn Write,
    pictures: &[Picture],
    frames: Vec<gif::Frame>,
    info: &[(String, String)],
) -> Result<(), gif::EncodingError> {
    // Layout::new has seen to it that sizes fit.
    let [height, width] = pictures.last().map_or([0; 2], Picture::size).map(|side| side as u16);
    let grey: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
    let comment: String = info.iter().map(|(key, text)| format!("{key}: {text}\n")).collect();
    let count = frames.len();
    let mut encoder = gif::Encoder::new(file, width, height, &grey)?;
    encoder.set_repeat(Repeat::Infinite)?;
    if !comment.is_empty() {
        encoder.write_raw_extension(AnyExtension::from(Extension::Comment), &[comment.as_bytes()])?;
    }
    for (index, (frame, picture)) in frames.into_iter().zip(pictures).enumerate() {
        let buffer = enlarge(&frame.buffer, picture.width, 1, picture.factor);
        let delay = delay(index, count);
        encoder.write_frame(&gif::Frame {
            width,
            height,
            delay,
            buffer,
            palette: frame.palette,
            ..Default::default()
        })?;
    }
    encoder.into_inner()?.flush()?;
    Ok(())
}

/// Finds a frame's 256 colours before it is enlarged, which changes none. Grey keeps its own, the file's palette.
fn gif_frame(picture: &Picture) -> Result<gif::Frame<'static>> {
    let (width, height) = (picture.width as u16, picture.height as u16);
    Ok(match picture.color {
        ColorType::Grayscale => gif::Frame::from_indexed_pixels(width, height, picture.pixels.clone(), None),
        ColorType::Rgba => {
            // A GIF's pixel is there or not: what shines through is white.
            let flat = data::grid(&picture.pixels, [picture.height, picture.width, 4], 1, 0)?;
            gif::Frame::from_rgb_speed(width, height, &flat, GIF_SPEED)
        }
        _ => gif::Frame::from_rgb_speed(width, height, &picture.pixels, GIF_SPEED),
    })
}
