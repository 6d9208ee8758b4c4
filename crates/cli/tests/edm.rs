//! EDM's process and networks, as a user trains, samples, evaluates, imports and exports them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;

/// EDM's process around a small SongUNet with every part.
const NETWORK: [&str; 15] = [
    "diffusion.prediction=edm",
    "diffusion.schedule=karras",
    "diffusion.variance=fixed_small",
    "diffusion.timestep_sampler=log_normal",
    "sample.clip_sample=false",
    "sample.sampler=heun",
    "sample.steps=3",
    "model.class=SongUNet",
    "model.model_channels=8",
    "model.channel_mult=[1, 2]",
    "model.num_blocks=1",
    "model.attn_resolutions=[4]",
    "model.dropout=0.1",
    "model.encoder_type=residual",
    "model.embedding_type=fourier",
];

fn sets<'a>(assignments: &[&'a str]) -> Vec<&'a str> {
    assignments.iter().flat_map(|set| ["--set", set]).collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/edm").join(name)
}

/// Augmentation, and averages of lengths that are chosen after training.
#[test]
fn averages_of_other_lengths_are_made_of_snapshots() {
    let place = Place::new();
    let more = ["model.augment_dim=9", "data.augment=0.3", "train.ema_lengths=[0.05, 0.1]", "train.ema_snapshots=4"];
    let network = sets(&[&NETWORK[..], &more].concat());
    place.trained("whole", 8, &network);
    place.trained("parts", 6, &[&network[..], &["--threads", "1"]].concat());
    // One of a step that is done again, as after a crash.
    let snapshot = |run: &str, step: usize| place.path(format!("{run}/ema/{step:09}.safetensors"));
    fs::write(snapshot("parts", 7), "stale").unwrap();
    place.resume("parts", 8, &["-q"]).assert().success();
    assert!(!snapshot("parts", 7).exists());
    assert!(place.weights("whole", 8) == place.weights("parts", 8));
    for step in [4, 6, 8] {
        let [whole, parts] = ["whole", "parts"].map(|run| fs::read(snapshot(run, step)).unwrap());
        assert!(whole == parts, "step {step}");
    }
    // The layer for augmentation is trained.
    let checkpoint = |step: usize| place.path(format!("whole/checkpoints/{step:09}/training/weights.safetensors"));
    let trained = tensor(&checkpoint(8), "map_augment.weight");
    place.trained("plain", 8, &sets(&[&NETWORK[..], &more[..1]].concat()));
    let plain = tensor(&place.path("plain/checkpoints/000000008/training/weights.safetensors"), "map_augment.weight");
    assert_ne!(trained.data, plain.data);

    let said = contains("an average of length 0.07 up to step 8, of 4 snapshots");
    place.ddpm(&["export", "whole", "-o", "made", "--ema-length", "0.07"]).assert().success().stderr(said);
    let unet = "unet/diffusion_pytorch_model.safetensors";
    place.ddpm(&["export", "whole", "-o", "usual"]).assert().success();
    assert!(fs::read(place.path("made").join(unet)).unwrap() != fs::read(place.path("usual").join(unet)).unwrap());
    place.ddpm(&["sample", "made", "-n", "1", "-o", "made.png"]).assert().success();
    // A profile that is one of those stored is that average, rounded to f16.
    place.ddpm(&["export", "whole", "-o", "stored", "--ema-length", "0.1"]).assert().success();
    let name = "enc.8x8_conv.weight";
    let (made, stored) =
        (tensor(&place.path("stored").join(unet), name), tensor(&snapshot("whole", 8), &format!("0.1/{name}")));
    for (made, stored) in made.data.iter().zip(&stored.data) {
        assert!((made - stored).abs() <= 1e-5, "{made} {stored}");
    }

    fails(place.ddpm(&["export", "plain", "-o", "no", "--ema-length", "0.1"]), 1, &["plain", "train.ema_lengths"]);
    fails(place.ddpm(&["export", "made", "-o", "no", "--ema-length", "0.1"]), 2, &["made: is not a run"]);
    fails(place.ddpm(&["export", "whole", "-o", "no", "--ema-length", "0.01"]), 2, &["length 0.01 cannot be made"]);
    fails(place.ddpm(&["export", "whole", "-o", "no", "--ema-length", "0.5"]), 1, &["length of an average is 0.5"]);
    let wrong = ["train", "-o", "no", "--set", "data.augment=0.1"];
    fails(place.ddpm(&wrong), 2, &["data.augment", "SongUNet"]);
    let change = ["train", "--resume", "-o", "whole", "--set", "train.ema_lengths=[0.2]"];
    fails(place.ddpm(&change), 1, &["`train.ema_lengths` [0.05, 0.1] → [0.2]"]);
}

