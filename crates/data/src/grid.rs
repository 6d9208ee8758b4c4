use crate::error::{Error, Result};
use crate::pixels::over;
use image::{Rgb, RgbImage};

/// Lays out images in rows of `columns`, `gap` white pixels apart: a contact sheet, or a grid of samples.
///
/// `images` are u8, N,H,W,C with `[H,W,C]` = `shape` and C = 1, 3 or 4; RGBA is composited on white. The sheet has
/// `columns` (or N if that is less) cells a row, and no border.
///
/// # Errors
/// [`Error::Argument`] if there is no image, or `images` is not a whole number of them, or C is another, or the sheet
/// would be longer than 65,535 pixels on a side.
pub fn grid(images: &[u8], shape: [usize; 3], columns: usize, gap: usize) -> Result<RgbImage> {
    let [height, width, channels] = shape;
    let stride = height.checked_mul(width).and_then(|area| area.checked_mul(channels)).unwrap_or(0);
    if stride == 0
        || ![1, 3, 4].contains(&channels)
        || images.is_empty()
        || !images.len().is_multiple_of(stride)
        || columns == 0
    {
        let bytes = images.len();
        let message = format!("a grid of {columns} columns of {height}x{width}x{channels} images from {bytes} bytes");
        return Err(Error::Argument(message));
    }
    let count = images.len() / stride;
    let columns = columns.min(count);
    let rows = count.div_ceil(columns);
    let side = |cells: usize, cell: usize| {
        let pixels = cells.checked_mul(cell)?.checked_add((cells - 1).checked_mul(gap)?)?;
        u32::try_from(pixels).ok().filter(|&pixels| pixels <= 65_535)
    };
    let (Some(sheet_width), Some(sheet_height)) = (side(columns, width), side(rows, height)) else {
        return Err(Error::Argument(format!("a grid of {rows}x{columns} images of {height}x{width} is too large")));
    };
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, Rgb([255; 3]));
    for (index, image) in images.chunks_exact(stride).enumerate() {
        let (top, left) = (index / columns * (height + gap), index % columns * (width + gap));
        for (at, pixel) in image.chunks_exact(channels).enumerate() {
            let color = match *pixel {
                [r, g, b] => [r, g, b],
                [r, g, b, a] => [r, g, b].map(|value| over(value, a, 255)),
                _ => [pixel[0]; 3],
            };
            sheet.put_pixel((left + at % width) as u32, (top + at / width) as u32, Rgb(color));
        }
    }
    Ok(sheet)
}
