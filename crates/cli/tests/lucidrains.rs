//! Training the network of denoising-diffusion-pytorch, as a user does.

use std::path::Path;

use crate::common::*;
use predicates::str::contains;

/// A small network with every part, and self-conditioning.
const NETWORK: [&str; 12] = [
    "--set",
    "model.class=LucidrainsUnet",
    "--set",
    "model.dim=4",
    "--set",
    "model.dim_mults=[1, 2]",
    "--set",
    "model.attn_dim_head=4",
    "--set",
    "model.self_condition=true",
    "--set",
    "model.dropout=0.1",
];

#[test]
fn a_resumed_run_has_the_same_weights_for_any_number_of_threads() {
    let place = Place::new();
    place.trained("whole", 8, &NETWORK);
    place.trained("parts", 4, &[&NETWORK[..], &["--threads", "1"]].concat());
    place.resume("parts", 8, &["-q"]).assert().success();
    assert!(place.weights("whole", 8) == place.weights("parts", 8));
    let config = std::fs::read_to_string(place.path("whole/config.toml")).unwrap();
    assert!(config.contains("class = \"LucidrainsUnet\"") && !config.contains("block_out_channels"), "{config}");
    // The averages are those of the network, by the original's names.
    let unet = place.path("whole/checkpoints/000000008/unet/diffusion_pytorch_model.safetensors");
    assert_eq!(tensor(&unet, "ups.1.2.to_out.1.g").shape, [1, 4, 1, 1]);
    place.ddpm(&["sample", "whole", "-n", "2", "-o", "a.png"]).assert().success();
    place.ddpm(&["evaluate", "whole", "-n", "2"]).assert().success().stdout(contains("bits/dim"));
    // Another network is not the same run.
    fails(place.resume("whole", 12, &["--set", "model.dim=8"]), 1, &["`model.dim`", "4", "8"]);
    fails(place.resume("whole", 12, &["--set", "model.class=UNet2DModel"]), 1, &["`model.class`"]);
}

/// Self-conditioning makes a difference: with it, half of the steps know a prediction of x_0.
#[test]
fn self_conditioning_changes_training() {
    let place = Place::new();
    place.trained("with", 4, &NETWORK);
    let without: Vec<&str> = NETWORK
        .iter()
        .map(|word| if *word == "model.self_condition=true" { "model.self_condition=false" } else { word })
        .collect();
    place.trained("without", 4, &without);
    let shape = |run: &str| {
        let unet = place.path(format!("{run}/checkpoints/000000004/unet/diffusion_pytorch_model.safetensors"));
        tensor(&unet, "init_conv.weight").shape
    };
    assert_eq!((shape("with"), shape("without")), (vec![4, 2, 7, 7], vec![4, 1, 7, 7]));
}

#[test]
fn mistakes_in_the_network_are_named() {
    let place = Place::new();
    let train = |more: &[&str]| place.train("run", 1, more);
    fails(
        train(&["--set", "model.dim=8"]),
        2,
        &["`model.dim`", "model.class=LucidrainsUnet", "`model.block_out_channels`"],
    );
    let class = ["--set", "model.class=LucidrainsUnet"];
    let with = |set| [&class[..], &["--set", set]].concat();
    fails(train(&with("model.norm_num_groups=4")), 2, &["`model.norm_num_groups`", "UNet2DModel"]);
    fails(train(&with("model.dim=many")), 2, &["`model.dim`", "\"many\"", "whole number"]);
    fails(train(&with("model.dim=5")), 2, &["`dim` is 5", "even"]);
    fails(train(&with("model.dim_mults=[1,2,4,8,8]")), 2, &["8x8", "5 levels"]);
    let labels = [&with("data.labels=true")[..], &["--set", "model.self_condition=true"]].concat();
    fails(train(&labels), 2, &["`self_condition`", "classes"]);
    fails(train(&["--set", "model.class=LucidrainUnet"]), 2, &["`model.class`", "LucidrainsUnet"]);
}

/// The network with classes, guided by them, and networks of older versions.
#[test]
fn networks_with_classes_and_of_older_versions_are_trained() {
    let place = Place::new();
    for class in ["a", "b"] {
        write_pngs(&place.path(format!("images/{class}")), 8, 8, image::ColorType::L8);
    }
    let common = ["train", "--data", "images", "--set", "data.resolution=8", "--set", "train.batch_size=2"];
    let network = ["--set", "model.class=LucidrainsUnet", "--set", "model.dim=8", "--set", "model.dim_mults=[1, 2]"];
    let steps = ["--set", "train.steps=2", "--set", "train.samples=0", "--set", "train.warmup_steps=1"];
    let train = |run: &str, more: &[&str]| {
        let command = [&common[..], &network, &steps, &["-o", run], more].concat();
        place.ddpm(&command).assert().success();
    };
    train(
        "classes",
        &["--set", "data.labels=true", "--set", "train.label_dropout=0.2", "--set", "diffusion.offset_noise=0.1"],
    );
    let config = place.path("classes/checkpoints/latest");
    assert!(config.exists());
    let sample = ["sample", "classes", "-n", "2", "--labels", "a,b", "--guidance", "2", "--steps", "3", "-o", "a.png"];
    place.ddpm(&sample).assert().success();
    let older =
        ["--set", "model.version=\"0.32\"", "--set", "model.resnet_block_groups=4", "--set", "data.labels=false"];
    train("older", &older);
    train("random", &["--set", "model.random_fourier_features=true", "--set", "data.labels=false"]);
    for run in ["older", "random"] {
        let (image, again, from) = (format!("{run}.png"), format!("{run}-more"), format!("train.init_from={run}"));
        place.ddpm(&["sample", run, "-n", "1", "--steps", "3", "-o", &image]).assert().success();
        let more = ["-o", &again, "--set", &from, "--set", "data.labels=false"];
        place.ddpm(&[&common[..], &steps, &more].concat()).assert().success();
    }
    fails(place.ddpm(&["export", "older", "-o", "m.pt", "--trainer"]), 1, &["older version"]);
    fails(place.ddpm(&["export", "classes", "-o", "m.pt", "--trainer"]), 1, &["classes"]);
}