#[test]
fn a_resumed_run_has_the_same_weights_for_any_number_of_threads() {
    let place = Place::new();
    let network = sets(&NETWORK);
    place.trained("whole", 8, &network);
    place.trained("parts", 4, &[&network[..], &["--threads", "1"]].concat());
    place.resume("parts", 8, &["-q"]).assert().success();
    assert!(place.weights("whole", 8) == place.weights("parts", 8));
    let config = fs::read_to_string(place.path("whole/config.toml")).unwrap();
    assert!(config.contains("class = \"SongUNet\"") && !config.contains("block_out_channels"), "{config}");
    // The averages are those of the network, by the original's names. The random frequencies are not trained.
    let checkpoint = |run: &str, step: usize| place.path(format!("{run}/checkpoints/{step:09}"));
    let unet = checkpoint("whole", 8).join("unet/diffusion_pytorch_model.safetensors");
    assert_eq!(tensor(&unet, "enc.4x4_aux_residual.weight").shape, [8, 1, 3, 3]);
    place.trained("one", 1, &network);
    let first = checkpoint("one", 1).join("unet/diffusion_pytorch_model.safetensors");
    assert_eq!(tensor(&unet, "map_noise.freqs").data, tensor(&first, "map_noise.freqs").data);
    // diffusers has the process, but not a pipeline that scales the input of the network.
    let scheduler = fs::read_to_string(checkpoint("whole", 8).join("scheduler/scheduler_config.json")).unwrap();
    assert!(scheduler.contains("EDMEulerScheduler"), "{scheduler}");
    let index = fs::read_to_string(checkpoint("whole", 8).join("model_index.json")).unwrap();
    assert!(!index.contains("\"diffusers\""), "{index}");
    place.ddpm(&["sample", "whole", "-n", "2", "-o", "a.png"]).assert().success().stderr(contains("heun"));
    for sampler in ["ddpm", "ddim", "dpmpp-2m", "edm-sde", "unipc-3"] {
        let command = ["sample", "whole", "-n", "1", "--sampler", sampler, "--steps", "4", "-o", "b.png"];
        place.ddpm(&command).assert().success();
        fs::remove_file(place.path("b.png")).unwrap();
    }
    place.ddpm(&["evaluate", "whole", "-n", "2"]).assert().success().stdout(contains("bits/dim"));
    fails(place.resume("whole", 12, &["--set", "model.num_blocks=2"]), 1, &["`model.num_blocks`"]);
    fails(place.resume("whole", 12, &["--set", "diffusion.prediction=epsilon"]), 1, &["`diffusion.prediction`"]);
}

/// Also the network of the default class, whose folder diffusers' classes read one by one.
#[test]
fn an_exported_model_draws_the_same_images() {
    let place = Place::new();
    let process: Vec<&str> = NETWORK[..7].to_vec();
    place.trained("run", 2, &sets(&process));
    place.ddpm(&["export", "run", "-o", "model"]).assert().success();
    let sample = |model: &str, out: &str| {
        let command = ["sample", model, "-n", "2", "--steps", "3", "--sampler", "heun", "--grid", "karras", "-o", out];
        place.ddpm(&command).assert().success();
        ddpm::weights::read_safetensors(place.path(out)).unwrap().0
    };
    assert!(sample("run", "a.safetensors") == sample("model", "b.safetensors"));
    // Without a run and a sampler, EDM's own.
    place
        .ddpm(&["sample", "model", "-n", "1", "-o", "c.png"])
        .assert()
        .success()
        .stderr(contains("sampler: heun, EDM's own, 35 evaluations"));
    place.ddpm(&["inspect", "model"]).assert().success().stdout(contains("edm"));
}

/// A state dictionary has the names and the buffers of the original, and the values of the model.
#[test]
fn the_weights_go_back_as_they_came() {
    let place = Place::new();
    for (name, prefix) in [("cond.pkl", "ema.model."), ("adm.pt", "net.model.")] {
        place.ddpm(&["import", golden(name).to_str().unwrap(), "-o", name]).assert().success();
        let out = format!("back-{name}.pt");
        place.ddpm(&["export", name, "-o", &out]).assert().success();
        let theirs = ddpm::weights::read_tensors(golden(name)).unwrap();
        let own = theirs.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor)));
        assert_eq!(ddpm::weights::read_tensors(place.path(&out)).unwrap(), own.collect());
        fails(place.ddpm(&["export", name, "-o", &out]), 2, &["is there already"]);
        let half = format!("half-{name}.pth");
        place.ddpm(&["export", name, "-o", &half, "--half"]).assert().success();
        let size = |name: &str| fs::metadata(place.path(name)).unwrap().len();
        assert!(size(&half) < size(&out) * 2 / 3, "{} {}", size(&half), size(&out));
    }
}

