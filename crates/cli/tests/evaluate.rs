//! `ddpm evaluate`, `ddpm interpolate`, and the samplers of few steps, as a user calls them.

use crate::common::*;
use predicates::str::contains;
use serde_json::Value;

fn place_with_model() -> Place {
    let place = Place::new();
    place.trained("run", 4, &[]);
    place
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let output = place.ddpm(arguments).args(["--json", "--quiet"]).assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

const DATA: [&str; 2] = ["--data", "train-images-idx3-ubyte"];

#[test]
fn the_bound_adds_up_and_depends_on_no_batch() {
    let place = place_with_model();
    let run = |more: &[&str]| json(&place, &[&["evaluate", "run"], &DATA[..], more].concat());
    let nll = run(&["-n", "5", "--batch-size", "7", "--threads", "1"])["nll"].clone();
    let number = |key: &str| nll[key].as_f64().unwrap();
    assert_eq!((nll["images"].as_u64(), nll["evaluations"].as_u64()), (Some(5), Some(50)));
    assert!((number("rate") + number("distortion") - number("bits_per_dim")).abs() < 1e-9);
    let terms: f64 = nll["points"].as_array().unwrap().iter().map(|point| point["bits"].as_f64().unwrap()).sum();
    assert!((number("prior") + terms - number("bits_per_dim")).abs() < 1e-9);
    assert_eq!(nll, run(&["-n", "5", "--batch-size", "64", "--threads", "4"])["nll"]);
    // All images, the last batch not full.
    assert_eq!(run(&["-n", "0", "--steps", "3"])["nll"]["images"], 40);
    let mut table = place.ddpm(&["evaluate", "run", "-n", "2", "--plot", "rd.png"]);
    table.args(DATA).assert().success().stdout(contains("bits/dim")).stdout(contains("distortion"));
    assert!(image::open(place.path("rd.png")).unwrap().width() > 500);
}

#[test]
fn shorter_chains_are_predicted_measured_and_sampled() {
    let place = place_with_model();
    let command = ["evaluate", "run", "-n", "40", "--schedule", "--lengths", "5,10", "--denoising", "mt.json"];
    let rows = json(&place, &[&command[..], &DATA].concat())["schedule"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 8);
    let measured = |steps: u64, kind: &str| {
        let row = rows.iter().find(|row| row["steps"] == steps && row["kind"] == kind).unwrap();
        let (measured, predicted) = (row["measured"].as_f64().unwrap(), row["predicted"].as_f64().unwrap());
        // With other noise than the prediction was made from, on 40 images of 64 pixels.
        assert!((measured - predicted).abs() < 0.03 * predicted, "{row}");
        measured
    };
    for steps in [5, 10] {
        assert!(measured(steps, "best, optimal") <= measured(steps, "even, fixed_small") + 1e-9);
        assert!(measured(steps, "best, optimal") <= measured(steps, "even, fixed_large") + 1e-9);
    }
    for sampler in ["ddpm", "ddim", "unipc-2"] {
        let command = ["sample", "run", "-n", "2", "--denoising", "mt.json", "--steps", "5", "--sampler", sampler];
        place.ddpm(&command).assert().success();
    }
    place.ddpm(&["sample", "run", "--denoising", "mt.json"]).assert().failure().code(2).stderr(contains("--steps"));
    std::fs::write(place.path("torn.json"), "{\"mse\": [0.1").unwrap();
    let torn = ["sample", "run", "--denoising", "torn.json", "--steps", "5"];
    place.ddpm(&torn).assert().failure().code(1).stderr(contains("torn.json"));
}

#[test]
fn every_sampler_draws_on_every_grid() {
    let place = place_with_model();
    for sampler in ["dpmpp-2m", "dpmpp-3m", "dpmpp-sde-2m", "unipc-3", "ipndm-4", "pndm", "deis-3", "heun", "ddim"] {
        for grid in ["uniform", "quadratic", "log-snr", "karras"] {
            let command = ["sample", "run", "-n", "2", "--steps", "6", "--sampler", sampler, "--grid", grid];
            place.ddpm(&command).args(["-o", "s.safetensors", "--quiet"]).assert().success();
            assert!(
                tensor(&place.path("s.safetensors"), "samples").data.iter().all(|x| x.is_finite()),
                "{sampler} {grid}"
            );
        }
        place.ddpm(&["schedule", "run", "--sampler", sampler, "--steps", "5"]).assert().success();
    }
    let unknown = place.ddpm(&["sample", "run", "--sampler", "euler"]).assert().failure().code(2);
    unknown.stderr(contains("unipc-3"));
    place.ddpm(&["sample", "run", "--grid", "even"]).assert().failure().code(2).stderr(contains("log-snr"));
}

#[test]
fn interpolations_begin_and_end_at_the_images() {
    let place = place_with_model();
    place.ddpm(&["sample", "run", "-n", "2", "--steps", "4", "--quiet", "-o", "pictures"]).assert().success();
    let command =
        ["interpolate", "run", "pictures/000000.png", "pictures/000001.png", "--between", "5", "--steps", "4"];
    place.ddpm(&command).args(["--at", "5,25,49", "--mix", "slerp", "-o", "line.png"]).assert().success();
    let picture = image::open(place.path("line.png")).unwrap();
    assert!(picture.width() > picture.height());
    let invert = ["--at", "25,49", "--invert", "--mix", "slerp", "-o", "inverted.png"];
    place.ddpm(&command).args(invert).assert().success();
    place.ddpm(&command).args(["--at", "50"]).assert().failure().code(1).stderr(contains("0 to 49"));
    place.ddpm(&command).args(["--mix", "cubic"]).assert().failure().code(2).stderr(contains("slerp"));
    place.ddpm(&command).args(["-o", "line.npz"]).assert().failure().code(2).stderr(contains("line.npz"));
    let many = ["interpolate", "run", "pictures/000000.png", "pictures/000001.png", "--between", "1001"];
    place.ddpm(&many).assert().failure().code(2).stderr(contains("2 to 1000"));
    let missing = ["interpolate", "run", "pictures/000000.png", "no.png"];
    place.ddpm(&missing).assert().failure().code(1).stderr(contains("no.png"));
}

/// Known pixels stay to the byte; each noise fills in the others differently.
#[test]
fn inpainting_keeps_what_is_known() {
    let place = place_with_model();
    let mut mask = image::GrayImage::new(8, 8);
    let mut known = image::GrayImage::new(8, 8);
    for (x, y, pixel) in known.enumerate_pixels_mut() {
        pixel.0 = [(x * 16 + y * 11) as u8];
        mask.put_pixel(x, y, image::Luma([if x >= 4 { 255 } else { 0 }]));
    }
    known.save(place.path("known.png")).unwrap();
    mask.save(place.path("mask.png")).unwrap();
    let command = ["inpaint", "run", "known.png", "mask.png", "-n", "2", "--steps", "5"];
    for more in [&["--resample", "3"][..], &["--sampler", "ddim"], &["--batch-size", "1", "--resample", "3"]] {
        place.ddpm(&command).args(["-o", "filled", "--quiet"]).args(more).assert().success();
        let read = |name: &str| image::open(place.path(name)).unwrap().to_luma8();
        let filled = [read("filled/000000.png"), read("filled/000001.png")];
        for picture in &filled {
            assert!(
                picture.enumerate_pixels().all(|(x, y, pixel)| x >= 4 || pixel == known.get_pixel(x, y)),
                "{more:?}"
            );
        }
        assert_ne!(filled[0], filled[1]);
    }
    let refused = place.ddpm(&command).args(["--sampler", "unipc-2"]).assert().failure().code(1);
    refused.stderr(contains("ddpm or ddim"));

    // A mask of another size would lie elsewhere than it was drawn.
    image::GrayImage::from_pixel(16, 16, image::Luma([255])).save(place.path("large.png")).unwrap();
    let large = place.ddpm(&["inpaint", "run", "known.png", "large.png"]).assert().failure().code(1);
    large.stderr(contains("large.png: the mask is 16x16, but known.png is 8x8"));
    image::GrayImage::new(8, 8).save(place.path("black.png")).unwrap();
    let black = place.ddpm(&["inpaint", "run", "known.png", "black.png"]).assert().failure().code(1);
    black.stderr(contains("black.png: no pixel of the mask is white"));
    place.ddpm(&command).args(["-o", "filled.gif"]).assert().failure().code(2).stderr(contains("no animation"));
}

/// A run says how its images were fitted to the network, and they are measured as they were trained on.
#[test]
fn images_are_fitted_as_in_training() {
    let place = Place::new();
    place.trained(
        "wide",
        2,
        &["--set", "data.resolution=16", "--set", "model.attention_resolutions=[8]", "--set", "data.fit=pad"],
    );
    let bits = |more: &[&str]| {
        let command = [&["evaluate", "wide", "-n", "2", "--steps", "3"], &DATA[..], more].concat();
        json(&place, &command)["nll"]["bits_per_dim"].as_f64().unwrap()
    };
    assert_eq!(bits(&[]), bits(&["--fit", "pad"]));
    assert_ne!(bits(&[]), bits(&["--fit", "crop"]));
    // A checkpoint that was taken out of its run still says it; without its preprocessing.json it does not.
    let (moved, pad, crop) = (place.path("moved"), bits(&[]), bits(&["--fit", "crop"]));
    std::fs::rename(place.path("wide").join("checkpoints/000000002"), &moved).unwrap();
    let bits_of_moved = || {
        let command = [&["evaluate", "moved", "-n", "2", "--steps", "3"], &DATA[..]].concat();
        json(&place, &command)["nll"]["bits_per_dim"].as_f64().unwrap()
    };
    assert_eq!(bits_of_moved(), pad);
    std::fs::remove_file(moved.join("preprocessing.json")).unwrap();
    std::fs::remove_file(moved.join("checksums.json")).unwrap();
    assert_eq!(bits_of_moved(), crop);
}

/// The flow's likelihood is a number of its own, the same for any batch, and stands beside the bound.
#[test]
fn the_flows_likelihood_stands_beside_the_bound() {
    let place = place_with_model();
    let run = |more: &[&str]| json(&place, &[&["evaluate", "run", "-n", "3"], &DATA[..], more].concat());
    let both = run(&["--metrics", "nll,ode", "--ode-steps", "4", "--steps", "3"]);
    let ode = &both["ode"];
    assert!(both["nll"]["bits_per_dim"].is_f64() && ode["bits_per_dim"].as_f64().unwrap().is_finite());
    assert_eq!((ode["images"].as_u64(), ode["evaluations"].as_u64()), (Some(3), Some(16)));
    let alone = run(&["--metrics", "ode", "--ode-steps", "4", "--batch-size", "2"]);
    assert!(alone["nll"].is_null() && alone["ode"] == *ode);
    let exact = run(&["--metrics", "ode", "--ode-steps", "4", "--probes", "exact"])["ode"]["bits_per_dim"].clone();
    let many = run(&["--metrics", "ode", "--ode-steps", "4", "--probes", "64"])["ode"]["bits_per_dim"].clone();
    let (exact, many) = (exact.as_f64().unwrap(), many.as_f64().unwrap());
    assert!((exact - many).abs() < 0.05 * exact.abs(), "{exact} {many}");
}

/// DDIM reconstructs an image from its latents, more closely with more steps.
#[test]
fn inversions_come_back() {
    let place = place_with_model();
    place.ddpm(&["sample", "run", "-n", "2", "--steps", "4", "--quiet", "-o", "pictures"]).assert().success();
    let error = |steps: &str| {
        let command = ["invert", "run", "pictures/000000.png", "pictures/000001.png", "--steps", steps];
        let report = json(&place, &[&command[..], &["--sheet", "sheet.png", "-o", "latents.safetensors"]].concat());
        report["rmse"].as_array().unwrap().iter().map(|error| error.as_f64().unwrap()).fold(0.0, f64::max)
    };
    let (coarse, fine) = (error("3"), error("50"));
    assert!(fine < 0.7 * coarse && fine < 0.5, "{coarse} {fine}");
    assert!(image::open(place.path("sheet.png")).unwrap().width() > 24);
    // The file is what `sample --init` takes, and the same way down.
    let command = ["sample", "run", "-n", "2", "--init", "latents.safetensors", "--sampler", "ddim", "--quiet"];
    place.ddpm(&command).args(["--clip-sample", "false", "-o", "back"]).assert().success();
    let read = |name: &str| image::open(place.path(name)).unwrap().to_luma8();
    for name in ["000000.png", "000001.png"] {
        let (image, back) = (read(&format!("pictures/{name}")), read(&format!("back/{name}")));
        let worst = image.pixels().zip(back.pixels()).map(|(a, b)| a.0[0].abs_diff(b.0[0])).max();
        assert!(worst < Some(40), "{name}: {worst:?}");
    }
    let place_refuses = |more: &[&str], code: i32, words: &str| {
        let command = [&["invert", "run", "pictures/000000.png"], more].concat();
        place.ddpm(&command).assert().failure().code(code).stderr(contains(words));
    };
    place_refuses(&["-o", "latents.png"], 2, ".safetensors");
    place_refuses(&["--at", "50"], 1, "1 to 49");
    place_refuses(&["--steps", "1"], 2, "at least 2");
    place_refuses(&["--steps", "51"], 1, "2 to 50");
}

/// From an image, and from one x_t; what all have in common, and what each has alone.
#[test]
fn samples_begin_in_the_middle_and_part_there() {
    let place = place_with_model();
    let sample = |out: &str, more: &[&str]| {
        let command = ["sample", "run", "-n", "3", "--steps", "10", "--quiet", "-o", out];
        let sampler: &[&str] = if more.contains(&"--sampler") { &[] } else { &["--sampler", "ddpm"] };
        place.ddpm(&[&command, sampler, more].concat()).assert().success();
        ["000000.png", "000001.png", "000002.png"]
            .map(|name| image::open(place.path(format!("{out}/{name}"))).unwrap().to_luma8())
    };
    let alone = sample("alone", &["--sheet", "sheet.png"]);
    assert!(image::open(place.path("sheet.png")).unwrap().height() > 6 * 8);
    let shared = sample("shared", &["--share-until", "20"]);
    assert_eq!(alone[0], shared[0], "the first image's noise is shared");
    assert_ne!(alone[1], shared[1]);
    assert_ne!(shared[0], shared[1]);
    assert_eq!(shared, sample("batched", &["--share-until", "20", "--batch-size", "1"]));
    let whole = sample("whole", &["--share-until", "0"]);
    assert_eq!((&whole[0], &whole[1]), (&whole[1], &whole[2]), "nothing is left to part in");

    let near = |t: &str| {
        let like = sample(&format!("like-{t}"), &["--from", "alone/000000.png", "--at", t]);
        let total = |image: &image::GrayImage| -> u64 {
            image.pixels().zip(alone[0].pixels()).map(|(a, b)| u64::from(a.0[0].abs_diff(b.0[0]))).sum()
        };
        like.iter().map(total).sum::<u64>()
    };
    assert!(near("1") < near("40"), "the higher t, the less is left");
    let refused = |more: &[&str], code: i32, words: &str| {
        let command = [&["sample", "run"], more].concat();
        place.ddpm(&command).assert().failure().code(code).stderr(contains(words));
    };
    refused(&["--from", "alone/000000.png"], 2, "--at");
    refused(&["--from", "alone/000000.png", "--at", "50"], 1, "0 to 49");
    refused(&["--share-until", "20", "--sampler", "ddim"], 2, "adds no noise");
    refused(&["--churn", "3"], 2, "edm-sde");
    refused(&["--threshold", "2,1"], 2, "--threshold");
    assert_ne!(sample("churned", &["--sampler", "edm-sde"]), sample("heun", &["--sampler", "edm-sde", "--churn", "0"]));
    assert_ne!(alone, sample("threshold", &["--threshold", "0.9,3"]));
}

/// Guidance of 1 is none, of 0 is no class at all, and elsewhere than in its interval there is none.
#[test]
fn guidance_goes_from_no_class_to_more_than_the_class() {
    let place = Place::new();
    let labels = ["--set", "data.labels=true", "--set", "train.label_dropout=0.2", "--set", "train.learning_rate=0.01"];
    place.trained("run", 8, &labels);
    let sample = |more: &[&str]| {
        let command =
            ["sample", "run", "-n", "2", "--steps", "5", "--sampler", "ddim", "-o", "s.safetensors", "--quiet"];
        place.ddpm(&[&command[..], more].concat()).assert().success();
        tensor(&place.path("s.safetensors"), "samples").data
    };
    let class = sample(&["--labels", "1"]);
    assert_eq!(class, sample(&["--labels", "1", "--guidance", "1"]));
    assert_ne!(class, sample(&["--labels", "1", "--guidance", "3"]));
    assert_eq!(class, sample(&["--labels", "1", "--guidance", "3", "--guidance-interval", "60,70"]));
    // The run's null label is the last row, which no image has by default.
    let rows = json(&place, &["inspect", "run"])["config"]["num_class_embeds"].as_u64().unwrap();
    let none = sample(&["--labels", &(rows - 1).to_string()]);
    let unguided = sample(&["--labels", "1", "--guidance", "0"]);
    assert!(none.iter().zip(&unguided).all(|(a, b)| (a - b).abs() < 1e-6));
    place.ddpm(&["sample", "run", "--by-class", "-n", "1", "--steps", "2", "-o", "c.png"]).assert().success();
    let sheet = image::open(place.path("c.png")).unwrap();
    assert!(sheet.height() > 2 * sheet.width(), "a row for each of {} classes", rows - 1);
    let refused = |more: &[&str], words: &str| {
        place.ddpm(&[&["sample", "run"], more].concat()).assert().failure().code(2).stderr(contains(words));
    };
    refused(&["--guidance", "2", "--guidance-interval", "5"], "--guidance-interval");
    refused(&["--by-class", "-o", "x.npz"], "--by-class");
    let plain = Place::new();
    plain.trained("run", 2, &["--set", "data.labels=true"]);
    plain.ddpm(&["sample", "run", "--guidance", "2"]).assert().failure().code(1).stderr(contains("--null-label"));
}

#[test]
fn mistakes_are_named() {
    let place = place_with_model();
    let refused = |more: &[&str], code: i32, words: &str| {
        place.ddpm(&["evaluate", "run"]).args(more).assert().failure().code(code).stderr(contains(words));
    };
    refused(&["--metrics", "nll,fad"], 2, "fad");
    refused(&["--metrics", "ode", "--schedule"], 2, "nll");
    refused(&["--probes", "0"], 2, "--probes");
    refused(&["--variance", "learned_range", "--data", "train-images-idx3-ubyte"], 1, "learned");
    refused(&["--fit", "stretch"], 2, "--fit");
    refused(&["--draws", "0"], 2, "--draws");
    refused(&["--steps", "51"], 1, "51");
    refused(&["--steps", "0"], 2, "at least 1");
    refused(&["--data", "nowhere"], 1, "nowhere");
    refused(&["--steps", "5", "--schedule"], 2, "--schedule");
    place.ddpm(&["evaluate", "nowhere"]).assert().failure().code(1).stderr(contains("nowhere"));
}
