//! Models of points: every command works with them, or refuses by name.

use std::fs;

use crate::common::{Place, fails, json, mistaken, names};

/// The keys of a tiny run of points.
const TINY: [&str; 12] = [
    "train.lr_schedule=constant",
    "model.hidden=16",
    "model.blocks=1",
    "model.input_frequencies=1",
    "diffusion.timesteps=20",
    "train.batch_size=32",
    "train.log_every=5",
    "train.checkpoint_every=10",
    "train.sample_every=20",
    "train.samples=20",
    "train.evaluate_every=20",
    "train.evaluate_images=8",
];

fn train(place: &Place, preset: &str, steps: usize, more: &[&str]) -> assert_cmd::Command {
    let mut command = place.ddpm(&["train", "--preset", preset, "-o", preset]);
    command
        .args(TINY.iter().flat_map(|set| ["--set", set]))
        .args(["--set", &format!("train.steps={steps}")])
        .args(more);
    command
}

fn trained(place: &Place, preset: &str, steps: usize, more: &[&str]) {
    train(place, preset, steps, more).arg("--quiet").assert().success().stdout("").stderr("");
}

#[test]
fn a_run_of_points_is_resumed_sampled_evaluated_inspected_and_exported() {
    let place = Place::new();
    trained(&place, "swissroll", 20, &[]);
    assert!(names(&place.path("swissroll/samples")).iter().any(|name| name == "chain.apng"));
    place.ddpm(&["train", "-o", "swissroll", "--resume", "--set", "train.steps=30", "-q"]).assert().success();
    // Resumed at step 20, it is the run that was never interrupted.
    let whole = Place::new();
    trained(&whole, "swissroll", 30, &[]);
    assert_eq!(place.weights("swissroll", 30), whole.weights("swissroll", 30));

    let sampled = |out: &str| place.ddpm(&["sample", "swissroll", "-n", "6", "-q", "-o", out]);
    for out in ["a.npy", "a.csv", "a.npz", "a.png", "a.apng", "a.gif"] {
        sampled(out).assert().success();
        assert!(place.path(out).metadata().unwrap().len() > 60, "{out}");
    }
    let csv = fs::read_to_string(place.path("a.csv")).unwrap();
    let rows: Vec<f32> = csv.lines().skip(1).flat_map(|row| row.split(',').map(|x| x.parse().unwrap())).collect();
    let npy = fs::read(place.path("a.npy")).unwrap();
    let values: Vec<f32> = npy[npy.len() - 48..].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!((csv.lines().next(), rows), (Some("x0,x1"), values));
    // The batch size changes no sample.
    place.ddpm(&["sample", "swissroll", "-n", "6", "--batch-size", "4", "-q", "-o", "b.npy"]).assert().success();
    assert_eq!(fs::read(place.path("b.npy")).unwrap(), npy);
    for sampler in ["ddim", "dpmpp-2m", "unipc-2", "heun"] {
        let out = format!("{sampler}.csv");
        let arguments = ["sample", "swissroll", "-n", "2", "--sampler", sampler, "--steps", "5", "-q", "-o", &out];
        place.ddpm(&arguments).assert().success();
    }

    let report = json(place.ddpm(&[
        "evaluate",
        "swissroll",
        "--metrics",
        "nll,ode",
        "-n",
        "16",
        "--ode-steps",
        "4",
        "--probes",
        "exact",
        "--schedule",
        "--lengths",
        "4",
    ]));
    for metric in ["nll", "ode"] {
        let [point, dim] = ["bits_per_point", "bits_per_dim"].map(|key| report[metric][key].as_f64().unwrap());
        assert!((point - 2.0 * dim).abs() < 1e-9, "{report}");
    }
    assert_eq!((&report["data"]["set"], &report["data"]["points"]), (&"swissroll".into(), &"as-is".into()));
    place.ddpm(&["evaluate", "swissroll", "-n", "4", "--data", "builtin:swissroll,seed=5"]).assert().success();
    let report = json(place.ddpm(&["inspect", "swissroll"]));
    assert_eq!(
        report["network"]["config"]["_class_name"].as_str().or(report["config"]["_class_name"].as_str()),
        Some("Mlp"),
        "{report}"
    );
    place.ddpm(&["export", "swissroll", "-o", "exported", "-q"]).assert().success();
    place.ddpm(&["sample", "exported", "-n", "6", "-q", "-o", "d.npy", "--sampler", "ddpm"]).assert().success();
    assert_eq!(fs::read(place.path("d.npy")).unwrap(), npy);
    for (kind, out) in
        [("chain", "chain.apng"), ("score", "score.png"), ("score", "score.gif"), ("trajectories", "paths.png")]
    {
        place.ddpm(&["picture", "swissroll", kind, "-n", "5", "-o", out, "-q"]).assert().success();
        assert!(place.path(out).exists());
    }
}