/// Networks with the preconditioners VP, VE and iDDPM are imported, sampled by every kind of sampler, scored and trained on.
#[test]
fn other_preconditioners_are_used() {
    let place = Place::new();
    write_png(&place, "images/a.png", 0);
    write_png(&place, "images/b.png", 1);
    for name in ["vp", "ve", "iddpm"] {
        let file = golden("../edm_preconditioners").join(format!("{name}.pkl"));
        place.ddpm(&["import", file.to_str().unwrap(), "-o", name]).assert().success().stdout(contains("Precond"));
        place.ddpm(&["inspect", name]).assert().success().stdout(contains(format!("edm_{name}")));
        let out = format!("{name}.png");
        let said = contains("sampler: heun, EDM's own, 35 evaluations");
        place.ddpm(&["sample", name, "-n", "1", "-o", &out]).assert().success().stderr(said);
        for sampler in ["ddpm", "ddim", "heun", "dpmpp-2m", "unipc-3", "edm-sde"] {
            let out = format!("{name}-{sampler}.png");
            place
                .ddpm(&["sample", name, "-n", "1", "--sampler", sampler, "--steps", "4", "-o", &out])
                .assert()
                .success();
        }
    }
    let nll = ["evaluate", "iddpm", "--data", "images", "--metrics", "nll", "--steps", "3", "-n", "2"];
    place.ddpm(&nll).assert().success().stdout(contains("bits/dim"));
    let train = |model: &str| {
        let from = format!("train.init_from={model}");
        let keys = [&*from, "train.steps=1", "train.batch_size=2", "data.resolution=8", "train.warmup_steps=1"];
        place.ddpm(&[&["train", "--data", "images", "-o", &format!("runs/{model}")], &sets(&keys)[..]].concat())
    };
    for name in ["ve", "iddpm"] {
        train(name).assert().success();
        let config = fs::read_to_string(place.path(format!("runs/{name}/config.toml"))).unwrap();
        assert!(config.contains(&format!("prediction = \"edm_{name}\"")) && !config.contains("betas"), "{config}");
        place.ddpm(&["sample", &format!("runs/{name}"), "-n", "1", "-o", &format!("{name}2.png")]).assert().success();
    }
    fails(
        place.ddpm(&["import", "x.pkl", "-o", "y", "--prediction", "edm_iddpm", "--train-timesteps", "9"]),
        1,
        &["x.pkl"],
    );
    let wrong = ["diffusion.prediction=edm_iddpm", "diffusion.schedule=cosine", "diffusion.timesteps=100"];
    let wrong = [&wrong[..], &["diffusion.variance=fixed_small", "sample.clip_sample=false"]].concat();
    fails(place.ddpm(&[&["train", "-o", "no"], &sets(&wrong)[..]].concat()), 2, &["`diffusion.timesteps`", "1000"]);
    let wrong = sets(&["diffusion.prediction=edm_ve"]);
    fails(place.ddpm(&[&["train", "-o", "no"], &wrong[..]].concat()), 2, &["`diffusion.schedule`", "edm_ve"]);
}

/// A pickle of NVlabs/edm in every command that takes a model.
#[test]
fn a_published_model_is_used() {
    let place = Place::new();
    let file = golden("cond.pkl");
    let file = file.to_str().unwrap();
    place.ddpm(&["import", file, "-o", "edm"]).assert().success().stdout(contains("NVlabs/edm"));
    let commands: [&[&str]; 6] = [
        &["sample", "edm", "-n", "3", "-o", "a.png"],
        &["sample", "edm", "-n", "2", "--labels", "0,1", "-o", "b.png"],
        &["sample", "edm", "--by-class", "-n", "2", "-o", "classes/"],
        &["inspect", "edm"],
        &["export", "edm", "-o", "copy"],
        &[
            "sample",
            "copy",
            "-n",
            "1",
            "--sampler",
            "edm-sde",
            "--steps",
            "4",
            "--churn",
            "3,0.05,20,1.01",
            "-o",
            "c.png",
        ],
    ];
    for command in commands {
        place.ddpm(command).assert().success();
    }
    assert!(!place.path("classes/3").exists() && place.path("classes/2").exists());
    // The vector of zeros is no class, and was not trained without one.
    fails(place.ddpm(&["sample", "edm", "-n", "1", "--labels", "4", "-o", "d.png"]), 1, &["4"]);
    fails(
        place.ddpm(&["sample", "edm", "-n", "1", "--guidance", "2", "-o", "d.png"]),
        1,
        &["no class", "--null-label"],
    );

    for class in 0..4 {
        write_png(&place, &format!("images/{class}/a.png"), class);
    }
    let evaluate = ["evaluate", "edm", "--data", "images", "--metrics", "nll", "--steps", "3", "-n", "4"];
    fails(place.ddpm(&evaluate), 1, &["images of class 3", "3 classes"]);

    let invert = ["invert", "edm", "images/0/a.png", "-o", "z.safetensors"];
    fails(place.ddpm(&invert), 2, &["3 classes", "--label CLASS"]);
    place.ddpm(&[&invert[..], &["--label", "1", "--steps", "4"]].concat()).assert().success();

    for (flags, expected) in [
        (["--prediction", "epsilon"], "its process is EDM's"),
        (["--beta-schedule", "cosine"], "its process is EDM's"),
        (["--size", "16"], "its size is 8"),
    ] {
        fails(place.ddpm(&[&["import", file, "-o", "other"][..], &flags].concat()), 1, &[expected, "cond.pkl"]);
        assert!(!place.path("other").exists());
    }

    // Somebody's network is trained on, with its process and its layer for augmented images.
    write_idx(&place.path("train-images-idx3-ubyte"), 40, 8);
    place.ddpm(&["import", golden("adm.pt").to_str().unwrap(), "-o", "adm"]).assert().success();
    let command = ["train", "--data", "train-images-idx3-ubyte", "-o", "mine", "--set", "train.init_from=adm"];
    let more = sets(&["train.steps=2", "train.batch_size=4", "train.samples=0"]);
    place.ddpm(&[&command[..], &more].concat()).assert().success().stderr(contains("starts from the weights of adm"));
    let config = fs::read_to_string(place.path("mine/config.toml")).unwrap();
    for line in
        ["class = \"DhariwalUNet\"", "model_channels = 8", "prediction = \"edm\"", "timestep_sampler = \"log_normal\""]
    {
        assert!(config.contains(line), "{line}: {config}");
    }
}

