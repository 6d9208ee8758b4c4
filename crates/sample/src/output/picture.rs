//! Pictures of many images: PNG grids, sheets, animated PNGs and GIFs.

use std::borrow::Cow;
use std::io::{self, BufReader, Write};
use std::path::Path;

use gif::{AnyExtension, Extension, Repeat};
use model::Images;
use png::{BitDepth, ColorType};
use rayon::prelude::*;
use twox_hash::XxHash64;
use weights::atomic;

use super::{Error, Result};

/// Small images are enlarged until their longer side has this many pixels …
const CELL: usize = 64;
/// … but only while the picture stays within this size.
const PICTURE: usize = 2000;
/// Maximum side of a GIF, and of a PNG in many viewers.
const LONGEST: usize = 65_535;

/// Pixel sampling rate of color quantization (NeuQuant, Dekker 1994): one in this many. 10 is faster, but visibly worse
/// for small pictures.
const GIF_SPEED: i32 = 3;

/// Duration of the finished images in an animation, in hundredths of a second.
const HOLD: u16 = 200;

/// A source of images `[N,H,W,C]` as bytes, read one at a time.
pub(crate) trait PixelSource {
    /// Returns the shape `[N,H,W,C]`.
    fn shape(&self) -> [usize; 4];

    /// Reads an image, H,W,C.
    fn read(&mut self, index: usize, out: &mut [u8]) -> io::Result<()>;
}

/// Images as bytes in memory.
pub(super) struct InMemory {
    shape: [usize; 4],
    bytes: Vec<u8>,
}

impl From<&Images> for InMemory {
    fn from(images: &Images) -> Self {
        Self { shape: images.shape(), bytes: images.bytes() }
    }
}

impl PixelSource for InMemory {
    fn shape(&self) -> [usize; 4] {
        self.shape
    }

    fn read(&mut self, index: usize, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self.bytes[index * out.len()..][..out.len()]);
        Ok(())
    }
}

/// The arrangement of images in a picture, and its enlargement.
pub(crate) struct Layout {
    images: usize,
    rows: usize,
    columns: usize,
    /// Fills columns instead of rows.
    by_column: bool,
    gap: usize,
    factor: usize,
}

impl Layout {
    /// Returns a near-square grid.
    pub fn grid(n: usize, height: usize, width: usize) -> Result<Self> {
        let columns = (n as f64 * height as f64 / width.max(1) as f64).sqrt().ceil() as usize;
        Self::new(n, columns, height, width)
    }

    /// Returns a grid with one row per class, for images whose classes repeat cyclically.
    pub fn by_class(n: usize, classes: usize, height: usize, width: usize) -> Result<Self> {
        let columns = n.div_ceil(classes.max(1));
        let layout = Self::new(classes * columns, columns, height, width)?;
        Ok(Self { by_column: true, images: n, ..layout })
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
        Ok(Layout { images: n, rows, columns, by_column: false, gap, factor })
    }

    /// Returns the image in a cell.
    fn image(&self, row: usize, column: usize) -> Option<usize> {
        let index = if self.by_column { column * self.rows + row } else { row * self.columns + column };
        (index < self.images).then_some(index)
    }

    /// Returns height and width of the picture before enlargement.
    fn size(&self, height: usize, width: usize) -> [usize; 2] {
        let side = |cells: usize, pixels: usize| cells * (pixels + self.gap) - self.gap;
        [side(self.rows, height), side(self.columns, width)]
    }

    /// Calls `each` with every row of pixels from the top, before enlargement. One row of images is in memory at a
    /// time.
    fn pixel_rows(
        &self,
        source: &mut dyn PixelSource,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let [_, height, width, channels] = source.shape();
        let [_, sheet_width] = self.size(height, width);
        let stride = sheet_width * channels;
        let white = vec![255; stride];
        let mut image = vec![0; height * width * channels];
        for row in 0..self.rows {
            let mut strip = vec![255; height * stride];
            for (column, index) in (0..self.columns).filter_map(|column| Some((column, self.image(row, column)?))) {
                source.read(index, &mut image)?;
                let left = column * (width + self.gap) * channels;
                for (strip, pixels) in strip.chunks_mut(stride).zip(image.chunks(width * channels)) {
                    strip[left..][..pixels.len()].copy_from_slice(pixels);
                }
            }
            strip.chunks(stride).try_for_each(&mut each)?;
            if row + 1 < self.rows {
                (0..self.gap).try_for_each(|_| each(&white))?;
            }
        }
        Ok(())
    }
}

