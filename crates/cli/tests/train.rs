//! `ddpm train`: what a run leaves behind, and what its result depends on.

use crate::common::*;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;

#[test]
fn a_run_leaves_everything_that_it_promises() {
    let place = Place::new();
    let output = place.train("run", 8, &[]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(output.stdout.is_empty());
    for words in ["step 2/8", "step 8/8", "saved:", "samples:", "images/s", "ETA", "ddpm sample run", "--resume"] {
        assert!(error.contains(words), "{words}: {error}");
    }

    let run = place.path("run");
    let mut all = files(&run);
    let events = all.iter().position(|name| name.starts_with("events.out.tfevents.")).expect("TensorBoard events");
    all.remove(events);
    let in_checkpoint = |step: &str| {
        [
            "checksums.json",
            "model_index.json",
            "preprocessing.json",
            "scheduler/scheduler_config.json",
            "training/config.toml",
            "training/optimizer.safetensors",
            "training/state.json",
            "training/weights.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ]
        .map(|file| format!("checkpoints/{step}/{file}"))
    };
    let mut expected = [in_checkpoint("000000004"), in_checkpoint("000000008")].concat();
    let others = [
        "checkpoints/latest",
        "config.toml",
        "data.json",
        "loss.png",
        "metrics.jsonl",
        "samples/000000004.png",
        "samples/000000008.png",
    ];
    expected.extend(others.map(String::from));
    assert_eq!(all, expected);

    let steps: Vec<_> = metrics(&run).iter().map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 4, 6, 8]);
    for record in metrics(&run) {
        for key in ["loss", "gradient_norm", "images_per_second", "learning_rate"] {
            assert!(record[key].as_f64().unwrap() > 0.0, "{key}: {record}");
        }
        assert_eq!(record["loss_q"].as_array().unwrap().len(), 4);
    }
    for step in [4, 8] {
        // Two images of 8x8 beside each other with two pixels between and around them.
        let (width, height) = image::image_dimensions(run.join(format!("samples/{step:09}.png"))).unwrap();
        assert!(width >= 16 && height >= 8, "{width}x{height}");
    }
}

#[test]
fn a_checkpoint_is_a_diffusers_pipeline() {
    let place = Place::new();
    place.trained("run", 4, &[]);
    let root = place.path("run/checkpoints/000000004");
    let read =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(root.join(name)).unwrap()).unwrap() };
    let index = read("model_index.json");
    assert_eq!(index["_class_name"], "DDPMPipeline");
    assert_eq!(index["unet"], serde_json::json!(["diffusers", "UNet2DModel"]));
    assert_eq!(index["scheduler"], serde_json::json!(["diffusers", "DDPMScheduler"]));
    let unet = read("unet/config.json");
    assert_eq!(unet["_class_name"], "UNet2DModel");
    assert_eq!(unet["block_out_channels"], serde_json::json!([8, 8]));
    assert_eq!(unet["down_block_types"], serde_json::json!(["DownBlock2D", "AttnDownBlock2D"]));
    assert_eq!(unet["sample_size"], 8);
    let scheduler = read("scheduler/scheduler_config.json");
    assert_eq!(scheduler["_class_name"], "DDPMScheduler");
    assert_eq!(scheduler["num_train_timesteps"], 50);
    // Weights on disk are O,I,H,W.
    let file = root.join("unet/diffusion_pytorch_model.safetensors");
    assert_eq!(tensor(&file, "conv_in.weight").shape, [8, 1, 3, 3]);
    assert_eq!(tensor(&file, "mid_block.attentions.0.to_q.weight").shape, [8, 8]);
}

#[test]
fn training_lowers_the_loss() {
    let place = Place::new();
    place.trained("run", 120, &["--set", "train.log_every=20", "--set", "train.samples=0"]);
    let losses: Vec<f64> = metrics(&place.path("run")).iter().map(|record| record["loss"].as_f64().unwrap()).collect();
    assert!(losses[5] < 0.6 * losses[0], "{losses:?}");
}

