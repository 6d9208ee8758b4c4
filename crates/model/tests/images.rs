//! Images as bytes, as pixels in [-1, 1], and in the order of files.

use ddpm_model::Images;

#[test]
fn bytes_are_scaled_to_one_and_rounded_back() {
    let bytes: Vec<u8> = (0..=255).collect();
    let images = Images::from_bytes([16, 16, 1], &bytes);
    for (byte, &pixel) in bytes.iter().zip(&images.pixels) {
        assert!((f64::from(pixel) - (f64::from(*byte) * 2.0 / 255.0 - 1.0)).abs() < 1e-7, "{byte}: {pixel}");
    }
    assert_eq!((images.pixels[0], images.pixels[255]), (-1.0, 1.0));
    assert_eq!(images.bytes(), bytes);

    // Rounded to nearest: 0 is 127.5, a tie, which goes to the even neighbor.
    let grey = |value: f64| (value / 127.5 - 1.0) as f32;
    let pixels = [grey(99.4), grey(99.6), 0.0, -7.0, 7.0, f32::NAN];
    assert_eq!(Images::new([6, 1, 1, 1], pixels.to_vec()).bytes(), [99, 100, 128, 0, 255, 0]);
}

/// `numpy.arange(12).reshape(2, 1, 2, 3).transpose(0, 3, 1, 2).ravel()`
#[test]
fn files_have_channels_before_pixels() {
    let images = Images::new([2, 1, 2, 3], (0..12u8).map(f32::from).collect());
    assert_eq!(images.nchw(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
}
