//! Scatter plots of points, drawn without a plotting library: pictures for the writers of grids and animations.

use model::Images;

/// Colors by class: Okabe and Ito's, which can be distinguished with any kind of color vision.
const COLORS: [[f32; 3]; 7] = [
    [0.0, 114.0, 178.0],
    [213.0, 94.0, 0.0],
    [0.0, 158.0, 115.0],
    [204.0, 121.0, 167.0],
    [230.0, 159.0, 0.0],
    [86.0, 180.0, 233.0],
    [90.0, 90.0, 90.0],
];
/// The opacity of a dot, so that density shows.
const OPACITY: f32 = 0.6;

/// Points `[N, D]` in the units of their data, with an optional label for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointCloud {
    /// D.
    pub dims: usize,
    /// N·D numbers, point by point.
    pub values: Vec<f64>,
    /// A label for each point.
    pub labels: Option<Vec<u32>>,
}

impl PointCloud {
    /// Returns the place of each point in a plane: its first two dimensions, or for one dimension this and an even spread.
    pub fn plane(&self) -> Vec<[f64; 2]> {
        let golden = 0.618_033_988_749_895;
        let place = |(i, point): (usize, &[f64])| match point {
            [x] => [*x, (golden * i as f64).fract() - 0.5],
            [x, y, ..] => [*x, *y],
            [] => [0.0; 2],
        };
        self.values.chunks_exact(self.dims.max(1)).enumerate().map(place).collect()
    }
}

/// The part of the plane that a picture shows: a square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// The center.
    pub center: [f64; 2],
    /// Half the length of a side.
    pub half: f64,
}

impl View {
    /// Returns the square that shows all clouds but a few points far outside.
    pub fn of<'a>(clouds: impl IntoIterator<Item = &'a PointCloud>) -> Self {
        let points: Vec<[f64; 2]> = clouds.into_iter().flat_map(PointCloud::plane).collect();
        let range = |axis: usize| {
            let mut values: Vec<f64> = points.iter().map(|point| point[axis]).filter(|x| x.is_finite()).collect();
            values.sort_by(f64::total_cmp);
            let rank =
                |share: f64| values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied();
            (rank(0.001).unwrap_or(-1.0), rank(0.999).unwrap_or(1.0))
        };
        let ((left, right), (low, high)) = (range(0), range(1));
        let half = 0.54 * (right - left).max(high - low).max(1e-9);
        Self { center: [0.5 * (left + right), 0.5 * (low + high)], half }
    }

    /// Returns the point at a place of a picture: column and row in pixels from the top left corner of `side`.
    pub fn at(&self, column: f64, row: f64, side: usize) -> [f64; 2] {
        let unit = 2.0 * self.half / side as f64;
        [self.center[0] - self.half + unit * column, self.center[1] + self.half - unit * row]
    }
}

/// A square picture in RGB.
#[derive(Clone, Debug)]
pub struct Canvas {
    view: View,
    side: usize,
    pixels: Vec<f32>,
}

impl Canvas {
    /// Creates a white picture of `side` pixels.
    pub fn new(view: View, side: usize) -> Self {
        Self { view, side, pixels: vec![255.0; 3 * side * side] }
    }

    /// Gives each pixel the color of its center, 0 to 255.
    pub fn fill(&mut self, color: impl Fn([f64; 2]) -> [f32; 3]) {
        for row in 0..self.side {
            for column in 0..self.side {
                let at = self.view.at(column as f64 + 0.5, row as f64 + 0.5, self.side);
                self.pixels[3 * (row * self.side + column)..][..3].copy_from_slice(&color(at));
            }
        }
    }