#[test]
fn threads_do_not_change_a_byte() {
    let place = Place::new();
    let all = ["--set", "model.dropout=0.1", "--set", "data.flip=true", "--set", "data.labels=true"];
    for threads in ["1", "2", "4"] {
        place.trained(threads, 6, &[&all[..], &["--threads", threads]].concat());
    }
    let one = place.weights("1", 6);
    assert_eq!(one, place.weights("2", 6));
    assert_eq!(one, place.weights("4", 6));
}

#[test]
fn the_seed_decides() {
    let place = Place::new();
    place.trained("a", 2, &["--seed", "1"]);
    place.trained("b", 2, &["--set", "train.seed=1"]);
    place.trained("c", 2, &["--seed", "2"]);
    assert_eq!(place.weights("a", 2), place.weights("b", 2));
    assert_ne!(place.weights("a", 2), place.weights("c", 2));
}

/// The gradient of two passes of 4 is that of one pass of 8, up to rounding; so is the first step's move.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    let place = Place::new();
    place.trained("whole", 1, &["--set", "train.batch_size=8"]);
    place.trained("parts", 1, &["--set", "train.gradient_accumulation=2"]);
    let file = "checkpoints/000000001/training/optimizer.safetensors";
    let moments = |run: &str| ddpm::weights::read_safetensors(place.path(run).join(file)).unwrap().0;
    let (whole, parts) = (moments("whole"), moments("parts"));
    let squares = |tensors: &ddpm::weights::Tensors| -> f32 {
        tensors.iter().filter(|(name, _)| name.starts_with("moment1.")).flat_map(|(_, t)| &t.data).map(|v| v * v).sum()
    };
    let norm = squares(&whole).sqrt();
    assert!(norm > 1e-3);
    for (name, tensor) in whole.iter().filter(|(name, _)| name.starts_with("moment1.")) {
        for (a, b) in tensor.data.iter().zip(&parts[name].data) {
            assert!((a - b).abs() < 1e-5 * norm, "{name}: {a} {b}");
        }
    }
}