/// A checkpoint as the file of the original's trainer. `tools/check_lucidrains.py` loads one with the original.
#[test]
fn a_run_goes_out_as_a_trainers_file() {
    let place = Place::new();
    place.trained("run", 4, &[&NETWORK[..], &["--set", "diffusion.prediction=v_prediction"]].concat());
    place.ddpm(&["export", "run", "-o", "model-1.pt", "--trainer"]).assert().success();
    let read = |path: &Path| ddpm::weights::read_tensors(path).unwrap();
    let checkpoint = place.path("run/checkpoints/000000004");
    let file = read(&place.path("model-1.pt"));
    let [weights, averages, moments] =
        ["training/weights.safetensors", "unet/diffusion_pytorch_model.safetensors", "training/optimizer.safetensors"]
            .map(|name| read(&checkpoint.join(name)));
    for (name, tensor) in &weights {
        assert_eq!(&file[&format!("model.model.{name}")], tensor, "{name}");
        assert_eq!(&file[&format!("ema.online_model.model.{name}")], tensor, "{name}");
        assert_eq!(file[&format!("ema.ema_model.model.{name}")], averages[name], "{name}");
    }
    // The optimizer numbers the parameters in the order of the original's file.
    let theirs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/lucidrains/x0.pt");
    let theirs = ddpm::weights::Archive::open(theirs).unwrap();
    let count = weights.len();
    let number = |name: &str| name.strip_prefix("opt.state.")?.strip_suffix(".exp_avg")?.parse::<usize>().ok();
    let mut shapes: Vec<(usize, usize)> =
        theirs.shapes().filter_map(|(name, shape)| Some((number(name)?, shape.len()))).collect();
    shapes.sort_unstable();
    assert_eq!(shapes.len(), count);
    let own = |i: usize, moment: &str| &file[&format!("opt.state.{i}.{moment}")];
    for (i, dims) in shapes {
        assert_eq!(own(i, "exp_avg").shape.len(), dims, "{i}");
    }
    let first = moments.iter().filter(|(name, _)| name.starts_with("moment1."));
    for (name, tensor) in first {
        let same = |i: &usize| own(*i, "exp_avg") == tensor;
        let found: Vec<usize> = (0..count).filter(same).collect();
        let second = &moments[&name.replace("moment1.", "moment2.")];
        assert!(found.iter().any(|&i| own(i, "exp_avg_sq") == second), "{name}");
    }
    // It is read as the original's files are: the averages, and the process by the buffers.
    place.ddpm(&["import", "model-1.pt", "-o", "back", "--size", "8"]).assert().success();
    assert_eq!(read(&place.path("back/unet/diffusion_pytorch_model.safetensors")), averages);
    let scheduler = std::fs::read_to_string(place.path("back/scheduler/scheduler_config.json")).unwrap();
    assert!(scheduler.contains("v_prediction"), "{scheduler}");
    fails(place.ddpm(&["export", "back", "-o", "m.pt", "--trainer"]), 1, &["no checkpoint of a run"]);
    fails(place.ddpm(&["export", "run", "-o", "folder", "--trainer"]), 2, &["--trainer writes a file"]);
}

/// A run that continues the network of somebody's `Trainer`, with its process.
#[test]
fn a_trainers_network_is_trained_on() {
    let place = Place::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/lucidrains/noise.pt");
    place.ddpm(&["import", file.to_str().unwrap(), "-o", "theirs", "--size", "8"]).assert().success();
    write_idx(&place.path("train-images-idx3-ubyte"), 40, 8);
    let command = ["train", "--data", "train-images-idx3-ubyte", "-o", "mine", "--set", "train.init_from=theirs"];
    let more = ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.samples=0"];
    place
        .ddpm(&[&command[..], &more].concat())
        .assert()
        .success()
        .stderr(contains("starts from the weights of theirs"));
    let config = std::fs::read_to_string(place.path("mine/config.toml")).unwrap();
    for line in
        ["class = \"LucidrainsUnet\"", "dim = 4", "timesteps = 40", "prediction = \"epsilon\"", "labels = false"]
    {
        assert!(config.contains(line), "{line}: {config}");
    }
}
