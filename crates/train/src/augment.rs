//! Augmentation of training images whose parameters the network is told, so that it does not draw augmented images itself (Karras
//! et al. 2022, section 5 and appendix F.2; the geometric transformations of Karras et al. 2020, "ADA").

use std::f64::consts::PI;

use random::{Random, Stream};

/// The numbers that describe an augmentation to the network.
pub const WIDTH: usize = 9;

/// The deviation of the base-2 logarithm of scales.
const SCALE_DEVIATION: f64 = 0.2;
/// The deviation of the base-2 logarithm of the ratio of scales.
const ANISOTROPY_DEVIATION: f64 = 0.2;
/// The deviation of shifts, relative to the image.
const SHIFT_DEVIATION: f64 = 0.125;

/// The low-pass filter of the wavelet sym6, orthogonal to its shifts by two. So an image that is doubled and halved again is the same.
const FILTER: [f64; 12] = [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
];
/// The pixels around the image that the filter needs.
const REACH: usize = FILTER.len() / 4;

/// An augmentation of one image. The default leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Whether it is mirrored left to right.
    pub mirrored: bool,
    /// Whether it is mirrored top to bottom.
    pub upside_down: bool,
    /// The scale, as a number of standard deviations of its logarithm.
    pub scale: f64,
    /// The angle of the rotation.
    pub rotation: f64,
    /// The scale along an axis, inverse to that across it, as a number of standard deviations of its logarithm.
    pub anisotropy: f64,
    /// The angle of this axis.
    pub axis: f64,
    /// The shifts along x and y, as a number of standard deviations.
    pub shift: [f64; 2],
}

impl Augmentation {
    /// Draws the augmentation of an image, each part of which it has with this probability. It is mirrored left to right with
    /// probability ½.
    pub fn draw(probability: f64, random: &Random, place: u64, step: u64) -> Self {
        let mut u = [0.0; 10];
        random.uniforms_f64(Stream::Augment, place, step, &mut u);
        let mut z = [0.0; 4];
        random.normals(Stream::AugmentSize, place, step, &mut z);
        let [scale, anisotropy, x, y] = z.map(f64::from);
        let some = |coin: f64, value: f64| if coin < probability { value } else { 0.0 };
        Self {
            mirrored: u[0] < 0.5,
            upside_down: u[1] < probability && u[2] < 0.5,
            scale: some(u[3], scale),
            rotation: some(u[4], (2.0 * u[5] - 1.0) * PI),
            anisotropy: some(u[6], anisotropy),
            axis: if u[7] < 0.5 { (2.0 * u[8] - 1.0) * PI } else { 0.0 },
            shift: [some(u[9], x), some(u[9], y)],
        }
    }

    /// Returns the numbers that describe it to the network.
    pub fn labels(&self) -> [f32; WIDTH] {
        let [x, y] = self.shift;
        [
            f64::from(u8::from(self.mirrored)),
            f64::from(u8::from(self.upside_down)),
            self.scale,
            self.rotation.cos() - 1.0,
            self.rotation.sin(),
            self.anisotropy * self.axis.cos(),
            self.anisotropy * self.axis.sin(),
            x,
            y,
        ]
        .map(|label| label as f32)
    }

    /// Augments an image with rows of pixels of `channels` values.
    pub fn apply(&self, image: &mut [f32], [height, width, channels]: [usize; 3]) {
        let row = width * channels;
        if self.upside_down {
            for y in 0..height / 2 {
                let (top, bottom) = image.split_at_mut((height - 1 - y) * row);
                top[y * row..][..row].swap_with_slice(&mut bottom[..row]);
            }
        }
        if self.mirrored {
            image.chunks_mut(row).for_each(|row| mirror(row, channels));
        }
        let map = self.source(height, width);
        if map == Affine::IDENTITY {
            return;
        }
        for c in 0..channels {
            let plane =
                Plane { height, width, values: image.iter().skip(c).step_by(channels).map(|&v| v.into()).collect() };
            let warped = warp(&plane, map);
            image
                .iter_mut()
                .skip(c)
                .step_by(channels)
                .zip(warped.values)
                .for_each(|(pixel, value)| *pixel = value as f32);
        }
    }

    /// Returns the map from a point of the augmented image to its source, both from the centre, in pixels.
    fn source(&self, height: usize, width: usize) -> Affine {
        let mut map = Affine::IDENTITY;
        if self.scale != 0.0 {
            let s = (SCALE_DEVIATION * self.scale).exp2();
            map = map.after(Affine::scale(1.0 / s, 1.0 / s));
        }
        if self.rotation != 0.0 {
            map = map.after(Affine::rotation(self.rotation));
        }
        if self.anisotropy != 0.0 {
            let s = (ANISOTROPY_DEVIATION * self.anisotropy).exp2();
            map = map
                .after(Affine::rotation(-self.axis))
                .after(Affine::scale(1.0 / s, s))
                .after(Affine::rotation(self.axis));
        }
        if self.shift != [0.0; 2] {
            let [x, y] = self.shift.map(|shift| SHIFT_DEVIATION * shift);
            map = map.after(Affine([[1.0, 0.0, -x * width as f64], [0.0, 1.0, -y * height as f64]]));
        }
        map
    }
}

/// Reverses the pixels of a row.
pub(crate) fn mirror(row: &mut [f32], channels: usize) {
    let pixels = row.len() / channels;
    for i in 0..pixels / 2 {
        for c in 0..channels {
            row.swap(i * channels + c, (pixels - 1 - i) * channels + c);
        }
    }
}

/// An affine map of the plane: the first two rows of its matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine([[f64; 3]; 2]);