/// The vector of zeros of a conditional network is no class, even if it was never trained; other classes start anew.
#[test]
fn classes_are_those_of_the_images() {
    let place = Place::new();
    let conditional = |classes: usize, out: &str| {
        for class in 0..classes {
            write_png(&place, &format!("{out}-images/{class}/a.png"), class as u8);
            write_png(&place, &format!("{out}-images/{class}/b.png"), class as u8 + 100);
        }
        let data = format!("{out}-images");
        let images = ["data.labels=true", "data.channels=1", "data.fit=crop"];
        let sets = sets(&[&NETWORK[..], &images].concat());
        (data, sets.into_iter().map(str::to_owned).collect::<Vec<String>>())
    };
    let (data, keys) = conditional(3, "three");
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    place.train("run", 1, &[&["--data", &data, "-q"][..], &keys].concat()).assert().success();
    place.ddpm(&["inspect", "run"]).assert().success().stdout(contains("classes:    3"));
    place.ddpm(&["sample", "run", "--by-class", "-n", "1", "-o", "by-class/"]).assert().success();
    assert_eq!(
        fs::read_dir(place.path("by-class")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(),
        3
    );

    let (other, _) = conditional(2, "two");
    let start = ["train", "--data", &other, "-o", "second", "--set", "train.init_from=run"];
    let more = sets(&["train.steps=1", "train.batch_size=4", "train.samples=0"]);
    place.ddpm(&[&start[..], &more].concat()).assert().success().stderr(
        contains("its class embedding has 3 rows and the images need 2, so the class embedding starts anew")
            .and(contains("from run: model.model_channels = 8"))
            .and(contains("block_out_channels").not()),
    );
}

fn write_png(place: &Place, name: &str, value: u8) {
    let path = place.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::GrayImage::from_pixel(8, 8, image::Luma([value])).save(path).unwrap();
}

#[test]
fn mistakes_are_named() {
    let place = Place::new();
    let with = |assignments: &[&str]| place.train("run", 1, &sets(assignments));
    let process = &NETWORK[..7];
    let edm = |more: &[&'static str]| [process, more].concat();
    fails(with(&["diffusion.prediction=edm"]), 2, &["`diffusion.schedule`", "karras"]);
    fails(with(&edm(&["diffusion.variance=learned_range"])), 2, &["`diffusion.", "variance"]);
    fails(with(&edm(&["sample.clip_sample=true"])), 2, &["`sample.clip_sample`", "without clipping"]);
    fails(with(&edm(&["diffusion.p_std=0"])), 2, &["`diffusion.p_std`"]);
    fails(with(&edm(&["model.class=SongUNet", "model.dim=8"])), 2, &["`model.dim`", "LucidrainsUnet", "SongUNet"]);
    fails(
        with(&edm(&["model.class=DhariwalUNet", "model.encoder_type=skip"])),
        2,
        &["`model.encoder_type`", "SongUNet"],
    );
    fails(with(&edm(&["model.class=SongUNet", "model.model_channels=2"])), 2, &["`model_channels` is 2"]);
    fails(with(&edm(&["model.class=SongUNet", "data.resolution=[8, 16]"])), 2, &["`data.resolution`", "square"]);
    fails(with(&["model.class=SongUnet"]), 2, &["`model.class`", "did you mean `SongUNet`"]);
}