    /// Returns column and row of a point.
    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let View { center, half } = self.view;
        let scale = self.side as f64 / (2.0 * half);
        [(x - center[0] + half) * scale, (center[1] + half - y) * scale]
    }

    /// Draws a disk of `radius` pixels.
    pub fn dot(&mut self, point: [f64; 2], radius: f64, color: [f32; 3], opacity: f32) {
        let [x, y] = self.place(point);
        if !(x.is_finite() && y.is_finite()) {
            return;
        }
        let (side, reach) = (self.side as f64, radius + 0.5);
        let range =
            |z: f64| (z - reach).floor().clamp(0.0, side) as usize..(z + reach).ceil().clamp(0.0, side) as usize;
        for row in range(y) {
            for column in range(x) {
                let distance = (column as f64 + 0.5 - x).hypot(row as f64 + 0.5 - y);
                let cover = opacity * (reach - distance).clamp(0.0, 1.0) as f32;
                let pixel = &mut self.pixels[3 * (row * self.side + column)..][..3];
                pixel.iter_mut().zip(color).for_each(|(old, new)| *old += cover * (new - *old));
            }
        }
    }

    /// Draws a line of about one pixel.
    pub fn line(&mut self, from: [f64; 2], to: [f64; 2], color: [f32; 3], opacity: f32) {
        let ([x0, y0], [x1, y1]) = (self.place(from), self.place(to));
        let length = (x1 - x0).hypot(y1 - y0);
        if !length.is_finite() || length > 4.0 * self.side as f64 {
            return;
        }
        let steps = length.ceil().max(1.0) as usize;
        for step in 0..steps {
            let share = (step as f64 + 0.5) / steps as f64;
            self.dot([from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])], 0.4, color, opacity);
        }
    }

    /// Draws the points of a cloud, each in the color of its class.
    pub fn scatter(&mut self, cloud: &PointCloud) {
        let radius = if cloud.values.len() / cloud.dims.max(1) > 500 { 0.7 } else { 1.5 };
        for (i, point) in cloud.plane().into_iter().enumerate() {
            let class = cloud.labels.as_ref().map_or(0, |labels| labels[i] as usize);
            self.dot(point, radius, color(class), OPACITY);
        }
    }

    /// Returns the picture, `[1,side,side,3]`.
    pub fn into_picture(self) -> Images {
        let side = self.side;
        Images::new([1, side, side, 3], self.pixels.into_iter().map(|x| x.round() / 127.5 - 1.0).collect())
    }
}

/// Returns the color of a class.
pub fn color(class: usize) -> [f32; 3] {
    COLORS[class % COLORS.len()]
}

/// Returns a scatter plot of a cloud.
pub fn scatter(cloud: &PointCloud, view: View, side: usize) -> Images {
    let mut canvas = Canvas::new(view, side);
    canvas.scatter(cloud);
    canvas.into_picture()
}

/// Returns pictures of the same side in one row, with a grey line between them.
///
/// # Panics
/// If there are none, or their sides differ.
pub fn side_by_side(pictures: &[Images]) -> Images {
    let (side, count) = (pictures[0].height, pictures.len());
    let width = count * side + count - 1;
    let mut pixels = vec![0.6; side * width * 3];
    for (i, picture) in pictures.iter().enumerate() {
        assert_eq!([picture.height, picture.width], [side, side], "the pictures differ in size");
        for (row, from) in picture.pixels.chunks_exact(3 * side).enumerate() {
            pixels[3 * (row * width + i * (side + 1))..][..3 * side].copy_from_slice(from);
        }
    }
    Images::new([1, side, width, 3], pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(values: &[f64]) -> PointCloud {
        PointCloud { dims: 2, values: values.to_vec(), labels: None }
    }

    #[test]
    fn a_point_is_where_the_view_says() {
        let view = View { center: [1.0, -2.0], half: 4.0 };
        assert_eq!(view.at(0.0, 0.0, 8), [-3.0, 2.0]);
        assert_eq!(view.at(8.0, 8.0, 8), [5.0, -6.0]);
        let mut canvas = Canvas::new(view, 8);
        canvas.dot([2.5, 0.5], 0.5, [0.0; 3], 1.0);
        let picture = canvas.into_picture();
        // Column 5.5 of 8 and row 1.5 from the top: a pixel's center.
        let darkest = (0..64).min_by(|&a, &b| picture.pixels[3 * a].total_cmp(&picture.pixels[3 * b])).unwrap();
        assert_eq!((darkest / 8, darkest % 8), (1, 5));
    }

    #[test]
    fn a_view_shows_the_points_and_no_number_breaks_a_picture() {
        let points = cloud(&[0.0, 0.0, 10.0, 2.0]);
        let View { center, half } = View::of([&points]);
        assert_eq!(center, [5.0, 1.0]);
        assert!(half > 5.0 && half < 6.0);
        for values in [vec![], vec![f64::NAN, 1.0], vec![1e300, -1e300], vec![3.0, 3.0]] {
            let cloud = cloud(&values);
            let picture = scatter(&cloud, View::of([&cloud]), 8);
            assert!(picture.pixels.iter().all(|x| x.is_finite()), "{values:?}");
        }
    }

    #[test]
    fn pictures_stand_side_by_side() {
        let view = View { center: [0.0; 2], half: 1.0 };
        let row = side_by_side(&[scatter(&cloud(&[]), view, 4), scatter(&cloud(&[0.0, 0.0]), view, 4)]);
        assert_eq!(row.shape(), [1, 4, 9, 3]);
        assert!(row.pixels[..12].iter().all(|&x| x == 1.0) && row.pixels[12..15].iter().all(|&x| x < 0.9));
    }
}