/// Returns the PNG color type for a number of channels.
pub(crate) fn color(channels: usize) -> Result<ColorType> {
    match channels {
        1 => Ok(ColorType::Grayscale),
        3 => Ok(ColorType::Rgb),
        4 => Ok(ColorType::Rgba),
        _ => Err(Error::Channels(channels)),
    }
}

/// Repeats each pixel of a row `factor` times.
fn widened(row: &[u8], channels: usize, factor: usize) -> Cow<'_, [u8]> {
    if factor == 1 {
        return row.into();
    }
    row.chunks_exact(channels).flat_map(|pixel| pixel.repeat(factor)).collect::<Vec<u8>>().into()
}

/// Creates a PNG encoder for 8-bit pixels of `[height,width]` that writes `info` as text chunks, after the mark of this
/// program's images.
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
    let (keyword, text) = data::MARK;
    encoder.add_text_chunk(keyword.to_owned(), text.to_owned())?;
    for (keyword, text) in info {
        let (keyword, text) = (keyword.clone(), text.clone());
        // tEXt is supported by more programs, but only holds Latin-1.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
    }
    Ok(encoder)
}

/// Returns a text chunk of a PNG, if the file is a PNG and the chunk precedes its pixels.
pub(crate) fn text(path: &Path, keyword: &str) -> Option<String> {
    let reader = png::Decoder::new(BufReader::new(files::open_regular(path).ok()?.0)).read_info().ok()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    let other = || info.utf8_text.iter().find(|chunk| chunk.keyword == keyword)?.get_text().ok();
    latin.map(|chunk| chunk.text.clone()).or_else(other)
}

/// Returns a digest of the pixels of a PNG of 8 bits and this shape, H,W,C; `None` if it is another one, or cannot be decoded
/// to its end, with the right checksums.
pub(crate) fn pixels_digest(path: &Path, shape: &[usize]) -> Option<u64> {
    let mut reader = png::Decoder::new(BufReader::new(files::open_regular(path).ok()?.0)).read_info().ok()?;
    let &[height, width, channels] = shape else { return None };
    let (color, depth) = reader.output_color_type();
    let found = [reader.info().height as usize, reader.info().width as usize, color.samples()];
    if found != [height, width, channels] || depth != BitDepth::Eight {
        return None;
    }
    let mut pixels = vec![0; reader.output_buffer_size()?];
    reader.next_frame(&mut pixels).ok()?;
    reader.finish().ok()?;
    Some(XxHash64::oneshot(0, &pixels))
}

/// Writes one PNG with all images.
pub(crate) fn write_grid(
    path: &Path,
    source: &mut dyn PixelSource,
    layout: &Layout,
    info: &[(String, String)],
) -> Result<()> {
    let [_, height, width, channels] = source.shape();
    let color = color(channels)?;
    let factor = layout.factor;
    let size = layout.size(height, width).map(|side| side * factor);
    atomic::write_file(path, |file| {
        let mut writer = png(file, size, color, info)?.write_header()?;
        let mut pixels = writer.stream_writer()?;
        layout.pixel_rows(source, |row| {
            let row = widened(row, channels, factor);
            (0..factor).try_for_each(|_| pixels.write_all(&row))
        })?;
        pixels.finish()?;
        Ok(writer.finish()?)
    })?;
    Ok(())
}

