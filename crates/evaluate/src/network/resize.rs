//! Bilinear resizing without anti-aliasing, as the Inception metrics have it.

use rayon::prelude::*;

/// Where the pixels of the larger image lie on the smaller one. The difference shows in the second digit of a FID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// Centres on centres, (i + ½)·scale − ½: PyTorch's `interpolate(align_corners=False)`, as in pytorch-fid.
    #[default]
    Centres,
    /// Corners on corners, i·scale: TensorFlow 1's, as in Heusel et al.'s and OpenAI's code and torch-fidelity.
    TensorFlow1,
}

/// The two pixels between which one of the result lies, and the second one's weight.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

fn taps(from: usize, to: usize, resize: Resize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let tap = |i: usize| {
        let at = match resize {
            Resize::Centres => ((i as f64 + 0.5) * scale - 0.5).max(0.0),
            Resize::TensorFlow1 => i as f64 * scale,
        };
        let low = (at.floor() as usize).min(from - 1);
        Tap { low, high: (low + 1).min(from - 1), weight: (at - low as f64) as f32 }
    };
    (0..to).map(tap).collect()
}

/// Images `[N,H,W,3]` of bytes to `[N,side,side,3]`, each value x then (x − `zero`)/`one`.
///
/// # Panics
/// If the bytes are not whole images of such a size.
pub fn resized(
    images: &[u8],
    [height, width]: [usize; 2],
    side: usize,
    resize: Resize,
    zero: f32,
    one: f32,
) -> Vec<f32> {
    let (rows, columns) = (taps(height, side, resize), taps(width, side, resize));
    let stride = height * width * 3;
    assert!(stride > 0 && images.len().is_multiple_of(stride), "{} bytes are not images", images.len());
    let mut out = vec![0.0; images.len() / stride * side * side * 3];
    out.par_chunks_exact_mut(side * side * 3).zip(images.par_chunks_exact(stride)).for_each(|(out, image)| {
        for (out, row) in out.chunks_exact_mut(side * 3).zip(&rows) {
            let (top, bottom) = (&image[row.low * width * 3..], &image[row.high * width * 3..]);
            for (out, column) in out.chunks_exact_mut(3).zip(&columns) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let across = |line: &[u8]| {
                        let (a, b) = (line[3 * column.low + channel], line[3 * column.high + channel]);
                        f32::from(a) * (1.0 - column.weight) + f32::from(b) * column.weight
                    };
                    let value = across(top) * (1.0 - row.weight) + across(bottom) * row.weight;
                    *out = (value - zero) / one;
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[u8], side: usize, resize: Resize) -> Vec<f32> {
        let image: Vec<u8> = values.iter().flat_map(|&v| [v; 3]).collect();
        let image = image.repeat(side);
        let out = resized(&image, [side, values.len()], side, resize, 0.0, 1.0);
        out.iter().step_by(3).take(side).copied().collect()
    }

    /// ```python
    /// F.interpolate(torch.tensor([0., 30, 90]).expand(1, 1, 6, 3), (6, 6), mode="bilinear", align_corners=False)[0, 0, 0]
    /// tf.compat.v1.image.resize_bilinear(…, (6, 6))    # i·½
    /// ```
    #[test]
    fn centres_and_corners() {
        assert_eq!(line(&[0, 30, 90], 6, Resize::Centres), [0.0, 7.5, 22.5, 45.0, 75.0, 90.0]);
        assert_eq!(line(&[0, 30, 90], 6, Resize::TensorFlow1), [0.0, 15.0, 30.0, 60.0, 90.0, 90.0]);
        // Smaller without anti-aliasing: pixels between are passed over.
        assert_eq!(line(&[0, 200, 100, 200, 40, 200], 2, Resize::TensorFlow1), [0.0, 200.0]);
        assert_eq!(line(&[0, 200, 100, 200, 40, 200], 2, Resize::Centres), [200.0, 40.0]);
        for resize in [Resize::Centres, Resize::TensorFlow1] {
            assert_eq!(line(&[1, 2, 3], 3, resize), [1.0, 2.0, 3.0], "of its own size an image is itself");
        }
    }
}
