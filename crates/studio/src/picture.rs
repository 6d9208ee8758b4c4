//! Images as PNG, with text inside.

use ddpm::Images;

/// The key of the text chunk with the request that made the images.
pub const REQUEST: &str = "ddpm-studio";
/// The most text that is read from a PNG.
const MAX_TEXT: usize = 8 << 20;

/// The pixels of some images of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// N, H, W, C.
    pub shape: [usize; 4],
    /// The values, N,H,W,C.
    pub bytes: Vec<u8>,
}

impl From<&Images> for Pixels {
    fn from(images: &Images) -> Self {
        Self { shape: images.shape(), bytes: images.bytes() }
    }
}

/// Returns the columns of a grid of `n` images.
pub fn columns(n: usize) -> usize {
    (1..=n).find(|columns| columns * columns >= n).unwrap_or(1)
}

impl Pixels {
    /// Returns the images in a grid without gaps, as a PNG with a text.
    ///
    /// # Errors
    /// If the images are no picture.
    pub fn png(&self, text: Option<&str>) -> Result<Vec<u8>, png::EncodingError> {
        let [n, height, width, channels] = self.shape;
        let columns = columns(n);
        let rows = n.div_ceil(columns);
        let mut grid = vec![0; rows * columns * height * width * channels];
        let line = width * channels;
        for (i, image) in self.bytes.chunks_exact((height * line).max(1)).enumerate() {
            let (top, left) = (i / columns * height, i % columns * line);
            for (y, row) in image.chunks_exact(line).enumerate() {
                grid[(top + y) * columns * line + left..][..line].copy_from_slice(row);
            }
        }
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(columns * width), side(rows * height));
        encoder.set_color(match channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        if let Some(text) = text {
            encoder.add_itxt_chunk(REQUEST.to_owned(), text.to_owned())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&grid)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// Returns the text that [`Pixels::png`] put into a PNG.
pub fn text_of(bytes: &[u8]) -> Option<String> {
    let limits = png::Limits { bytes: MAX_TEXT };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(false);
    let reader = decoder.read_info().ok()?;
    reader.info().utf8_text.iter().find(|chunk| chunk.keyword == REQUEST)?.get_text().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_keeps_its_pixels_and_its_text() {
        let pixels = Pixels { shape: [3, 2, 1, 3], bytes: (0..18).collect() };
        let bytes = pixels.png(Some("{\"seed\":7}")).unwrap();
        assert_eq!(text_of(&bytes).as_deref(), Some("{\"seed\":7}"));
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut grid = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut grid).unwrap();
        // Two columns: images 0 and 1 side by side, image 2 below.
        assert_eq!(grid, [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11, 12, 13, 14, 0, 0, 0, 15, 16, 17, 0, 0, 0]);
        assert_eq!(text_of(&pixels.png(None).unwrap()), None);
        assert_eq!(text_of(b"no picture"), None);
        assert_eq!([1, 2, 4, 5, 16, 17].map(columns), [1, 2, 2, 3, 4, 5]);
    }
}
