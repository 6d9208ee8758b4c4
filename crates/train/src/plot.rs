//! Line charts as PNG files. The font is part of the binary.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use image::{ImageFormat, RgbImage, imageops};
use plotters::{
    coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    prelude::*,
};

/// An error of drawing or writing a chart.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The file cannot be written.
    #[error("cannot write the chart {path}: {error}", path = path.display())]
    Write {
        /// The chart's file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The chart cannot be drawn or encoded.
    #[error("cannot draw the chart {path}: {reason}", path = path.display())]
    Draw {
        /// The chart's file.
        path: PathBuf,
        /// The drawing library's error.
        reason: String,
    },
}

/// One line of a chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// The name in the legend; a line without a name is not in it.
    pub name: String,
    /// (step, value) in the order of steps. Points that cannot be drawn (not finite, or not positive on a logarithmic
    /// axis) are left out.
    pub points: Vec<(f64, f64)>,
}

/// The title and axes of a chart.
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// The title.
    pub title: &'a str,
    /// Name and unit of the horizontal axis.
    pub x: &'a str,
    /// Name and unit of the vertical axis.
    pub y: &'a str,
    /// Whether the vertical axis is logarithmic.
    pub log_y: bool,
    /// Whether to draw thick moving averages over thin lines, since the loss of a single batch says little.
    pub smooth: bool,
}

/// Draws a chart and writes it as a PNG of 960×540 pixels, completely or not at all.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn chart(path: &Path, chart: &Chart, series: &[Series]) -> Result<(), PlotError> {
    let fail = |reason: String| PlotError::Draw { path: path.to_owned(), reason };
    let picture = draw(chart, series).map_err(|e| fail(e.to_string()))?;
    let mut png = io::Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(|e| fail(e.to_string()))?;

    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, data::mark_png(png.into_inner())).and_then(|()| fs::rename(&partial, path)).map_err(|error| {
        let _ = fs::remove_file(&partial);
        PlotError::Write { path: path.to_owned(), error }
    })
}

const WIDTH: u32 = 960;
const HEIGHT: u32 = 540;
/// The chart is drawn this much larger and then reduced, since plotters does not antialias thick lines.
const SCALE: u32 = 3;

const FONT: &str = "Roboto";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
/// Okabe and Ito's colors, which can be distinguished with any kind of color vision.
const COLORS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

type DrawError = Box<dyn std::error::Error>;

fn draw(look: &Chart, series: &[Series]) -> Result<RgbImage, DrawError> {
    let Chart { title, log_y, .. } = *look;
    register_font()?;
    let lines: Vec<Series> = series.iter().map(|s| drawable(s, log_y)).collect();
    let points = || lines.iter().flat_map(|s| &s.points);
    let (left, right) = range(points().map(|p| p.0), 0.0);
    let (low, high) = range(points().map(|p| p.1), 0.05);
    let y_ticks = if log_y { log_ticks(low, high) } else { ticks(low, high, 7) };

    let (width, height) = (WIDTH * SCALE, HEIGHT * SCALE);
    let px = |n: u32| n * SCALE;
    let text = |size: u32| (FONT, px(size)).into_font().color(&INK);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    {
        let canvas = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        canvas.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&canvas)
            .caption(title, text(20))
            .margin(px(14))
            .margin_right(px(28))
            .x_label_area_size(px(46))
            .y_label_area_size(px(70))
            .build_cartesian_2d(
                Axis { low: left, high: right, ticks: ticks(left, right, 9) },
                Axis { low, high, ticks: y_ticks },
            )?;
        chart
            .configure_mesh()
            .axis_style(INK.stroke_width(SCALE))
            .bold_line_style(GRID.stroke_width(SCALE))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(px(4))
            .label_style(text(14))
            .axis_desc_style(text(15))
            .x_desc(look.x)
            .y_desc(look.y)
            .x_label_formatter(&|&x| count(x))
            .y_label_formatter(&|&y| number(if log_y { 10f64.powf(y) } else { y }))
            .draw()?;

        for (s, color) in lines.iter().zip(COLORS.iter().cycle()) {
            // A third of a pixel wide, so it looks light.
            chart.draw_series(LineSeries::new(extremes(&s.points), color.mix(0.8).stroke_width(1)))?;
        }
        for (s, color) in lines.iter().zip(COLORS.iter().cycle()) {
            // Segments with round joints: plotters draws sharp turns of a thick polyline as long spikes.
            let thick = color.stroke_width(2 * px(1) + 1);
            let smooth = if look.smooth { smooth(&s.points) } else { s.points.clone() };
            chart.draw_series(smooth.iter().map(|&p| Circle::new(p, px(1), color.filled())))?;
            let line = chart.draw_series(smooth.windows(2).map(|ends| PathElement::new(ends, thick)))?;
            if !s.name.is_empty() {
                line.label(&s.name).legend(move |(x, y)| PathElement::new([(x, y), (x + px(22) as i32, y)], thick));
            }
        }
        if lines.iter().any(|s| !s.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .legend_area_size(px(30))
                .margin(px(10))
                .label_font(text(14))
                .background_style(WHITE.mix(0.85))
                .border_style(GRID.stroke_width(SCALE))
                .draw()?;
        }
        canvas.present()?;
    }
    let large = RgbImage::from_raw(width, height, pixels).ok_or("the picture's buffer has a wrong size")?;
    Ok(imageops::thumbnail(&large, WIDTH, HEIGHT))
}

