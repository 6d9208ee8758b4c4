//! Points: the built-in ones have the density that they say, and files are read or refused by name.

use crate::common::{npz_of, put};
use ddpm_data::{
    BuiltinPoints, Dataset, Error, PointOptions, PointScaling, PointShape, ReadOptions, Reading, Split, points,
};
use std::path::Path;

fn options(points: PointOptions, split: Split) -> ReadOptions {
    ReadOptions { points: Some(points), split, ..ReadOptions::default() }
}

fn as_is() -> ReadOptions {
    options(PointOptions::AsIs, Split::Train)
}

/// The midpoints of a fine grid that covers every set, and the area of a cell.
fn grid(cells: usize) -> (Vec<[f64; 2]>, f64) {
    let half = 3.2;
    let unit = 2.0 * half / cells as f64;
    let place = |i: usize| (i as f64 + 0.5) * unit - half;
    ((0..cells * cells).map(|i| [place(i % cells), place(i / cells)]).collect(), unit * unit)
}

/// All shapes, with noise that a grid of the tests resolves.
fn sets() -> [BuiltinPoints; 6] {
    PointShape::ALL.map(|(_, shape, noise)| BuiltinPoints { noise: noise.max(0.1), ..BuiltinPoints::new(shape) })
}

/// The density against the points, which are drawn without it: its integral, the cross entropy of the points, and the share of
/// points in a disk.
#[test]
fn densities_are_those_of_the_points() {
    for set in sets() {
        let (cells, area) = grid(100);
        let logs: Vec<f64> = cells.iter().map(|&x| set.log_density(x).unwrap()).collect();
        let mass = area * logs.iter().map(|log| log.exp()).sum::<f64>();
        assert!((mass - 1.0).abs() < 2e-3, "{set}: ∫p = {mass}");
        let entropy = -area * logs.iter().map(|log| log.exp() * log.max(-100.0)).sum::<f64>();
        let n = 4000;
        let drawn: Vec<[f64; 2]> = (0..n).map(|i| set.point(Split::Test, i).0).collect();
        let each: Vec<f64> = drawn.iter().map(|&x| -set.log_density(x).unwrap()).collect();
        let mean = each.iter().sum::<f64>() / n as f64;
        let deviation = (each.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        let error = deviation / (n as f64).sqrt();
        assert!((mean - entropy).abs() < 4.0 * error + 3e-3, "{set}: {mean} ± {error}, ∫ {entropy}");
        let inside = |[x, y]: [f64; 2]| (x - 0.5).hypot(y - 0.4) < 0.9;
        let mass = cells.iter().zip(&logs).filter(|(x, _)| inside(**x)).map(|(_, log)| log.exp());
        let expected = area * mass.sum::<f64>();
        let found = drawn.iter().filter(|&&x| inside(x)).count() as f64 / n as f64;
        assert!((found - expected).abs() < 0.03, "{set}: {found} {expected}");
    }
}

/// Classes are equally probable.
#[test]
fn the_density_is_the_mean_of_those_of_the_classes() {
    for set in sets() {
        let (x, classes) = ([0.7, -0.4], set.shape.classes());
        let given = |class: usize| set.log_density_given(x, class).map(f64::exp);
        assert_eq!(given(classes), None, "{set}");
        let mean = (0..classes).map(|class| given(class).unwrap()).sum::<f64>() / classes.max(1) as f64;
        let density = set.log_density(x).unwrap().exp();
        assert!(classes == 0 || (mean - density).abs() < 1e-9 * density.max(1e-6), "{set}: {mean} {density}");
    }
}

#[test]
fn points_have_mean_0_and_variance_1() {
    for (_, shape, _) in PointShape::ALL {
        let noisy = BuiltinPoints { noise: 0.4, ..BuiltinPoints::new(shape) };
        for set in [BuiltinPoints::new(shape), noisy] {
            let n = 20_000;
            let (mut mean, mut square) = ([0.0; 2], 0.0);
            for i in 0..n {
                let [x, y] = set.point(Split::Train, i).0;
                mean = [mean[0] + x, mean[1] + y];
                square += 0.5 * (x * x + y * y);
            }
            let n = n as f64;
            assert!(mean.iter().all(|sum| (sum / n).abs() < 0.03), "{set}: {mean:?}");
            assert!((square / n - 1.0).abs() < 0.03, "{set}: {}", square / n);
        }
    }
}

/// In closed form: the eight normal distributions, and a board without noise.
#[test]
fn closed_forms() {
    let set = BuiltinPoints { noise: 0.2, ..BuiltinPoints::new(PointShape::Gaussians8) };
    let (x, variance, radius) = ([0.9, -0.3], 0.04f64, (2.0f64 * 0.96).sqrt());
    let normal = |k: usize| {
        let (sin, cos) = (std::f64::consts::FRAC_PI_4 * k as f64).sin_cos();
        let square = (x[0] - radius * cos).powi(2) + (x[1] - radius * sin).powi(2);
        (-0.5 * square / variance).exp() / (2.0 * std::f64::consts::PI * variance)
    };
    let expected = (0..8).map(normal).sum::<f64>() / 8.0;
    assert!((set.log_density(x).unwrap() - expected.ln()).abs() < 1e-12);
    let board = BuiltinPoints::new(PointShape::Checkerboard);
    // A side of a square is √(3/4).
    assert!((board.log_density([0.1, 0.1]).unwrap() + 6.0f64.ln()).abs() < 1e-12);
    assert_eq!(board.log_density([-0.1, 0.1]).unwrap(), f64::NEG_INFINITY);
    let line = BuiltinPoints { noise: 0.0, ..BuiltinPoints::new(PointShape::SwissRoll) };
    assert_eq!(line.log_density([0.0, 0.0]), None);
}

#[test]
fn a_point_depends_on_seed_part_and_number() {
    let set: BuiltinPoints = "pinwheel,seed=3".parse().unwrap();
    let other = BuiltinPoints { seed: 4, ..set };
    assert_eq!(set.point(Split::Train, 7), set.point(Split::Train, 7));
    assert_ne!(set.point(Split::Train, 7).0, set.point(Split::Test, 7).0);
    assert_ne!(set.point(Split::Train, 7).0, set.point(Split::Train, 8).0);
    assert_ne!(set.point(Split::Train, 7).0, other.point(Split::Train, 7).0);
    let train = Dataset::Points(set).open(&as_is()).unwrap();
    let [x, y] = set.point(Split::Train, 7).0.map(|x| x as f32);
    assert_eq!((train.len(), train.shape()), (50_000, [1, 1, 2]));
    assert_eq!(train.read_points(&[7]).unwrap(), [x, y]);
    assert_eq!(train.labels().unwrap()[7] as usize, set.point(Split::Train, 7).1);
    let held_out = Dataset::Points(set).open(&options(PointOptions::AsIs, Split::Test)).unwrap();
    assert_eq!(held_out.len(), 10_000);
}

#[test]
fn names_have_noise_and_seed() {
    for text in ["swissroll", "moons,noise=0.25", "spirals,noise=0.01,seed=9"] {
        assert_eq!(text.parse::<BuiltinPoints>().unwrap().to_string(), text);
    }
    for text in ["roll", "moons,noise=1", "moons,noise=nan", "moons,sigma=1", "moons,seed=-1", ""] {
        assert!(text.parse::<BuiltinPoints>().is_err(), "{text}");
    }
    assert!("roll".parse::<BuiltinPoints>().unwrap_err().contains("swissroll, moons"));
}

#[test]
fn files_are_read_with_their_held_out_part() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0];
    put(&at("a.npy"), &points::npy(2, &values, true));
    put(&at("a.csv"), points::csv(2, &values, Some(&[0, 1, 0])).as_bytes());
    put(&at("both/train.csv"), b"1,2\n3,4\n5,9\n");
    put(&at("both/test.npy"), &points::npy(2, &[3.0, 5.0], false));
    for name in ["a.npy", "a.csv", "both"] {
        let set = ddpm_data::open(&at(name), &as_is()).unwrap();
        assert_eq!((set.len(), set.shape()), (3, [1, 1, 2]), "{name}");
        assert_eq!(set.read_points(&[2, 0]).unwrap(), [5.0, 9.0, 1.0, 2.0], "{name}");
    }
    assert_eq!(ddpm_data::open(&at("a.csv"), &as_is()).unwrap().labels().unwrap(), [0, 1, 0]);
    let standard = |split| ddpm_data::open(&at("both"), &options(PointOptions::Standardize, split)).unwrap();
    let (train, test) = (standard(Split::Train), standard(Split::Test));
    // Means 3 and 5, variances 8/3 and 26/3.
    let scaling = PointScaling { mean: vec![3.0, 5.0], scale: vec![(8.0f64 / 3.0).sqrt(), (26.0f64 / 3.0).sqrt()] };
    for set in [&train, &test] {
        let found = set.points().unwrap();
        assert!(found.mean.iter().zip(&scaling.mean).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(found.scale.iter().zip(&scaling.scale).all(|(a, b)| (a - b).abs() < 1e-12));
    }
    assert_eq!(test.read_points(&[0]).unwrap(), [0.0, 0.0]);
    let back = train.points().unwrap().undo(&train.read_points(&[0, 1, 2]).unwrap());
    assert!(back.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-6), "{back:?}");
    let log_scale = 0.5 * (scaling.scale[0].ln() + scaling.scale[1].ln());
    assert!((train.points().unwrap().log_scale() - log_scale).abs() < 1e-12);
    let missing = ddpm_data::open(&at("a.npy"), &options(PointOptions::AsIs, Split::Test));
    assert!(matches!(missing, Err(Error::NoHeldOut { .. })));
    let reading = Reading::new(&train, &options(PointOptions::Standardize, Split::Train)).to_string();
    assert_eq!(reading, "both (training part), 3 points of 2 dimensions, standardized");
}

