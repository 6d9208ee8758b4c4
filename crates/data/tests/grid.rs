//! Grids of images.

use ddpm_data::{Error, grid};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pixels_are_at_their_positions(
        (n, h, w) in (1usize..12, 1usize..6, 1usize..6), c in 0usize..3, columns in 1usize..15, gap in 0usize..4, seed: u8,
    ) {
        let c = [1, 3, 4][c];
        let images: Vec<u8> = (0..n * h * w * c).map(|i| (i * 31) as u8 ^ seed).collect();
        let sheet = grid(&images, [h, w, c], columns, gap).unwrap();
        let across = columns.min(n);
        let down = n.div_ceil(across);
        prop_assert_eq!(sheet.dimensions(), ((across * (w + gap) - gap) as u32, (down * (h + gap) - gap) as u32));
        for (x, y, found) in sheet.enumerate_pixels() {
            let (x, y) = (x as usize, y as usize);
            let (row, column) = (y / (h + gap), x / (w + gap));
            let (y, x, index) = (y % (h + gap), x % (w + gap), row * across + column);
            let expected = if y >= h || x >= w || index >= n {
                [255; 3]
            } else {
                let pixel = &images[((index * h + y) * w + x) * c..][..c];
                std::array::from_fn(|k| match pixel {
                    [v] => *v,
                    [.., a] if c == 4 => {
                        let a = f64::from(*a) / 255.0;
                        (f64::from(pixel[k]) * a + 255.0 * (1.0 - a)).round() as u8
                    }
                    _ => pixel[k],
                })
            };
            prop_assert_eq!(found.0, expected);
        }
    }
}

#[test]
fn invalid_arguments_are_errors() {
    let wrong =
        |images: &[u8], shape, columns, gap| matches!(grid(images, shape, columns, gap), Err(Error::Argument(_)));
    assert!(wrong(&[], [2, 2, 1], 4, 2));
    assert!(wrong(&[0; 5], [2, 2, 1], 4, 2));
    assert!(wrong(&[0; 8], [2, 2, 2], 4, 2));
    assert!(wrong(&[0; 4], [2, 2, 1], 0, 2));
    assert!(wrong(&[0; 4], [2, usize::MAX, 3], 1, 2));
    assert!(wrong(&[0; 8], [2, 2, 1], 2, usize::MAX));
    assert!(wrong(&[0; 8], [2, 2, 1], 1, 70_000));
}
