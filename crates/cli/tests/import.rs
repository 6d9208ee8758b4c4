//! `ddpm import` and `ddpm export`, as a user calls them.

use std::path::{Path, PathBuf};

use crate::common::*;
use ddpm::weights::{self, Tensor, Tensors};
use predicates::prelude::*;
use predicates::str::contains;

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens/families").join(name)
}

/// A file of another program becomes a folder to sample from, and says what was found.
#[test]
fn checkpoints_of_others_become_models() {
    let place = Place::new();
    for (file, words, more) in [
        ("ho/model.ckpt-790000.index", "hojonathanho/diffusion", &[][..]),
        ("w86763777.pt", "averaged (EMA)", &[]),
        ("w86763777.pt", "w86763777/pytorch-ddpm", &["--raw"]),
        ("guided.pt", "guided-diffusion", &["--heads", "2", "--timesteps", "50", "--schedule", "cosine"]),
    ] {
        let path = family(file);
        let mut import = place.ddpm(&["import", path.to_str().unwrap(), "-o", "model"]);
        import.args(more).assert().success().stdout(contains(words));
        place.ddpm(&["sample", "model", "-n", "1", "--steps", "2", "--size", "8", "-o", "s.png"]).assert().success();
        place.ddpm(&["export", "model", "-o", "again"]).assert().success();
        let weights = "unet/diffusion_pytorch_model.safetensors";
        let bytes = |folder: &str| std::fs::read(place.path(folder).join(weights)).unwrap();
        assert_eq!(bytes("model"), bytes("again"));
        std::fs::remove_dir_all(place.path("model")).unwrap();
        std::fs::remove_dir_all(place.path("again")).unwrap();
    }
}

