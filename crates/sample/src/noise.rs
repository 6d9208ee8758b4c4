//! The noise that sampling starts from.

use diffusion::NoiseLevel;
use model::Images;
use random::{Random, Stream};

/// Returns standard normal x_T for the images `first_image` to `first_image + n`, of shape `[H,W,C]`. The noise of an
/// image depends on the seed and its number alone.
pub fn initial_noise(seed: u64, first_image: u64, n: usize, [height, width, channels]: [usize; 3]) -> Images {
    let random = Random::new(seed);
    let mut pixels = vec![0.0; n * height * width * channels];
    for (i, image) in pixels.chunks_mut((height * width * channels).max(1)).enumerate() {
        random.normals(Stream::InitialNoise, first_image + i as u64, 0, image);
    }
    Images::new([n, height, width, channels], pixels)
}

/// Returns x_t of one image `[1,H,W,C]`, once for the noise of each image that [`initial_noise`] numbers: the start of
/// image-to-image (SDEdit: Meng et al. 2022, arXiv 2108.01073).
pub fn noised(image: &Images, level: NoiseLevel, noise: Images) -> Images {
    let mut pixels = vec![0.0; noise.pixels.len()];
    let size = image.pixels.len().max(1);
    for (x_t, epsilon) in pixels.chunks_mut(size).zip(noise.pixels.chunks(size)) {
        level.q_sample(&image.pixels, epsilon, x_t);
    }
    Images { pixels, ..noise }
}