/// Everything that can be combined trains, is saved, and draws samples.
#[test]
fn every_objective_trains_and_draws() {
    let place = Place::new();
    let samplers = ["uniform", "low_discrepancy", "importance"];
    let mut count = 0;
    for prediction in ["epsilon", "sample", "v_prediction", "previous_mean"] {
        for (variance, losses) in [
            ("fixed_small", &["l_simple", "vlb", "min_snr"][..]),
            ("fixed_large", &["l_simple", "vlb"]),
            ("learned", &["vlb", "hybrid"]),
            ("learned_range", &["vlb", "hybrid"]),
        ] {
            for loss in losses {
                if (prediction, *loss) == ("previous_mean", "min_snr") {
                    continue;
                }
                let run = format!("{prediction}-{variance}-{loss}");
                let sets = [
                    format!("diffusion.prediction={prediction}"),
                    format!("diffusion.variance={variance}"),
                    format!("diffusion.loss={loss}"),
                    format!("diffusion.timestep_sampler={}", samplers[count % 3]),
                    "sample.sampler=ddpm".to_owned(),
                ];
                let arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
                place.trained(&run, 2, &arguments);
                assert!(place.path(&run).join("samples/000000002.png").exists(), "{run}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 35);
}

#[test]
fn images_of_every_kind_train() {
    use image::ColorType::{L8, Rgb8, Rgba8};
    let place = Place::new();
    for (name, colour, channels) in [("grey", L8, "1"), ("rgb", Rgb8, "3"), ("rgba", Rgba8, "4")] {
        write_pngs(&place.path(format!("{name}/cat")), 8, 12, colour);
        write_pngs(&place.path(format!("{name}/dog")), 8, 12, colour);
        let mut train = place.train(&format!("run-{name}"), 2, &["--data", name]);
        train.args(["--set", &format!("data.channels={channels}"), "--set", "data.resolution=[8,12]"]);
        train.args(["--set", "data.labels=true", "--set", "train.label_dropout=0.5"]);
        train.assert().success().stderr(contains("8x12").and(contains("2 classes")));
        // Not square, not padded; and one class more, which stands for none.
        let file = place.path(format!("run-{name}/checkpoints/000000002/unet/diffusion_pytorch_model.safetensors"));
        assert_eq!(tensor(&file, "class_embedding.weight").shape, [3, 32]);
        let samples = json(place.ddpm(&["sample", &format!("run-{name}"), "-n", "3", "--steps", "2"]));
        assert_eq!((&samples["height"], &samples["width"]), (&8.into(), &12.into()));
        assert_eq!(samples["channels"].to_string(), channels);
    }
}

#[test]
fn the_built_in_images_need_nothing() {
    let place = Place::new();
    let sets = [
        "train.steps=1",
        "model.block_out_channels=[8,8]",
        "model.norm_num_groups=4",
        "model.attention_resolutions=[]",
    ];
    let mut command = place.ddpm(&["train", "--set", "train.samples=0", "--set", "train.batch_size=2"]);
    command.args(sets.iter().flat_map(|set| ["--set", set])).assert().success().stderr(contains("10,000 images"));
    assert!(place.path("runs/fashion/checkpoints/000000001").is_dir());
    // Again: beside it, not over it.
    let mut command = place.ddpm(&["train", "--set", "train.samples=0", "--set", "train.batch_size=2"]);
    command.args(sets.iter().flat_map(|set| ["--set", set])).assert().success();
    assert!(place.path("runs/fashion-2/checkpoints/000000001").is_dir());
}

#[test]
fn output_for_programs_is_one_object() {
    let place = Place::new();
    let result = json(place.train("run", 4, &["--quiet"]));
    assert_eq!(result["step"], 4);
    assert_eq!(result["stopped"], false);
    assert_eq!(result["checkpoint"], "run/checkpoints/000000004");
    assert_eq!(result["samples"], "run/samples/000000004.png");
    assert_eq!(result["last"]["step"], 4);
}

#[test]
fn a_dry_run_prints_the_configuration_and_writes_nothing() {
    let place = Place::new();
    let dry = ["train", "--preset", "cifar10", "--set", "train.batch_size=7", "--dry-run"];
    let output = place.ddpm(&dry).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("batch_size = 7") && text.contains("block_out_channels = [128, 256, 256, 256]"), "{text}");
    assert_eq!(json(place.ddpm(&dry))["train"]["batch_size"], 7);
    assert_eq!(names(&place.path("")), [""; 0]);
    // What was printed is a configuration.
    fs::write(place.path("again.toml"), &text).unwrap();
    place.ddpm(&["train", "--config", "again.toml", "--dry-run"]).assert().success().stdout(text);
}

/// Held-out images choose a checkpoint, which stays while others go, and can be named.
#[test]
fn the_best_checkpoint_is_kept() {
    let place = Place::new();
    // The built-in images have a held-out part; a learning rate that wrecks what was learnt makes an early step the best.
    let sets = [
        "train.evaluate_every=2",
        "train.evaluate_images=4",
        "train.checkpoint_every=0",
        "train.keep_checkpoints=1",
        "train.ema_decay=0.1",
        "train.grad_clip=0",
        "train.learning_rate=0.3",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let mut command = place.ddpm(&["train", "--preset", "fashion-ho", "--out", "run"]);
    command.args(TINY.iter().flat_map(|set| ["--set", set])).args(["--set", "train.steps=12"]).args(&sets);
    command.assert().success().stderr(contains("validated: held-out images "));
    let lines = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let measured: Vec<(u64, f64)> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|line| Some((line["step"].as_u64()?, line["held_out"].as_f64()?)))
        .collect();
    assert_eq!(measured.len(), 6, "{measured:?}");
    let (best, _) = measured.iter().copied().fold((0, f64::INFINITY), |b, m| if m.1 < b.1 { m } else { b });
    let named = std::fs::read_to_string(place.path("run/checkpoints/best")).unwrap();
    assert_eq!(named.trim(), format!("{best:09}"));
    let last = format!("{:09}", 12);
    let mut expected = vec![named.trim().to_owned(), last];
    expected.dedup();
    let kept: Vec<String> = place.checkpoints("run").into_iter().filter(|name| name.parse::<u64>().is_ok()).collect();
    assert_eq!(kept, expected);
    place.ddpm(&["sample", "run/checkpoints/best", "-n", "1", "--steps", "2"]).assert().success();
    // A set without a held-out part is refused, before anything is written.
    let whole = place.train("other", 2, &["--set", "train.evaluate_every=1"]).assert().failure();
    whole.stderr(contains("train.evaluate_every"));
    assert!(!place.path("other").exists());
}

/// Trained with a classifier of its own images, a run measures its samples as `ddpm evaluate` would, and the least distance
/// chooses the best checkpoint.
#[test]
fn a_run_is_scored_while_it_trains() {
    let place = Place::new();
    let small = ["--set", "data.resolution=8"];
    let classifier = ["classifier", "-o", "clothes.safetensors", "--steps", "12", "--batch-size", "16"];
    let trained = json(place.ddpm(&[&classifier[..], &small, &["--quiet"]].concat()));
    assert!(trained["accuracy"].as_f64() > Some(0.05), "{trained}");
    assert_eq!((trained["held_out"].as_u64(), trained["classes"].as_u64()), (Some(1000), Some(10)), "{trained}");

    let sets = [
        "train.evaluate_every=2",
        "train.evaluate_features=\"clothes.safetensors\"",
        "train.evaluate_samples=20",
        "train.evaluate_images=2",
        "train.checkpoint_every=0",
        "train.steps=6",
    ];
    let sets: Vec<&str> = TINY.iter().chain(&sets).flat_map(|set| ["--set", set]).collect();
    let mut command = place.ddpm(&["train", "--preset", "fashion-ho", "--out", "run"]);
    command.args(&sets).assert().success().stderr(contains("bits/dim; FD (classifier of fashion-mnist) "));
    let measured = |place: &Place| -> Vec<(u64, f64)> {
        let lines = std::fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| Some((line["step"].as_u64()?, line["frechet_distance"].as_f64()?))).collect()
    };
    let distances = measured(&place);
    assert_eq!(distances.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6]);
    let (best, least) = distances.iter().copied().fold((0, f64::INFINITY), |b, m| if m.1 < b.1 { m } else { b });
    let named = |place: &Place| std::fs::read_to_string(place.path("run/checkpoints/best")).unwrap().trim().to_owned();
    assert_eq!(named(&place), format!("{best:09}"));

    // Of the same weights, the command says the same, beside the same floor.
    let evaluate = ["evaluate", "run/checkpoints/000000006", "--metrics", "fd", "--features", "clothes.safetensors"];
    let flags = ["--samples", "20", "--sampler-steps", "3", "--quiet", "--save-stats", "real.npz"];
    let said = json(place.ddpm(&[&evaluate[..], &flags].concat()));
    let (said, trained) = (said["fd"]["value"].as_f64().unwrap(), distances[2].1);
    assert!((said / trained - 1.0).abs() < 1e-9, "{said} {trained}");

    // The least distance is remembered; statistics of the images in a file do as well as the images.
    let mut command = place.ddpm(&["train", "--out", "run", "--resume", "--set", "train.steps=8"]);
    command.args(["--set", "train.evaluate_reference=\"real.npz\"", "--set", "train.learning_rate=0.5"]);
    command.assert().success();
    let distances = measured(&place);
    assert_eq!(distances.len(), 4);
    let expected = if distances[3].1 < least { 8 } else { best };
    assert_eq!(named(&place), format!("{expected:09}"));

    // With a distance to choose by, a set without a held-out part will do; a file that makes no features will not.
    let more = ["--set", "train.evaluate_every=2", "--set", "train.evaluate_features=\"clothes.safetensors\""];
    place.train("other", 2, &[&more[..], &["--set", "train.evaluate_samples=4"]].concat()).assert().success();
    let more = ["--set", "train.evaluate_every=2", "--set", "train.evaluate_features=\"real.npz\""];
    place.train("third", 2, &more).assert().failure().stderr(contains("real.npz"));
    assert!(!place.path("third").exists());
}

/// The learning rates that a run logs, one for each step.
fn rates(place: &Place, run: &str, sets: &[&str]) -> Vec<f64> {
    let sets = [&["train.log_every=1", "train.learning_rate=0.01", "train.samples=0"], sets].concat();
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    place.trained(run, 10, &sets);
    metrics(&place.path(run)).iter().map(|record| record["learning_rate"].as_f64().unwrap()).collect()
}

/// Against the formulas of `diffusers.optimization` and EDM2's `learning_rate_schedule`, written out for 10 steps with a
/// warm-up of 3; our warm-up reaches the full rate one step earlier than theirs, which starts at 0.
#[test]
fn learning_rates_follow_their_schedules() {
    let place = Place::new();
    let warmup = |s: usize| (s + 1).min(3) as f64 / 3.0;
    let cosine = |s: usize| match s {
        0..3 => 1.0,
        _ => 0.5 * (1.0 + (std::f64::consts::PI * 0.5 * 2.0 * (s - 3) as f64 / 7.0).cos()),
    };
    let linear = |s: usize| if s < 3 { 1.0 } else { (10 - s) as f64 / 7.0 };
    let inverse_sqrt = |s: usize| 1.0 / (s as f64 / 4.0).max(1.0).sqrt();
    let cases: [(&str, &dyn Fn(usize) -> f64); 4] =
        [("constant", &|_| 1.0), ("cosine", &cosine), ("linear", &linear), ("inverse_sqrt", &inverse_sqrt)];
    for (name, factor) in cases {
        let schedule = format!("train.lr_schedule={name}");
        let sets = [schedule.as_str(), "train.warmup_steps=3", "train.lr_reference_steps=4"];
        let found = rates(&place, name, &sets);
        assert_eq!(found.len(), 10);
        for (s, rate) in found.iter().enumerate() {
            let expected = 0.01 * warmup(s) * factor(s);
            assert!((rate - expected).abs() < 1e-15, "{name}, step {s}: {rate}, expected {expected}");
        }
    }
    // Half the run at a time follows the schedule of the whole.
    let sets = ["train.lr_schedule=cosine", "train.warmup_steps=3"];
    let all = rates(&place, "again", &sets);
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    place.trained("longer", 10, &[&sets[..], &["--set", "train.learning_rate=0.01"]].concat());
    place.resume("longer", 12, &["--set", "train.log_every=1"]).assert().success();
    let last = metrics(&place.path("longer")).pop().unwrap()["learning_rate"].as_f64().unwrap();
    let expected = 0.005 * (1.0 + (std::f64::consts::PI * 8.0 / 9.0).cos());
    assert!((last - expected).abs() < 1e-15 && all[9] < 0.001, "{last} {expected}");
    let error = ["`train.lr_schedule`", "\"exponential\"", "`inverse_sqrt`"];
    fails(place.train("run", 2, &["--set", "train.lr_schedule=exponential"]), 2, &error);
}

/// The parameters after one step with decay, from those after one step without: θ·(1 − lr·λ) − u against θ − u.
#[test]
fn weight_decay_is_decoupled_and_of_all_parameters() {
    let place = Place::new();
    let sets = |decay: &str| format!("train.weight_decay={decay}");
    // A learning rate this small leaves the initial parameters.
    place.trained("start", 1, &["--set", "train.learning_rate=1e-30"]);
    place.trained("plain", 1, &["--set", "train.learning_rate=0.01"]);
    place.trained("zero", 1, &["--set", "train.learning_rate=0.01", "--set", &sets("0")]);
    place.trained("decay", 1, &["--set", "train.learning_rate=0.01", "--set", &sets("20")]);
    assert_eq!(place.weights("plain", 1), place.weights("zero", 1));
    let read = |run: &str| {
        let file = format!("{run}/checkpoints/000000001/training/weights.safetensors");
        ddpm::weights::read_safetensors(place.path(file)).unwrap().0
    };
    let (start, plain, decay) = (read("start"), read("plain"), read("decay"));
    let mut changed = 0;
    for (name, tensor) in &decay {
        for (i, found) in tensor.data.iter().enumerate() {
            let expected = plain[name].data[i] - 0.2 * start[name].data[i];
            assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
            changed += usize::from(*found != plain[name].data[i]);
        }
    }
    assert!(changed > 1000);
    fails(place.train("run", 2, &["--set", "train.weight_decay=-1"]), 2, &["`train.weight_decay`", "0 or more"]);
    fails(place.train("run", 2, &["--set", "train.weight_decay=1000"]), 2, &["`train.weight_decay`"]);
}

/// The first step's loss is that of untrained weights, which depends on neither norm; and L1 ≤ √L2.
#[test]
fn the_norm_of_the_loss_is_a_choice() {
    let place = Place::new();
    let loss = |norm: &str, delta: &str| {
        let sets = [format!("diffusion.loss_norm={norm}"), format!("diffusion.huber_delta={delta}")];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let run = format!("{norm}-{delta}");
        place.trained(&run, 1, &sets);
        metrics(&place.path(&run))[0]["loss"].as_f64().unwrap()
    };
    let (l2, l1) = (loss("l2", "1"), loss("l1", "1"));
    assert!(l1 < l2.sqrt() && l1 > 0.5 * l2, "{l1} {l2}");
    // A wide δ is a scaled square, a narrow one the absolute value.
    assert!((loss("huber", "1000") * 2000.0 / l2 - 1.0).abs() < 1e-3);
    assert!((loss("huber", "1e-6") / l1 - 1.0).abs() < 1e-3);
    fails(place.train("run", 2, &["--set", "diffusion.loss_norm=l3"]), 2, &["`diffusion.loss_norm`", "`huber`"]);
    let bound = ["--set", "diffusion.loss=vlb", "--set", "diffusion.loss_norm=l1"];
    fails(place.train("run", 2, &bound), 2, &["`diffusion.loss_norm`", "vlb"]);
    fails(place.train("run", 2, &["--set", "diffusion.huber_delta=0"]), 2, &["`diffusion.huber_delta`"]);
}

#[test]
fn the_validation_subset_has_a_seed() {
    let place = Place::new();
    let validated = |run: &str, more: &[&str]| {
        let sets = ["train.evaluate_every=1", "train.evaluate_images=8", "train.steps=1", "train.samples=0"];
        let sets: Vec<&str> = TINY.iter().chain(&sets).chain(more).flat_map(|set| ["--set", set]).collect();
        place.ddpm(&["train", "--preset", "fashion-ho", "-q", "--out", run]).args(&sets).assert().success();
        metrics(&place.path(run))[0]["held_out"].as_f64().unwrap()
    };
    let first = validated("first", &[]);
    let chosen = validated("chosen", &["train.evaluate_seed=1"]);
    assert_eq!(chosen, validated("again", &["train.evaluate_seed=1"]));
    assert_ne!(chosen, first);
    assert_ne!(chosen, validated("other", &["train.evaluate_seed=2"]));
    assert_eq!(first, validated("default", &["train.evaluate_seed="]));
}

/// A configuration of an earlier version has none of the newer keys.
#[test]
fn an_older_configuration_still_reads() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    let path = place.path("run/config.toml");
    let newer = ["lr_schedule", "lr_reference_steps", "weight_decay", "loss_norm", "huber_delta"];
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !newer.iter().any(|key| line.starts_with(key))).collect();
    assert_eq!(lines.len() + newer.len(), text.lines().count());
    fs::write(&path, lines.join("\n")).unwrap();
    place.resume("run", 4, &[]).assert().success().stderr(contains("changed: train.steps 2 → 4"));
    place.trained("whole", 4, &[]);
    assert_eq!(place.weights("run", 4), place.weights("whole", 4));
}