#[test]
fn points_of_a_file_are_standardized_and_come_back_in_their_units() {
    let place = Place::new();
    let rows = |first: usize| {
        (first..first + 40)
            .map(|i| format!("{},{},{}\n", 1000 + i % 7, 0.01 * (i % 5) as f64, i % 3))
            .collect::<String>()
    };
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/train.csv"), format!("a,b,c\n{}", rows(0))).unwrap();
    fs::write(place.path("mine/test.csv"), format!("a,b,c\n{}", rows(3))).unwrap();
    let output = train(&place, "swissroll", 20, &["--data", "mine"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("data.channels=3 data.standardize=true"), "{said}");
    assert!(said.contains("40 points of 3 dimensions, standardized"), "{said}");
    place.ddpm(&["sample", "swissroll", "-n", "50", "-q", "-o", "a.csv"]).assert().success();
    let text = fs::read_to_string(place.path("a.csv")).unwrap();
    let first = |row: &str| row.split(',').next().unwrap().parse::<f64>().unwrap();
    let mean = text.lines().skip(1).map(first).sum::<f64>() / 50.0;
    assert!((mean - 1003.0).abs() < 10.0, "{mean}");
    // A density in units that are a thousand times as small has log₂ 1000 more bits for each dimension.
    let bits = |run: &str| json(place.ddpm(&["evaluate", run, "-n", "0"]))["nll"]["bits_per_point"].as_f64().unwrap();
    let own = bits("swissroll");
    let file = place.path("swissroll/checkpoints/000000020/preprocessing.json");
    let text: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(text["points"]["mean"].as_array().unwrap().len(), 3);
    assert!(own.is_finite());
    // Without a held-out part, the run says so.
    fs::remove_file(place.path("mine/test.csv")).unwrap();
    let output = place.ddpm(&["evaluate", "swissroll", "-n", "4"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("no held-out part"));
}

#[test]
fn classes_of_points_condition_samples() {
    let place = Place::new();
    trained(&place, "moons", 20, &[]);
    place
        .ddpm(&["sample", "moons", "-n", "4", "--labels", "1", "--guidance", "2", "-q", "-o", "a.csv"])
        .assert()
        .success();
    let text = fs::read_to_string(place.path("a.csv")).unwrap();
    assert!(text.starts_with("x0,x1,label\n") && text.lines().skip(1).all(|row| row.ends_with(",1")), "{text}");
    place.ddpm(&["evaluate", "moons", "-n", "4"]).assert().success();
}

#[test]
fn what_is_about_images_is_refused_by_name() {
    let place = Place::new();
    trained(&place, "swissroll", 20, &[]);
    place.trained("images", 4, &[]);
    fs::write(place.path("points.csv"), "1,2\n3,4\n").unwrap();
    image::save_buffer(place.path("a.png"), &[7; 64], 8, 8, image::ColorType::L8).unwrap();

    // Points for a network of images, and images for one of points.
    fails(place.ddpm(&["evaluate", "images", "--data", "builtin:moons"]), 1, &["moons has points", "images alone"]);
    fails(place.ddpm(&["evaluate", "images", "--data", "points.csv"]), 1, &["points.csv"]);
    fails(place.ddpm(&["evaluate", "swissroll", "--data", "builtin"]), 1, &["not points", "builtin:NAME"]);
    fails(place.ddpm(&["evaluate", "swissroll", "--data", "train-images-idx3-ubyte"]), 1, &["has no points", ".npy"]);
    fails(place.ddpm(&["train", "--data", "builtin:moons", "-o", "x"]), 2, &["data.points", "model.class=Mlp"]);
    fails(
        place.ddpm(&["train", "--preset", "swissroll", "--data", "builtin", "-o", "x"]),
        2,
        &["data.path", "no points"],
    );
    fails(
        place.ddpm(&["train", "--preset", "swissroll", "--data", "a.png", "-o", "x"]),
        1,
        &["a.png", "has no points"],
    );
    fs::write(place.path("constant.csv"), "1,2\n1,3\n").unwrap();
    let constant = ["train", "--preset", "swissroll", "--data", "constant.csv", "-o", "x"];
    for command in [place.ddpm(&constant), place.ddpm(&[&constant[..], &["--dry-run"]].concat())] {
        fails(command, 1, &["constant.csv", "dimension 0", "data.standardize=false"]);
    }
    fails(place.ddpm(&["picture", "images", "score", "-o", "b.png"]), 1, &["model of images"]);
    fails(place.ddpm(&["sample", "images", "-n", "1", "-o", "b.csv"]), 1, &["models of points"]);

    for (arguments, words) in [
        (&["inpaint", "swissroll", "a.png", "a.png", "-o", "b.png"][..], &["points"][..]),
        (&["interpolate", "swissroll", "a.png", "a.png", "-o", "b.png"], &["points"]),
        (&["invert", "swissroll", "a.png", "-o", "b.safetensors"], &["points"]),
        (&["sample", "swissroll", "-o", "folder/"], &["folder of images"]),
        (&["sample", "swissroll", "-o", "b.safetensors"], &[".safetensors"]),
        (&["sample", "swissroll", "--clip-sample", "true", "-o", "b.csv"], &["--clip-sample", "points"]),
        (&["sample", "swissroll", "--sheet", "s.png", "-o", "b.csv"], &["--sheet"]),
        (&["sample", "swissroll", "--size", "8", "-o", "b.csv"], &["points"]),
        (&["sample", "swissroll", "--from", "a.png", "--at", "5", "-o", "b.csv"], &["points"]),
        (&["evaluate", "swissroll", "--fit", "pad"], &["--fit", "points"]),
        (&["evaluate", "swissroll", "--clip-sample", "true"], &["points"]),
        (&["evaluate", "swissroll", "--metrics", "nearest"], &["points"]),
        (&["evaluate", "swissroll", "--plot", "p.png"], &["--plot", "points"]),
    ] {
        fails(place.ddpm(arguments), 1, words);
    }
    for set in [
        "data.flip=true",
        "data.fit=pad",
        "data.crop=[0,0,1,1]",
        "data.range=[0,1]",
        "data.augment=0.1",
        "data.resolution=8",
        "sample.clip_sample=true",
        "data.path=points.csv",
        "data.channels=3",
        "train.evaluate_features=f.safetensors",
    ] {
        let key = set.split('=').next().unwrap();
        let key = if key == "data.path" { "data.points" } else { key };
        fails(place.ddpm(&["train", "--preset", "swissroll", "-o", "x", "--set", set]), 2, &[key]);
    }
    mistaken(place.ddpm(&["train", "--preset", "swissroll", "--data", "builtin:roll"]), &["swissroll, moons"]);
    assert!(!place.path("x").exists());
}
