//! The initial noise of sampling.

use std::path::Path;

use diffusion::NoiseLevel;
use model::Images;
use random::{Random, Stream};

use crate::Error;

/// Returns standard normal x_T for the images `first_image .. first_image + n` of shape `[H,W,C]`. The noise of an
/// image depends only on the seed and its number.
pub fn initial_noise(seed: u64, first_image: u64, n: usize, [height, width, channels]: [usize; 3]) -> Images {
    let random = Random::new(seed);
    let mut pixels = vec![0.0; n * height * width * channels];
    for (i, image) in pixels.chunks_mut((height * width * channels).max(1)).enumerate() {
        random.normals(Stream::InitialNoise, first_image + i as u64, 0, image);
    }
    Images::new([n, height, width, channels], pixels)
}

/// Reads noise from the tensor `noise` `[N,C,H,W]` of a safetensors file, such as latents from
/// [`invert`](crate::invert()).
///
/// # Errors
/// If the file cannot be read, has no such tensor, or has NaN or infinite values; the error names it.
pub fn read_noise(path: impl AsRef<Path>) -> Result<Images, Error> {
    let path = path.as_ref();
    let fail = |message: String| Error::Request(format!("{}: {message}", path.display()));
    let (mut tensors, _) = weights::read_safetensors(path)?;
    let tensor = tensors.remove("noise").ok_or_else(|| fail("tensor `noise` is missing".into()))?;
    let [n, channels, height, width] = match tensor.shape[..] {
        [n, channels, height, width] if n > 0 => [n, channels, height, width],
        _ => return Err(fail(format!("`noise` has shape {:?}; expected [N, C, H, W]", tensor.shape))),
    };
    if let Some(bad) = tensor.data.iter().position(|value| !value.is_finite()) {
        return Err(fail(format!("`noise` has a value that is not finite (element {bad})")));
    }
    let mut pixels = Vec::with_capacity(tensor.data.len());
    for image in tensor.data.chunks((channels * height * width).max(1)) {
        for pixel in 0..height * width {
            pixels.extend((0..channels).map(|c| image[c * height * width + pixel]));
        }
    }
    Ok(Images::new([n, height, width, channels], pixels))
}

/// Returns x_t of one image `[1,H,W,C]` for each image of `noise`: the start of image-to-image (SDEdit: Meng et al.
/// 2022, arXiv 2108.01073).
pub fn noised(image: &Images, level: NoiseLevel, noise: Images) -> Images {
    let mut pixels = vec![0.0; noise.pixels.len()];
    let size = image.pixels.len().max(1);
    for (x_t, epsilon) in pixels.chunks_mut(size).zip(noise.pixels.chunks(size)) {
        level.q_sample(&image.pixels, epsilon, x_t);
    }
    Images { pixels, ..noise }
}