#[test]
fn a_preset_without_its_images_says_what_it_expects() {
    let place = Place::new();
    let words = ["preset `mnist`", "data/mnist", "not found", "IDX", "--data PATH"];
    fails(place.ddpm(&["train", "--preset", "mnist", "-o", "run"]), 1, &words);
    fails(place.ddpm(&["train", "--preset", "cifar10"]), 1, &["preset `cifar10`", "binary version", "--data"]);
    fails(place.ddpm(&["train", "--preset", "mnist", "--data", "nowhere"]), 1, &["nowhere", "No such file"]);
    assert_eq!(names(&place.path("")), [""; 0]);
}

#[test]
fn more_threads_than_a_machine_can_use_are_refused() {
    let place = Place::new();
    let cores = std::thread::available_parallelism().unwrap();
    let machine = format!("this machine has {cores} cores");
    mistaken(place.train("run", 2, &["--threads", "100000"]), &["--threads", &machine, "at most"]);
    mistaken(place.ddpm(&["sample", "run", "--threads", "100000"]), &["--threads", &machine]);
}

/// Images are decoded on another thread in the same pool, which may have no other thread than the one that waits for them.
#[test]
fn one_thread_decodes_and_trains() {
    let place = Place::new();
    let train = ["--threads", "1", "--set", "data.fit=random-crop", "--set", "data.resolution=4", "-q"];
    place.train("run", 3, &train).timeout(std::time::Duration::from_secs(60)).assert().success();
}

