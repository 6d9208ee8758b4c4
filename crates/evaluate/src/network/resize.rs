//! Bilinear resizing without anti-aliasing, as published Inception metrics use it.

use rayon::prelude::*;

use super::InputFormat;

/// The positions of resized pixels in the original image. The choice changes the second digit of an FID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// Aligned pixel centres, (i + ½)·scale − ½: PyTorch's `interpolate(align_corners=False)`, as in pytorch-fid.
    #[default]
    PyTorch,
    /// Aligned top left corners, i·scale: TensorFlow 1, as in the code of Heusel et al. and OpenAI, and in torch-fidelity.
    TensorFlow1,
}

/// The two pixels that a resized pixel interpolates, and the weight of the second.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

fn taps(from: usize, to: usize, resize: Resize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let tap = |i: usize| {
        let at = match resize {
            Resize::PyTorch => ((i as f64 + 0.5) * scale - 0.5).max(0.0),
            Resize::TensorFlow1 => i as f64 * scale,
        };
        let low = (at.floor() as usize).min(from - 1);
        Tap { low, high: (low + 1).min(from - 1), weight: (at - low as f64) as f32 }
    };
    (0..to).map(tap).collect()
}

/// Resizes images `[N,H,W,3]` to `[N,side,side,3]`, and scales each value x to (x − `offset`)/`scale`.
///
/// # Panics
/// If the bytes are not whole images of that size.
pub fn resized(images: &[u8], [height, width]: [usize; 2], format: InputFormat, resize: Resize) -> Vec<f32> {
    let InputFormat { side, offset, scale } = format;
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
                    *out = (value - offset) / scale;
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
        let out = resized(&image, [side, values.len()], InputFormat { side, offset: 0.0, scale: 1.0 }, resize);
        out.iter().step_by(3).take(side).copied().collect()
    }

    /// ```python
    /// F.interpolate(torch.tensor([0., 30, 90]).expand(1, 1, 6, 3), (6, 6), mode="bilinear", align_corners=False)[0, 0, 0]
    /// tf.compat.v1.image.resize_bilinear(…, (6, 6))    # i·½
    /// ```
    #[test]
    fn pixel_positions_are_those_of_pytorch_and_tensorflow() {
        assert_eq!(line(&[0, 30, 90], 6, Resize::PyTorch), [0.0, 7.5, 22.5, 45.0, 75.0, 90.0]);
        assert_eq!(line(&[0, 30, 90], 6, Resize::TensorFlow1), [0.0, 15.0, 30.0, 60.0, 90.0, 90.0]);
        // Smaller without anti-aliasing: pixels in between are skipped.
        assert_eq!(line(&[0, 200, 100, 200, 40, 200], 2, Resize::TensorFlow1), [0.0, 200.0]);
        assert_eq!(line(&[0, 200, 100, 200, 40, 200], 2, Resize::PyTorch), [200.0, 40.0]);
        for resize in [Resize::PyTorch, Resize::TensorFlow1] {
            assert_eq!(line(&[1, 2, 3], 3, resize), [1.0, 2.0, 3.0], "resizing to the same size changes nothing");
        }
    }
}
