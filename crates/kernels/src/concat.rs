//! Concatenation of two images along the channel axis.

use crate::profile;
use rayon::prelude::*;

/// Pixels per task.
const TASK: usize = 256;

/// Concatenates x `[pixels, a]` and y `[pixels, b]` along the channels into `out` `[pixels, a + b]`.
///
/// # Panics
/// If the length of a slice is not a multiple of its number of channels, or the numbers of pixels differ.
pub fn concat_channels([a, b]: [usize; 2], [x, y]: [&[f32]; 2], out: &mut [f32]) {
    assert!(
        x.len().is_multiple_of(a) && y.len() * a == x.len() * b && out.len() == x.len() + y.len(),
        "concat_channels: the lengths do not match"
    );
    let _span = profile::span(|| "concatenation".into(), 0, 2 * out.len());
    let tasks = out.par_chunks_mut(TASK * (a + b)).zip(x.par_chunks(TASK * a)).zip(y.par_chunks(TASK * b));
    tasks.for_each(|((out, x), y)| {
        for ((out, x), y) in out.chunks_exact_mut(a + b).zip(x.chunks_exact(a)).zip(y.chunks_exact(b)) {
            out[..a].copy_from_slice(x);
            out[a..].copy_from_slice(y);
        }
    });
}

/// Splits the channels of `joined` `[pixels, a + b]` into x and y: the gradient of [`concat_channels`].
///
/// # Panics
/// As [`concat_channels`].
pub fn split_channels([a, b]: [usize; 2], joined: &[f32], [x, y]: [&mut [f32]; 2]) {
    assert!(
        x.len().is_multiple_of(a) && y.len() * a == x.len() * b && joined.len() == x.len() + y.len(),
        "split_channels: the lengths do not match"
    );
    let _span = profile::span(|| "concatenation: gradient".into(), 0, 2 * joined.len());
    let tasks = joined.par_chunks(TASK * (a + b)).zip(x.par_chunks_mut(TASK * a)).zip(y.par_chunks_mut(TASK * b));
    tasks.for_each(|((joined, x), y)| {
        for ((joined, x), y) in joined.chunks_exact(a + b).zip(x.chunks_exact_mut(a)).zip(y.chunks_exact_mut(b)) {
            x.copy_from_slice(&joined[..a]);
            y.copy_from_slice(&joined[a..]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::init_with;

    #[test]
    fn split_channels_undoes_concat_channels() {
        let (pixels, a, b) = (2 * TASK + 7, 3, 5);
        let x: Vec<f32> = (0..pixels * a).map(|i| i as f32).collect();
        let y: Vec<f32> = (0..pixels * b).map(|i| -(i as f32)).collect();
        let joined = init_with(pixels * (a + b), |out| concat_channels([a, b], [&x, &y], out));
        assert_eq!(joined[8..16], [3.0, 4.0, 5.0, -5.0, -6.0, -7.0, -8.0, -9.0]);
        let (mut x2, mut y2) = (vec![0.0; x.len()], vec![0.0; y.len()]);
        split_channels([a, b], &joined, [&mut x2, &mut y2]);
        assert_eq!((x2, y2), (x, y));
    }
}