#[test]
fn a_held_out_part_without_classes_is_refused_at_the_start() {
    let place = Place::new();
    for class in ["a", "b"] {
        write_pngs(&place.path(format!("set/train/{class}")), 8, 8, image::ColorType::L8);
    }
    write_pngs(&place.path("set/test"), 8, 8, image::ColorType::L8);
    let classes = ["--data", "set", "--set", "data.labels=true", "--set", "train.evaluate_every=2"];
    fails(place.train("run", 4, &classes), 1, &["set: the held-out part has no classes", "`train.evaluate_every` = 0"]);
    assert!(!place.path("run").exists());
}

#[test]
fn the_folder_of_the_images_is_not_that_of_the_run() {
    let place = Place::new();
    write_pngs(&place.path("photos"), 8, 8, image::ColorType::L8);
    fails(place.train("photos", 2, &["--data", "photos"]), 1, &["photos: has the images", "choose another"]);
    place.train("photos/run", 2, &["--data", "photos", "-q"]).assert().success();
}

/// Slurm's tasks that do not know each other would train as many runs.
#[test]
fn tasks_of_slurm_without_mpi_are_refused() {
    let place = Place::new();
    let slurm = |mpi: Option<&str>| {
        let mut command = place.train("run", 2, &[]);
        command.env("SLURM_STEP_NUM_TASKS", "4").env("SLURM_PROCID", "1");
        if let Some(value) = mpi {
            command.env("DDPM_MPI", value);
        }
        command.assert()
    };
    slurm(None).code(2).stderr(predicates::str::contains("srun --mpi=pmix"));
    assert!(!place.path("run").exists());
    slurm(Some("off")).success();
}