#[test]
fn what_cannot_be_imported_is_named_and_leaves_nothing() {
    let place = Place::new();
    // os.system("echo > pwned"), as a pickle of protocol 2.
    std::fs::write(place.path("evil.pt"), b"\x80\x02cposix\nsystem\nX\x0c\0\0\0echo > pwned\x85R.").unwrap();
    place.ddpm(&["import", "evil.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("posix.system"));
    assert!(!place.path("pwned").exists() && !place.path("m").exists());
    std::fs::write(place.path("torn.pt"), &std::fs::read(family("pesser.pt")).unwrap()[..5000]).unwrap();
    place.ddpm(&["import", "torn.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("torn.pt"));
    place.ddpm(&["import", "nothing.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("nothing.pt"));
    let pesser = family("pesser.pt");
    place.ddpm(&["sample", pesser.to_str().unwrap()]).assert().failure().code(1).stderr(contains("ddpm import"));
    std::fs::create_dir(place.path("m")).unwrap();
    let there = place.ddpm(&["import", pesser.to_str().unwrap(), "-o", "m"]).assert().failure().code(2);
    there.stderr(contains("there already"));
}

/// CompVis' `LitEma` names the average of `model.a.b.weight` `model_ema.abweight`.
#[test]
fn averages_without_dots_in_their_names_are_found() {
    let place = Place::new();
    let network = weights::read_tensors(family("improved.pt")).unwrap();
    let write = |name: &str, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = Tensors::new();
        for (own, raw) in &network {
            let average = Tensor { data: raw.data.iter().map(|value| value + 1.0).collect(), ..raw.clone() };
            tensors.insert(format!("model_ema.diffusion_model{}", own.replace('.', "")), average);
            tensors.insert(format!("model.diffusion_model.{own}"), raw.clone());
        }
        let number = Tensor { shape: vec![], data: vec![0.9999] };
        tensors.insert("model_ema.decay".into(), number.clone());
        tensors.insert("model_ema.num_updates".into(), number);
        change(&mut tensors);
        weights::write_safetensors(place.path(name), weights::views(&tensors), &Default::default()).unwrap();
    };
    let first = |folder: &str| {
        tensor(&place.path(folder).join("unet/diffusion_pytorch_model.safetensors"), "conv_in.bias").data[0]
    };
    write("lit.safetensors", &|_| {});
    let none = contains("no weights in the file are named as moving averages").not();
    let said = contains("averaged (EMA) weights").and(none);
    place.ddpm(&["import", "lit.safetensors", "-o", "averaged", "--heads", "2"]).assert().success().stdout(said);
    let said = contains("averaged (EMA)").not();
    place.ddpm(&["import", "lit.safetensors", "-o", "raw", "--heads", "2", "--raw"]).assert().success().stdout(said);
    assert_eq!(first("raw"), network["input_blocks.0.0.bias"].data[0]);
    assert_eq!(first("averaged"), first("raw") + 1.0);

    // One average is missing, or has another shape.
    let name = "model_ema.diffusion_modeltime_embed0weight";
    write("torn.safetensors", &|tensors| drop(tensors.remove(name)));
    let torn = place.ddpm(&["import", "torn.safetensors", "-o", "m", "--heads", "2"]);
    fails(torn, 1, &["torn.safetensors", "model.diffusion_model.time_embed.0.weight", name, "--raw"]);
    write("shape.safetensors", &|tensors| {
        tensors.insert(name.into(), Tensor { shape: vec![1], data: vec![0.0] });
    });
    fails(place.ddpm(&["import", "shape.safetensors", "-o", "m", "--heads", "2"]), 1, &[name, "[1]", "--raw"]);
    // The same training in the latents of an autoencoder.
    write("latent.safetensors", &|tensors| {
        tensors.insert("first_stage_model.encoder.conv_in.bias".into(), Tensor { shape: vec![1], data: vec![0.0] });
    });
    fails(place.ddpm(&["import", "latent.safetensors", "-o", "m"]), 1, &["latent diffusion", "first_stage_model"]);
}

/// CompVis' programs store the betas with the network.
#[test]
fn the_schedule_in_the_file_is_used() {
    let place = Place::new();
    let mut tensors = weights::read_tensors(family("improved.pt")).unwrap();
    let betas: Vec<f32> = (0..40).map(|t| 0.001 + 0.002 * t as f32).collect();
    tensors.insert("betas".into(), Tensor { shape: vec![40], data: betas.clone() });
    let renamed = tensors.into_iter().map(|(name, tensor)| match &*name {
        "betas" => (name, tensor),
        _ => (format!("model.diffusion_model.{name}"), tensor),
    });
    let tensors: Tensors = renamed.collect();
    weights::write_safetensors(place.path("x.ckpt"), weights::views(&tensors), &Default::default()).unwrap();
    let scheduler = |folder: &str| -> serde_json::Value {
        let path = place.path(folder).join("scheduler/scheduler_config.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let said = contains("note: the noise schedule is that of the tensor `betas` in the file, of 40 steps");
    let said = said.and(contains("do not record the schedule").not());
    place.ddpm(&["import", "x.ckpt", "-o", "m", "--heads", "2"]).assert().success().stdout(said);
    assert_eq!(scheduler("m")["num_train_timesteps"], 40);
    let last = scheduler("m")["trained_betas"][39].as_f64().unwrap();
    assert!((last - f64::from(betas[39])).abs() < 1e-9, "{last}");
    // Flags replace it.
    let flags = ["--heads", "2", "--beta-schedule", "cosine", "--train-timesteps", "100"];
    let said = contains("note: the options replace what is above: 100 timesteps, the schedule squaredcos_cap_v2");
    place.ddpm(&[&["import", "x.ckpt", "-o", "n"][..], &flags].concat()).assert().success().stdout(said);
    assert_eq!((&scheduler("n")["num_train_timesteps"], &scheduler("n")["trained_betas"]), (&100.into(), &().into()));
}

/// The note about averages says what was found.
#[test]
fn an_average_by_its_file_name_is_called_one() {
    let place = Place::new();
    std::fs::copy(family("pesser.pt"), place.path("ema_0.9999_500000.pt")).unwrap();
    std::fs::copy(family("pesser.pt"), place.path("emanuel.pt")).unwrap();
    let said = contains("averaged (EMA) weights").and(contains("note: the name of the file or its folder says"));
    place.ddpm(&["import", "ema_0.9999_500000.pt", "-o", "a"]).assert().success().stdout(said);
    let said = contains("averaged (EMA)").not().and(contains("no weights in the file are named as moving averages"));
    place.ddpm(&["import", "emanuel.pt", "-o", "b"]).assert().success().stdout(said);
}

#[test]
fn known_families_are_those_that_are_read() {
    let place = Place::new();
    place.tensors("other.safetensors", [("encoder.layers.0.weight", &[1], vec![0.0])]);
    let error = fails(place.ddpm(&["import", "other.safetensors", "-o", "m"]), 1, &["other.safetensors"]);
    for name in [
        "hojonathanho/diffusion",
        "pesser",
        "openai",
        "w86763777",
        "diffusers",
        "lucidrains",
        "NVlabs/edm",
        "hmdolatabadi",
    ] {
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn a_network_of_hmdolatabadi_runs_in_every_command() {
    let place = Place::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/hmdolatabadi/last.ckpt");
    let said = contains("hmdolatabadi/denoising_diffusion: ").and(contains("averaged (EMA) weights"));
    place.ddpm(&["import", file.to_str().unwrap(), "-o", "m"]).assert().success().stdout(said);
    place.ddpm(&["inspect", "m"]).assert().success().stdout(contains("HmdolatabadiUNet").and(contains("8x8")));
    for command in [
        &["sample", "m", "-n", "3", "-o", "a.png"][..],
        &["sample", "m", "-n", "1", "--sampler", "dpmpp-2m", "--steps", "5", "-o", "b.png"],
        &["export", "m", "-o", "copy"],
        &["sample", "copy", "-n", "1", "-o", "c.png"],
        &["evaluate", "m", "--data", "photos", "-n", "2"],
    ] {
        if command[0] == "evaluate" {
            photos(&place);
        }
        place.ddpm(command).assert().success();
    }
    fails(place.ddpm(&["sample", "m", "--labels", "1", "-o", "e.png"]), 1, &["classes"]);

    // Trained on, and stopped and resumed for the same bytes.
    let train = |out: &str, steps: usize| {
        let steps = format!("train.steps={steps}");
        let command = ["train", "--data", "photos", "-o", out, "-q", "--set", "train.init_from=m", "--set", &steps];
        let more = ["--set", "train.batch_size=2", "--set", "train.samples=0", "--set", "train.checkpoint_every=2"];
        place.ddpm(&[&command[..], &more].concat()).assert().success();
    };
    train("whole", 4);
    train("parts", 2);
    place.resume("parts", 4, &["-q"]).assert().success();
    assert!(place.weights("whole", 4) == place.weights("parts", 4));
    let config = std::fs::read_to_string(place.path("whole/config.toml")).unwrap();
    for line in
        ["class = \"HmdolatabadiUNet\"", "schedule = \"scaled_linear\"", "variance = \"fixed_large\"", "timesteps = 40"]
    {
        assert!(config.contains(line), "{line}: {config}");
    }
    fails(place.resume("whole", 6, &["--set", "model.channel=64"]), 1, &["`model.channel`", "32", "64"]);
    let mistaken = ["--set", "model.class=HmdolatabadiUNet"];
    fails(place.train("other", 1, &mistaken), 2, &["`data.channels`", "three channels"]);
}

/// Writes a folder of eight color images of 8×8 pixels.
fn photos(place: &Place) {
    std::fs::create_dir(place.path("photos")).unwrap();
    for i in 0..8u8 {
        let pixels = (0..192u8).map(|p| p.wrapping_mul(7 + i)).collect();
        image::RgbImage::from_raw(8, 8, pixels).unwrap().save(place.path(format!("photos/{i}.png"))).unwrap();
    }
}

/// A file of the `Trainer` of denoising-diffusion-pytorch, with self-conditioning: see crates/sample/tests/lucidrains.rs.
fn trainer_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/lucidrains/v.pt")
}

#[test]
fn a_network_of_lucidrains_runs_in_every_command() {
    let place = Place::new();
    std::fs::copy(trainer_file(), place.path("model-1.pt")).unwrap();
    let said = contains("lucidrains/denoising-diffusion-pytorch: ")
        .and(contains("averaged (EMA) weights"))
        .and(contains("40 steps of the schedule sigmoid_alpha_bar"))
        .and(contains("the network predicts v_prediction, and was trained with Min-SNR"));
    place.ddpm(&["import", "model-1.pt", "-o", "m", "--size", "8"]).assert().success().stdout(said);
    place.ddpm(&["inspect", "m"]).assert().success().stdout(contains("LucidrainsUnet").and(contains("8x8")));
    place.ddpm(&["sample", "m", "-n", "3", "-o", "a.png"]).assert().success();
    place
        .ddpm(&[
            "sample",
            "m",
            "-n",
            "1",
            "--sampler",
            "dpmpp-1",
            "--spacing",
            "trailing",
            "--steps",
            "10",
            "-o",
            "images/",
        ])
        .assert()
        .success();
    let first = files(&place.path("images")).into_iter().find(|name| name.ends_with(".png")).unwrap();
    let image = format!("images/{first}");
    place
        .ddpm(&["interpolate", "m", &image, &image, "--between", "3", "--steps", "10", "-o", "line.png"])
        .assert()
        .success();
    image::GrayImage::from_pixel(8, 8, image::Luma([255])).save(place.path("mask.png")).unwrap();
    place.ddpm(&["inpaint", "m", &image, "mask.png", "--steps", "5", "-o", "in.png"]).assert().success();
    place.ddpm(&["invert", "m", &image, "--steps", "5", "-o", "latent.safetensors"]).assert().success();
    place.ddpm(&["evaluate", "m", "--data", "images/", "-n", "1"]).assert().success().stdout(contains("bits/dim"));
    // diffusers has no such network, and must not take it for another one.
    let index = std::fs::read_to_string(place.path("m/model_index.json")).unwrap();
    assert!(
        index.contains("\"ddpm\",") && index.contains("LucidrainsUnet") && !index.contains("UNet2DModel"),
        "{index}"
    );
    // A copy is the same model.
    place.ddpm(&["export", "m", "-o", "copy"]).assert().success();
    place.ddpm(&["sample", "copy", "-n", "3", "-o", "b.png"]).assert().success();
    let pixels = |name: &str| image::open(place.path(name)).unwrap().into_bytes();
    assert!(pixels("a.png") == pixels("b.png"));
}

#[test]
fn what_a_file_of_lucidrains_does_not_say_is_asked_for() {
    let place = Place::new();
    std::fs::copy(trainer_file(), place.path("model-1.pt")).unwrap();
    // Without a size, sampling asks for it.
    place.ddpm(&["import", "model-1.pt", "-o", "m"]).assert().success().stdout(contains("does not record the size"));
    fails(place.ddpm(&["sample", "m"]), 1, &["--size"]);
    place.ddpm(&["sample", "m", "--size", "8", "-n", "1", "-o", "x.png"]).assert().success();
    fails(place.ddpm(&["sample", "m", "--size", "9"]), 1, &["9x9", "multiples of 2"]);
    // A network alone has no process.
    std::fs::copy(place.path("m/unet/diffusion_pytorch_model.safetensors"), place.path("net.safetensors")).unwrap();
    fails(place.ddpm(&["import", "net.safetensors", "-o", "n"]), 1, &["--beta-schedule", "--prediction"]);
    let flags =
        ["--beta-schedule", "sigmoid", "--prediction", "v_prediction", "--train-timesteps", "40", "--size", "8"];
    place.ddpm(&[&["import", "net.safetensors", "-o", "n"][..], &flags].concat()).assert().success();
    for (folder, size) in [("m", "8"), ("n", "8")] {
        place.ddpm(&["sample", folder, "--size", size, "-n", "2", "-o", &format!("{folder}.png")]).assert().success();
    }
    let pixels = |name: &str| image::open(place.path(name)).unwrap().into_bytes();
    assert!(pixels("m.png") == pixels("n.png"));
}

/// Small tensors can have the shapes of a network that fits into no memory.
#[test]
fn a_network_larger_than_its_file_is_not_built() {
    let place = Place::new();
    let shapes: [(&str, &[usize]); 7] = [
        ("downs.0.0.block1.proj.weight", &[1, 1, 3, 3]),
        ("init_conv.weight", &[1, 1, 7, 7]),
        ("final_conv.weight", &[1, 1, 1, 1]),
        ("time_mlp.1.weight", &[262_144, 1]),
        ("downs.0.2.mem_kv", &[2, 1, 4, 1]),
        ("downs.0.2.to_out.weight", &[1, 1, 1, 1]),
        ("downs.0.3.weight", &[65_536, 1, 3, 3]),
    ];
    let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
    place.tensors("huge.safetensors", shapes.map(|(name, shape)| (name, shape, zeros(shape))));
    let flags = ["--prediction", "epsilon", "--beta-schedule", "linear", "--size", "8"];
    let command = place.ddpm(&[&["import", "huge.safetensors", "-o", "m"][..], &flags].concat());
    fails(command, 1, &["huge.safetensors", "describes a network of"]);
    assert!(!place.path("m").exists());
}