/// Writes a sheet as a PNG: each row is an image, and the columns are `columns` of the `frames`, evenly spaced.
///
/// The first and last frame are included; a single column is the last frame, and fewer frames than columns are all
/// shown. An interpolation is a sheet whose frames are the values of λ. The frames have the same shape, and 1, 3 or 4
/// channels. `info` becomes text chunks, as in [`write()`](super::write()).
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
    // Counted from the end, so that a single column is the last frame.
    let picked: Vec<Vec<u8>> = (0..columns)
        .rev()
        .map(|k| &frames[frames.len() - 1 - (k * (frames.len() - 1) + steps / 2) / steps])
        .map(Images::bytes)
        .collect();
    let [n, height, width, channels] = last.shape();
    let size = height * width * channels;
    let row = |image: usize| picked.iter().flat_map(move |frame| &frame[image * size..][..size]);
    let bytes: Vec<u8> = (0..n).flat_map(row).copied().collect();
    let layout = Layout::new(n * columns, columns, height, width)?;
    super::Output::Grid(path.to_owned()).create_folder()?;
    write_grid(path, &mut InMemory { shape: [n * columns, height, width, channels], bytes }, &layout, info)
}

pub(super) fn check_frames(frames: &[Images], images: &Images) -> Result<()> {
    for (index, frame) in frames.iter().enumerate() {
        if frame.shape() != images.shape() {
            let (found, expected) = (frame.shape(), images.shape());
            return Err(Error::Shape(format!("frame {index} has shape {found:?}, expected {expected:?} (N,H,W,C)")));
        }
        super::check(frame)?;
    }
    Ok(())
}

/// A picture of many images, u8 `[height,width,channels]`, before enlargement.
struct Picture {
    height: usize,
    width: usize,
    color: ColorType,
    factor: usize,
    pixels: Vec<u8>,
}

impl Picture {
    fn grid(source: &mut dyn PixelSource, path: &Path) -> Result<Self> {
        let [n, height, width, channels] = source.shape();
        let layout = Layout::grid(n, height, width)?;
        let mut pixels = Vec::new();
        layout
            .pixel_rows(source, |row| {
                pixels.extend_from_slice(row);
                Ok(())
            })
            .map_err(|error| Error::Io { path: path.to_owned(), action: "its images cannot be read", error })?;
        let [height, width] = layout.size(height, width);
        Ok(Picture { height, width, color: color(channels)?, factor: layout.factor, pixels })
    }

    /// Returns height and width after enlargement.
    fn size(&self) -> [usize; 2] {
        [self.height * self.factor, self.width * self.factor]
    }

    /// Repeats each pixel in both directions; `channels` may be 1 for indexed colors.
    fn enlarge(&self, pixels: &[u8], channels: usize) -> Vec<u8> {
        let rows = pixels.chunks_exact(self.width * channels);
        rows.flat_map(|row| widened(row, channels, self.factor).repeat(self.factor)).collect()
    }

    fn enlarged(&self) -> Vec<u8> {
        self.enlarge(&self.pixels, self.color.samples())
    }

