//! Tables of sample quality.

use ddpm::evaluate::quality::{
    DistanceReport, InceptionScoreReport, Manifold, ManifoldReport, Memorization, QualityReport,
};

pub fn print(report: &QualityReport) {
    for (name, distance) in &report.distances {
        print_distance(name, distance);
    }
    if let Some(InceptionScoreReport { score, real }) = &report.inception_score {
        let real = real.map(|real| format!("   real images {real:.3}")).unwrap_or_default();
        println!("{:<24} {:.3} ± {:.3} ({} samples){real}", "IS", score.value, score.deviation, score.samples);
    }
    if let Some(manifold) = &report.manifold {
        print_manifold(manifold);
    }
    for (space, found) in &report.nearest {
        let Memorization { value, copies, median, unseen_median, samples, unseen, held_out } = found;
        let others = if *held_out { "held-out images" } else { "other training images" };
        println!("nearest in {space:<13} {value:.4} nearer to training images than {others} are (½ if alike)");
        println!("{:<24} {copies:.4} nearer than all but 1 % of {others} (.01 if alike)", "");
        println!("{:<24} medians {median:.4} ({samples} samples) and {unseen_median:.4} ({unseen} {others})", "");
    }
}

fn print_distance(name: &str, distance: &DistanceReport) {
    let DistanceReport { value, standard_error, samples, features, floor, floor_samples } = distance;
    let error = standard_error.map(|error| format!(" ± {error:.5}")).unwrap_or_default();
    let digits = if standard_error.is_some() { 5 } else { 3 };
    let floor = match (floor, floor_samples) {
        (Some(floor), Some(n)) => format!("   real vs. real {floor:.digits$} ({n} images)"),
        _ => String::new(),
    };
    // FID and KID are names for the features of Inception-v3 only.
    let name = match name {
        "fd" => format!("FD ({features})"),
        "kd" => format!("KD ({features})"),
        "sfid" => "sFID".into(),
        name => name.to_uppercase(),
    };
    println!("{name:<24} {value:.digits$}{error} ({samples} samples){floor}");
}

fn print_manifold(ManifoldReport { manifold, floor }: &ManifoldReport) {
    let values = |m: &Manifold| [m.precision, m.recall, m.density, m.coverage];
    let names = ["precision", "recall", "density", "coverage"];
    for ((name, value), real) in names.into_iter().zip(values(manifold)).zip(values(floor)) {
        let (samples, images) = (manifold.samples, floor.samples);
        println!("{name:<24} {value:.4} ({samples} samples)   real vs. real {real:.4} ({images} images)");
    }
}
