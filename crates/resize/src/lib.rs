//! Resizes images of bytes. This is a crate of its own so that the code of each kind of pixel is compiled once, and not with each
//! change of the readers and their tests.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

/// Resizes an image to `new` as PIL does: a convolution with a triangle (bilinear) filter whose width grows with the reduction,
/// which prevents aliasing. Sizes are width and height. Colors are weighted by alpha, so that transparent pixels do not bleed.
///
/// # Errors
/// If `pixels` has not the length of an image of this size, or if `channels` is not 1 (gray), 3 (RGB) or 4 (RGBA).
pub fn bilinear(pixels: &[u8], size: (u32, u32), channels: usize, new: (u32, u32)) -> Result<Vec<u8>, String> {
    // Not by a type that is only known at run time, for which the library compiles the code of all types.
    match channels {
        1 => typed::<U8>(pixels, size, new),
        3 => typed::<U8x3>(pixels, size, new),
        4 => typed::<U8x4>(pixels, size, new),
        _ => Err(format!("cannot resize an image of {channels} channels")),
    }
}

fn typed<P: PixelTrait>(pixels: &[u8], (width, height): (u32, u32), new: (u32, u32)) -> Result<Vec<u8>, String> {
    let source = TypedImageRef::<P>::from_buffer(width, height, pixels).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; new.0 as usize * new.1 as usize * size_of::<P>()];
    let mut resized = TypedImage::<P>::from_buffer(new.0, new.1, &mut bytes).map_err(|error| error.to_string())?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize_typed(&source, &mut resized, &options).map_err(|error| error.to_string())?;
    Ok(bytes)
}
