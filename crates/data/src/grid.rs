use crate::error::{Error, Result};
use crate::pixels::composite;
use image::{Rgb, RgbImage};

/// Arranges images in a grid, `gap` white pixels apart.
///
/// `images` are u8, N,H,W,C, with `shape` = `[H, W, C]` and C = 1, 3 or 4; RGBA is composited on white. The grid has
/// min(`columns`, N) columns and no border.
///
/// # Errors
/// [`Error::Argument`] if `columns` is 0, if `images` is empty or its length is not a multiple of H·W·C, if C is not 1,
/// 3 or 4, or if a side of the grid exceeds 65,535 pixels.
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
        let message = format!(
            "cannot arrange {bytes} bytes in a grid of {columns} columns of {height}x{width}x{channels} images; \
             expected one or more whole images of 1, 3 or 4 channels"
        );
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
        return Err(Error::Argument(format!(
            "a grid of {rows}x{columns} images of {height}x{width} exceeds 65535 pixels on a side"
        )));
    };
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, Rgb([255; 3]));
    for (index, image) in images.chunks_exact(stride).enumerate() {
        let (top, left) = (index / columns * (height + gap), index % columns * (width + gap));
        for (at, pixel) in image.chunks_exact(channels).enumerate() {
            let color = match *pixel {
                [r, g, b] => [r, g, b],
                [r, g, b, a] => [r, g, b].map(|value| composite(value, a, 255)),
                _ => [pixel[0]; 3],
            };
            sheet.put_pixel((left + at % width) as u32, (top + at / width) as u32, Rgb(color));
        }
    }
    Ok(sheet)
}