impl Affine {
    const IDENTITY: Self = Self::scale(1.0, 1.0);

    const fn scale(x: f64, y: f64) -> Self {
        Self([[x, 0.0, 0.0], [0.0, y, 0.0]])
    }

    fn rotation(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self([[cos, -sin, 0.0], [sin, cos, 0.0]])
    }

    fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.0.map(|[a, b, c]| a * x + b * y + c)
    }

    /// Returns the map that does `first`, then `self`.
    fn after(&self, first: Self) -> Self {
        let [[a, b, c], [d, e, f]] = first.0;
        Self(self.0.map(|[x, y, z]| [x * a + y * d, x * b + y * e, x * c + y * f + z]))
    }
}

/// One channel of an image.
#[derive(Clone, Debug)]
struct Plane {
    height: usize,
    width: usize,
    values: Vec<f64>,
}

impl Plane {
    /// Computes a plane from a function of y and x.
    fn from_fn(height: usize, width: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..height * width).map(|i| value(i / width, i % width)).collect();
        Self { height, width, values }
    }

    fn at(&self, y: usize, x: usize) -> f64 {
        self.values[y * self.width + x]
    }

    /// Returns the value at a point between pixels; 0 outside.
    fn bilinear(&self, [x, y]: [f64; 2]) -> f64 {
        let (left, top) = (x.floor(), y.floor());
        let pixel = |y: f64, x: f64| {
            let inside = (0.0..self.height as f64).contains(&y) && (0.0..self.width as f64).contains(&x);
            if inside { self.at(y as usize, x as usize) } else { 0.0 }
        };
        let along = |y: f64| (1.0 - (x - left)) * pixel(y, left) + (x - left) * pixel(y, left + 1.0);
        (1.0 - (y - top)) * along(top) + (y - top) * along(top + 1.0)
    }

    fn transposed(&self) -> Self {
        Self::from_fn(self.width, self.height, |y, x| self.at(x, y))
    }

    /// Doubles the width.
    fn doubled(&self) -> Self {
        let pad = FILTER.len().div_ceil(2);
        Self::from_fn(self.height, 2 * self.width, |y, x| {
            let tap = |(k, weight): (usize, &f64)| {
                // Between two pixels is a 0.
                let position = (x + k).checked_sub(pad).filter(|p| p.is_multiple_of(2) && p / 2 < self.width);
                position.map_or(0.0, |p| weight * self.at(y, p / 2))
            };
            FILTER.iter().rev().enumerate().map(tap).sum()
        })
    }

    /// Halves the width, and leaves out the margin.
    fn halved(&self) -> Self {
        let pad = (FILTER.len() - 1) / 2;
        Self::from_fn(self.height, self.width / 2 - 2 * REACH, |y, x| {
            let tap = |(k, weight): (usize, &f64)| {
                let position = (2 * (x + REACH) + k).checked_sub(pad).filter(|&p| p < self.width);
                position.map_or(0.0, |p| weight * self.at(y, p))
            };
            FILTER.iter().enumerate().map(tap).sum()
        })
    }
}

/// Reflects a position into 0 … n−1 at the pixels on the edges. It must be less than n outside.
fn reflected(position: isize, n: usize) -> usize {
    let last = n as isize - 1;
    (if position < 0 {
        -position
    } else if position > last {
        2 * last - position
    } else {
        position
    }) as usize
}

/// Draws the image whose points `source` maps to those of `plane`, with twice the resolution.
fn warp(plane: &Plane, source: Affine) -> Plane {
    let Plane { height, width, .. } = *plane;
    // The margin that the corners reach, mirrored, as far as there are pixels.
    let center = [(width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0];
    let corners =
        [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]].map(|[x, y]| source.at([x * center[0], y * center[1]]));
    let margin = |axis: usize, sign: f64, n: usize| {
        let reach = corners.iter().map(|corner| sign * corner[axis]).fold(f64::NEG_INFINITY, f64::max);
        (reach + 2.0 * REACH as f64 - center[axis]).clamp(0.0, n as f64 - 1.0).ceil() as usize
    };
    let [left, top] = [margin(0, -1.0, width), margin(1, -1.0, height)];
    let [right, bottom] = [margin(0, 1.0, width), margin(1, 1.0, height)];
    let padded = Plane::from_fn(top + height + bottom, left + width + right, |y, x| {
        plane.at(reflected(y as isize - top as isize, height), reflected(x as isize - left as isize, width))
    });
    let large = padded.doubled().transposed().doubled().transposed();

    // From the centre of the plane with its margin, in pixels of twice the resolution, whose filter shifts by half of one.
    let shift = [(left as f64 - right as f64) / 2.0, (top as f64 - bottom as f64) / 2.0];
    let source = Affine([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]).after(source);
    let halves = |by: f64| Affine([[1.0, 0.0, by], [0.0, 1.0, by]]);
    let source = Affine::scale(2.0, 2.0).after(source).after(Affine::scale(0.5, 0.5));
    let source = halves(-0.5).after(source).after(halves(0.5));
    let (rows, columns) = (2 * (height + 2 * REACH), 2 * (width + 2 * REACH));
    let drawn = Plane::from_fn(rows, columns, |y, x| {
        let from_center = |i: usize, n: usize| i as f64 + 0.5 - n as f64 / 2.0;
        let [x, y] = source.at([from_center(x, columns), from_center(y, rows)]);
        large.bilinear([x + large.width as f64 / 2.0 - 0.5, y + large.height as f64 / 2.0 - 0.5])
    });
    drawn.halved().transposed().halved().transposed()
}