/// An axis with given ticks. Those of plotters are few and uneven on logarithmic axes of less than a decade.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        // Halved, so that the difference of any two finite numbers is finite.
        let share = (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        first + ((last - first) as f64 * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

fn register_font() -> Result<(), DrawError> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let bytes = include_bytes!("../assets/roboto/Roboto-Regular.ttf");
    let done = REGISTERED.get_or_init(|| plotters::style::register_font(FONT, FontStyle::Normal, bytes).is_ok());
    if *done { Ok(()) } else { Err("the built-in font is damaged".into()) }
}

/// Returns the points of a series that can be drawn, at their heights on the axis.
fn drawable(series: &Series, log_y: bool) -> Series {
    let height = |y: f64| if log_y { y.log10() } else { y };
    let points = series.points.iter().map(|&(x, y)| (x, height(y))).filter(|(x, y)| x.is_finite() && y.is_finite());
    Series { name: series.name.clone(), points: points.collect() }
}

/// Returns the lowest and the highest of every few points, if there are more than pixels show.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(WIDTH as usize / 4);
    if every < 3 {
        return points.to_vec();
    }
    let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let both = |few: &[(f64, f64)]| [few.iter().min_by(by_height).copied(), few.iter().max_by(by_height).copied()];
    points.chunks(every).flat_map(both).flatten().collect()
}

/// Returns an exponential moving average over about a fiftieth of the points on either side, in both directions so that the
/// line does not lag behind a falling loss. Long series are reduced to what pixels show.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    // (weighted sum, sum of the weights) of the points up to each one.
    let average = |heights: &mut dyn Iterator<Item = f64>| -> Vec<(f64, f64)> {
        let step = |state: &mut (f64, f64), y| {
            *state = (decay * state.0 + y, decay * state.1 + 1.0);
            Some(*state)
        };
        heights.scan((0.0, 0.0), step).collect()
    };
    let forward = average(&mut points.iter().map(|p| p.1));
    let backward = average(&mut points.iter().rev().map(|p| p.1));
    let both = forward.iter().zip(backward.iter().rev());
    let line = points.iter().zip(both).map(|(p, (f, b))| (p.0, (f.0 + b.0) / (f.1 + b.1)));
    let every = points.len().div_ceil(WIDTH as usize / 2).max(1);
    line.enumerate().filter(|(i, _)| i % every == 0 || i + 1 == points.len()).map(|(_, p)| p).collect()
}

/// Returns the minimum and maximum of values, extended by `margin` of their distance at both ends. The range is never
/// empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let half = (low / 2.0 - high / 2.0).abs().max(high.abs().max(low.abs()) * 1e-9);
    if half <= 1e-300 {
        return (low - 1.0, high + 1.0);
    }
    (low - 2.0 * half * margin, high + 2.0 * half * margin)
}

/// Returns round numbers between `low` and `high`, at most about `most` of them.
fn ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * decade);
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    if !step.is_normal() || last - first > 100.0 {
        return vec![low, high];
    }
    (0..=(last - first) as i64).map(|i| (first + i as f64) * step).collect()
}

/// Returns the base-10 logarithms of round numbers between `low` and `high`, which are logarithms too.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let few = ticks(10f64.powf(low), 10f64.powf(high), 7);
    match high - low {
        decades if decades < 0.7 => few.into_iter().filter(|v| *v > 0.0).map(f64::log10).collect(),
        decades if decades < 4.0 => {
            let mantissas: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0, 3.0] };
            let exponents = low.floor() as i32..=high.ceil() as i32;
            let all = exponents.flat_map(|e| mantissas.iter().map(move |m| e as f64 + m.log10()));
            all.filter(|t| (low..=high).contains(t)).collect()
        }
        _ => ticks(low, high, 8).into_iter().filter(|t| t.fract() == 0.0).collect(),
    }
}

/// Formats a number of steps: 500, 1.5k, 2M.
fn count(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => number(value / 1e6) + "M",
        v if v >= 1e3 => number(value / 1e3) + "k",
        _ => number(value),
    }
}