    /// Returns the picture on a white background as RGB, since a GIF has no partial transparency.
    fn opaque(&self) -> Cow<'_, [u8]> {
        match self.color {
            ColorType::Rgba => {
                let over = |value: u8, alpha: u8| {
                    ((u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8
                };
                let pixels = self.pixels.chunks_exact(4);
                pixels.flat_map(|p| [over(p[0], p[3]), over(p[1], p[3]), over(p[2], p[3])]).collect::<Vec<u8>>().into()
            }
            _ => self.pixels.as_slice().into(),
        }
    }
}

/// Writes a GIF or an animated PNG, by the extension of the path: the frames in order, then the finished images, which
/// are shown longer. A few frames are in memory at a time.
pub(crate) fn write_animation<S: PixelSource>(
    path: &Path,
    mut frames: Vec<S>,
    images: S,
    info: &[(String, String)],
) -> Result<()> {
    frames.push(images);
    let is_gif = path.extension().is_some_and(|name| name.eq_ignore_ascii_case("gif"));
    let write = if is_gif { write_gif } else { write_apng };
    write(path, frames.iter_mut().map(|frame| frame as &mut dyn PixelSource).collect(), info)
}

/// Returns the duration of frame `index` of `count`, in hundredths of a second: four seconds in total, within limits
/// for smooth viewing.
fn delay(index: usize, count: usize) -> u16 {
    if index + 1 == count { HOLD } else { (400 / count).clamp(4, 20) as u16 }
}

fn write_apng(path: &Path, mut frames: Vec<&mut dyn PixelSource>, info: &[(String, String)]) -> Result<()> {
    let count = frames.len();
    let last = Picture::grid(&mut **frames.last_mut().expect("the finished images"), path)?;
    let mut failed = None;
    atomic::write_file(path, |file| {
        let mut encoder = png(file, last.size(), last.color, info)?;
        encoder.set_animated(count as u32, 0)?;
        encoder.set_sep_def_img(true)?;
        let mut file = encoder.write_header()?;
        // The default image, for viewers without animation and for thumbnails.
        file.write_image_data(&last.enlarged())?;
        for (index, frame) in frames.iter_mut().enumerate() {
            file.set_frame_delay(delay(index, count), 100)?;
            match Picture::grid(&mut **frame, path) {
                Ok(picture) => file.write_image_data(&picture.enlarged())?,
                Err(error) => {
                    failed = Some(error);
                    return Err(io::Error::other("a frame cannot be read"));
                }
            }
        }
        Ok(file.finish()?)
    })
    .map_err(|error| failed.take().unwrap_or(error.into()))
}

fn write_gif(path: &Path, mut frames: Vec<&mut dyn PixelSource>, info: &[(String, String)]) -> Result<()> {
    let count = frames.len();
    let last = Picture::grid(&mut **frames.last_mut().expect("the finished images"), path)?;
    // Layout::new has checked the sizes.
    let [height, width] = last.size().map(|side| side as u16);
    let grey: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
    let info = info.iter().map(|(key, text)| (&**key, &**text));
    let comment: String = [data::MARK].into_iter().chain(info).map(|(key, text)| format!("{key}: {text}\n")).collect();
    let mut failed = None;
    let mut encode = |file: &mut dyn Write| -> std::result::Result<(), gif::EncodingError> {
        let mut encoder = gif::Encoder::new(file, width, height, &grey)?;
        encoder.set_repeat(Repeat::Infinite)?;
        encoder.write_raw_extension(AnyExtension::from(Extension::Comment), &[comment.as_bytes()])?;
        let together = rayon::current_num_threads();
        let mut index = 0;
        for some in frames.chunks_mut(together) {
            let pictures: Result<Vec<Picture>> =
                some.iter_mut().map(|frame| Picture::grid(&mut **frame, path)).collect();
            let pictures = match pictures {
                Ok(pictures) => pictures,
                Err(error) => {
                    failed = Some(error);
                    return Err(io::Error::other("a frame cannot be read").into());
                }
            };
            let quantized: Vec<gif::Frame> = pictures.par_iter().map(gif_frame).collect();
            for (picture, frame) in pictures.iter().zip(quantized) {
                encoder.write_frame(&gif::Frame {
                    width,
                    height,
                    delay: delay(index, count),
                    buffer: picture.enlarge(&frame.buffer, 1).into(),
                    palette: frame.palette,
                    ..Default::default()
                })?;
                index += 1;
            }
        }
        encoder.into_inner()?.flush()?;
        Ok(())
    };
    atomic::write_file(path, |file| encode(file).map_err(io::Error::other))
        .map_err(|error| failed.take().unwrap_or(error.into()))
}

/// Quantizes a frame to 256 colors before enlargement, which adds no colors. Grey images use the global palette.
fn gif_frame(picture: &Picture) -> gif::Frame<'static> {
    let (width, height) = (picture.width as u16, picture.height as u16);
    match picture.color {
        ColorType::Grayscale => gif::Frame::from_indexed_pixels(width, height, picture.pixels.clone(), None),
        _ => gif::Frame::from_rgb_speed(width, height, &picture.opaque(), GIF_SPEED),
    }
}