#[test]
fn arrays_of_an_npz_are_read_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let out = std::fs::File::create(&path).unwrap();
    let arrays: [(&str, &[usize], &[f64]); 3] =
        [("x_train", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), ("y_train", &[2], &[1.0, 0.0]), ("x_test", &[1, 2], &[5.0, 6.0])];
    ddpm_data::write_npz_arrays(out, &arrays).unwrap();
    let train = ddpm_data::open(&path, &as_is()).unwrap();
    assert_eq!((train.read_points(&[0, 1]).unwrap(), train.labels().unwrap()), (vec![1.0, 2.0, 3.0, 4.0], &[1, 0][..]));
    let test = ddpm_data::open(&path, &options(PointOptions::AsIs, Split::Test)).unwrap();
    assert_eq!(test.read_points(&[0]).unwrap(), [5.0, 6.0]);
}

fn error(path: &Path, options: &ReadOptions) -> String {
    match ddpm_data::open(path, options) {
        Err(error) => error.to_string(),
        Ok(set) => panic!("{}", set.describe()),
    }
}

#[test]
fn hostile_files_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let npy = |shape: &str, bytes: &[u8]| {
        let text = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), bytes].concat()
    };
    let nan = [1f64.to_le_bytes(), f64::NAN.to_le_bytes()].concat();
    let huge = [1f64.to_le_bytes(), 1e300f64.to_le_bytes()].concat();
    for (name, bytes, expected) in [
        ("claims.npy", npy("(1000000000, 2)", &[0; 16]), "truncated"),
        ("overflow.npy", npy("(9999999999999999999, 2)", &[0; 16]), "more than can exist"),
        ("product.npy", npy("(4294967296, 4294967296, 2)", &[0; 16]), "more than can exist"),
        ("wide.npy", npy("(1, 70000)", &vec![0; 560_000]), "70000 dimensions"),
        ("cube.npy", npy("(1, 1, 2)", &[0; 16]), "expected N,D"),
        ("none.npy", npy("(0, 2)", &[]), "has no points"),
        ("nan.npy", npy("(1, 2)", &nan), "point 0 has NaN in dimension 1"),
        ("huge.npy", npy("(1, 2)", &huge), "fit into f32"),
        ("magic.npy", b"not numpy at all".to_vec(), "magic"),
        ("text.csv", b"1,2\nx,4\n".to_vec(), "row 2, column 1"),
        ("binary.csv", vec![0xff; 100], "comma-separated"),
        ("other.parquet", b"PAR1".to_vec(), "has no points; expected an .npy"),
        ("images.npz", npz_of("arr_0", "|u1", "(1, 2, 2, 3)", false, &[0; 12], false), "expected N,D"),
        ("bomb.npz", npz_of("arr_0", "<f8", "(12500000, 1)", false, &vec![0; 100_000_000], true), "expands"),
        ("names.npz", npz_of("weights", "<f8", "(1, 2)", false, &[0; 16], false), "has no array arr_0"),
        ("lfs.csv", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS"),
    ] {
        let path = put(&at(name), &bytes);
        let error = error(&path, &as_is());
        assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
    }
    let constant = put(&at("constant.csv"), b"1,2\n1,3\n");
    assert!(
        error(&constant, &options(PointOptions::Standardize, Split::Train)).contains("dimension 0 has the deviation 0")
    );
    let scaled = options(PointOptions::Scaled(PointScaling::identity(3)), Split::Train);
    assert!(error(&constant, &scaled).contains("points of 2 dimensions; the network takes 3"));
    assert!(error(&at("absent.csv"), &as_is()).contains("absent.csv"));
}

#[test]
fn points_are_no_images_and_images_are_no_points() {
    let set = Dataset::Points("moons".parse().unwrap()).open(&as_is()).unwrap();
    for error in [
        set.read([0]).unwrap_err(),
        Dataset::Points("moons".parse().unwrap()).open(&ReadOptions::default()).err().unwrap(),
        set.read_into(&[0], &mut [0; 2]).unwrap_err(),
    ] {
        assert!(error.to_string().contains("moons has points"), "{error}");
    }
    let error = Dataset::Builtin.open(&as_is()).err().unwrap().to_string();
    assert!(error.contains("are not points") && error.contains("swissroll"), "{error}");
    let images = Dataset::Builtin.open(&ReadOptions::default()).unwrap();
    assert!(images.read_points(&[0]).unwrap_err().to_string().contains("has images"));
    assert_eq!(images.points(), None);
}