/// Formats a number in few characters, with an exponent if it would be long without.
fn number(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || !size.is_finite() {
        return format!("{value}").replace('-', "");
    }
    let exponent = size.log10().floor() as i32;
    if (-4..6).contains(&exponent) {
        let fixed = format!("{value:.*}", (4 - exponent).clamp(0, 8) as usize);
        if !fixed.contains('.') {
            return fixed;
        }
        return fixed.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let scientific = format!("{value:.3e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss_curve(path: &Path, title: &str, series: &[Series], log_y: bool) -> Result<(), PlotError> {
        chart(path, &Chart { title, x: "step", y: "loss", log_y, smooth: true }, series)
    }

    /// A typical training loss: a steep fall, a long tail, noise.
    fn series(name: &str, floor: f64, n: usize) -> Series {
        let noise = |i: usize| {
            (((i as u32).wrapping_mul(2654435761) >> 7).wrapping_mul(0x9e37_79b9) >> 16) as f64 / 65536.0 - 0.5
        };
        let point =
            |i: usize| (i as f64 * 10.0, (floor + (1.0 - floor) / (1.0 + i as f64 / 3.0)) * (1.0 + 0.5 * noise(i)));
        Series { name: name.into(), points: (0..n).map(point).collect() }
    }

    #[test]
    fn a_chart_is_a_png_with_the_colors_of_the_series_axes_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loss.png");
        loss_curve(&path, "fashion", &[series("train", 0.03, 200), series("held out", 0.06, 200)], true).unwrap();
        let picture = image::open(&path).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (WIDTH, HEIGHT));
        let pixels_of = |c: RGBColor| picture.pixels().filter(|p| p.0 == [c.0, c.1, c.2]).count();
        assert!(pixels_of(COLORS[0]) > 300 && pixels_of(COLORS[1]) > 300);
        assert!(pixels_of(INK) > 500, "axes");
        let dark_at = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            x.flat_map(|x| y.clone().map(move |y| (x, y))).filter(|&(x, y)| picture.get_pixel(x, y).0[1] < 128).count()
        };
        assert!(dark_at(300..660, 8..40) > 50, "title");
        assert!(dark_at(30..80, 60..470) > 100, "labels of the values");
        assert!(dark_at(90..950, 490..510) > 50, "labels of the steps");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn odd_series_are_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let odd: &[&[(f64, f64)]] = &[
            &[],
            &[(0.0, 1.0)],
            &[(5.0, 0.0), (6.0, 0.0)],
            &[(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 3.0), (3.0, -1.0)],
            &[(0.0, 1e-300), (1.0, 1e300)],
            &[(0.0, -f64::MAX), (f64::MAX, f64::MAX)],
            &[(1e9, 1.0), (1e9 + 1.0, 1.0 + 1e-12)],
        ];
        for points in odd {
            for log_y in [false, true] {
                let series = Series { name: "odd".into(), points: points.to_vec() };
                loss_curve(&dir.path().join("odd.png"), "", &[series], log_y).unwrap();
            }
        }
        loss_curve(&dir.path().join("none.png"), "nothing", &[], true).unwrap();
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let error = loss_curve(Path::new("/no/such/loss.png"), "", &[], false).unwrap_err();
        assert!(error.to_string().contains("/no/such/loss.png"), "{error}");
    }

    #[test]
    fn the_average_is_smooth_without_bias_or_lag() {
        assert!(smooth(&[(0.0, 3.0); 100]).iter().all(|p| (p.1 - 3.0).abs() < 1e-12));
        let noisy = series("", 0.1, 500).points;
        assert_eq!(smooth(&noisy).last().unwrap().0, noisy[499].0);
        let spread = |p: &[(f64, f64)]| p.windows(2).map(|w| (w[1].1 - w[0].1).abs()).sum::<f64>();
        assert!(spread(&smooth(&noisy)) < spread(&noisy) / 5.0);
        let straight: Vec<_> = (0..100).map(|i| (i as f64, -i as f64)).collect();
        assert!(smooth(&straight)[40..60].iter().all(|p| (p.0 + p.1).abs() < 1e-3), "no lag");
        let few = [(0.0, 1.0), (1.0, 5.0), (2.0, 2.0)];
        assert_eq!(smooth(&few), few);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 2000.0, 9), [0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(ticks(0.3, 1.04, 4), [0.4, 0.6000000000000001, 0.8, 1.0]);
        let powers = |low, high| log_ticks(low, high).iter().map(|t| number(10f64.powf(*t))).collect::<Vec<_>>();
        assert_eq!(powers(-2.0, 0.1), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(powers(-1.7, -1.4), ["0.02", "0.025", "0.03", "0.035"]);
        assert_eq!(powers(-9.0, 1.0), ["1e-8", "1e-6", "0.0001", "0.01", "1"]);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.0, -0.0, 1.0, 0.1 + 0.2, 1500.0, 123456.0, 1e6, 0.0001, 0.00001, -2.5, 1.25e-7];
        let expected = ["0", "0", "1", "0.3", "1500", "123456", "1e6", "0.0001", "1e-5", "-2.5", "1.25e-7"];
        assert_eq!(labels.map(number), expected);
        assert_eq!([0.0, 500.0, 1500.0, 20000.0, 2.4e6].map(count), ["0", "500", "1.5k", "20k", "2.4M"]);
    }
}
