//! Models in every layout that others write, and those that are refused.

use std::fs;
use std::path::Path;

use crate::common::*;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A place with a tiny run, and its last checkpoint as a plain diffusers folder `theirs`.
fn place_with_pipeline() -> Place {
    let place = Place::new();
    place.trained("run", 2, &[]);
    place.ddpm(&["export", "run", "-o", "theirs", "-q"]).assert().success();
    place
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

/// A copy of the pipeline, changed.
fn changed(place: &Place, name: &str, change: impl FnOnce(&Path)) {
    let root = place.path(name);
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    copy(&place.path("theirs"), &root);
    change(&root);
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn sample(place: &Place, model: &str) -> assert_cmd::Command {
    place.ddpm(&["sample", model, "-n", "1", "--steps", "2", "-q", "-o", "x.safetensors"])
}

/// The sample of a model, and what is said on standard error.
fn drawn(place: &Place, model: &str) -> (Vec<f32>, String) {
    let output = sample(place, model).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (tensor(&place.path("x.safetensors"), "samples").data, said)
}

#[test]
fn pipelines_of_other_kinds_are_refused_by_name() {
    let place = place_with_pipeline();
    let index = |class: &str, more: Value| {
        let mut index = json!({
            "_class_name": class, "_diffusers_version": "0.42.1", "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        });
        index.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        index.to_string()
    };
    let with_index = |text: &str| changed(&place, "m", |root| fs::write(root.join("model_index.json"), text).unwrap());
    for (class, reason) in [
        ("LDMPipeline", "latents of an autoencoder"),
        ("ScoreSdeVePipeline", "variance-exploding"),
        ("KarrasVePipeline", "variance-exploding"),
        ("ConsistencyModelPipeline", "in one step"),
        ("DiTPipeline", "transformer"),
        ("StableDiffusionPipeline", "text"),
    ] {
        with_index(&index(class, json!({})));
        for model in ["m", "m/unet", "m/model_index.json", "m/unet/diffusion_pytorch_model.safetensors"] {
            fails(sample(&place, model), 1, &["m/model_index.json", class, reason, "DDPMPipeline"]);
        }
        fails(place.ddpm(&["inspect", "m"]), 1, &["m/model_index.json", class]);
        fails(place.ddpm(&["schedule", "m"]), 1, &["m/model_index.json", class]);
        fails(place.ddpm(&["import", "m/unet/diffusion_pytorch_model.safetensors", "-o", "i"]), 1, &[class]);
    }
    // A component says what the class does not.
    with_index(&index("DDPMPipeline", json!({ "vqvae": ["diffusers", "VQModel"] })));
    fails(sample(&place, "m"), 1, &["m/model_index.json", "DDPMPipeline", "`vqvae`"]);
    with_index(&index("MyPipeline", json!({ "tokenizer": ["transformers", "BertTokenizer"] })));
    fails(sample(&place, "m"), 1, &["m/model_index.json", "MyPipeline", "`tokenizer`"]);
    // So does a folder, with or without an index.
    for keep_index in [true, false] {
        changed(&place, "m", |root| {
            fs::create_dir(root.join("vae")).unwrap();
            fs::write(root.join("vae/config.json"), "{}").unwrap();
            if !keep_index {
                fs::remove_file(root.join("model_index.json")).unwrap();
            }
        });
        fails(sample(&place, "m"), 1, &["m", "folder `vae`", "DDPMPipeline"]);
    }
    for garbage in ["garbage", "", "[1]", "{}", "{\"_class_name\": 3}", "<!DOCTYPE html><html></html>"] {
        with_index(garbage);
        fails(sample(&place, "m"), 1, &["m/model_index.json"]);
    }

    // What is read, and an own class, with a note.
    let (expected, said) = drawn(&place, "theirs");
    assert_eq!(said, "");
    for class in ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"] {
        with_index(&index(class, json!({ "vae": [null, null], "tokenizer": null })));
        assert_eq!(drawn(&place, "m"), (expected.clone(), String::new()));
    }
    with_index(&index("MyPipeline", json!({ "threshold": 3 })));
    let (samples, said) = drawn(&place, "m");
    assert_eq!(samples, expected);
    assert!(said.contains("note: m/model_index.json: the pipeline class MyPipeline is not known"), "{said}");
    assert!(said.contains("`threshold` = 3 is not used"), "{said}");
    let mut own: Value = serde_json::from_str(&index("", json!({}))).unwrap();
    own["_class_name"] = json!(["pipeline", "MyPipeline"]);
    with_index(&own.to_string());
    assert!(drawn(&place, "m").1.contains("class MyPipeline is not known"));
}

#[test]
fn networks_of_other_classes_are_refused_by_name() {
    let place = place_with_pipeline();
    for class in ["UNet2DConditionModel", "UNet1DModel", "AutoencoderKL", "DiTTransformer2DModel"] {
        changed(&place, "m", |root| {
            edit(&root.join("unet/config.json"), |config| config["_class_name"] = class.into())
        });
        fails(sample(&place, "m"), 1, &["m/unet/config.json", "`_class_name`", class, "UNet2DModel"]);
    }
    for (key, block) in [("down_block_types", "SkipDownBlock2D"), ("up_block_types", "KUpBlock2D")] {
        changed(&place, "m", |root| edit(&root.join("unet/config.json"), |config| config[key][0] = block.into()));
        fails(sample(&place, "m"), 1, &["m/unet/config.json", key, block]);
    }
}

#[test]
fn values_of_a_network_out_of_range_are_refused_with_the_range() {
    let place = place_with_pipeline();
    for (key, value, expected) in [
        ("norm_eps", json!(1e300), "1e-12 to 1"),
        ("mid_block_scale_factor", json!(-1), "0.001 to 1000"),
        ("mid_block_scale_factor", json!(0), "0.001 to 1000"),
        ("dropout", json!(1.5), "0 ≤ p < 1"),
        ("in_channels", json!(-3), "whole number, 1 or more"),
        ("sample_size", json!(-8), "whole number, 1 or more"),
    ] {
        changed(&place, "m", |root| edit(&root.join("unet/config.json"), |config| config[key] = value));
        fails(sample(&place, "m"), 1, &["m/unet/config.json", &format!("`{key}`"), expected]);
    }
}

/// Sets all weights of a network to a value that depends on the network, so that samples differ.
fn shift(weights: &Path, by: f32) {
    let (mut tensors, metadata) = ddpm::weights::read_safetensors(weights).unwrap();
    tensors.values_mut().flat_map(|tensor| &mut tensor.data).for_each(|value| *value += by);
    ddpm::weights::write_safetensors(weights, ddpm::weights::views(&tensors), &metadata).unwrap();
}

/// Writes `checkpoint-N` of diffusers' train_unconditional.py; the configuration of the averages has the keys that
/// `EMAModel.save_pretrained` of diffusers 0.42 adds.
fn training_checkpoint(place: &Place, folder: &str, step: u64, ema: bool, by: f32) {
    let root = place.path(folder).join(format!("checkpoint-{step}"));
    copy(&place.path("theirs/unet"), &root.join("unet"));
    shift(&root.join("unet").join(WEIGHTS), by);
    if ema {
        copy(&place.path("theirs/unet"), &root.join("unet_ema"));
        shift(&root.join("unet_ema").join(WEIGHTS), 2.0 * by);
        edit(&root.join("unet_ema/config.json"), |config| {
            let settings = json!({
                "decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": step, "power": 0.75,
                "update_after_step": 0, "use_ema_warmup": true,
            });
            config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        });
    }
    for file in ["optimizer.bin", "scheduler.bin", "random_states_0.pkl"] {
        fs::write(root.join(file), "state").unwrap();
    }
}

#[test]
fn averages_of_diffusers_training_are_preferred_and_it_says_so() {
    let place = place_with_pipeline();
    training_checkpoint(&place, "out", 500, true, 0.01);
    let (averaged, said) = drawn(&place, "out/checkpoint-500");
    assert!(
        said.contains("note: using the averaged weights, out/checkpoint-500/unet_ema; name out/checkpoint-500/unet")
    );
    assert!(said.contains("note: out/checkpoint-500/unet_ema has no scheduler_config.json; assumed"), "{said}");
    let (raw, said) = drawn(&place, "out/checkpoint-500/unet");
    assert!(!said.contains("averaged"), "{said}");
    assert_ne!(raw, averaged);
    assert_eq!(drawn(&place, "out/checkpoint-500/unet_ema").0, averaged);

    // The scheduler of the pipeline that the script saves beside its checkpoints.
    copy(&place.path("theirs/scheduler"), &place.path("out/scheduler"));
    let (averaged, said) = drawn(&place, "out/checkpoint-500");
    assert!(!said.contains("scheduler_config.json"), "{said}");
    // Several checkpoints: the newest, by number.
    training_checkpoint(&place, "out", 1000, true, 0.02);
    let (newest, said) = drawn(&place, "out");
    assert!(
        said.contains("using out/checkpoint-1000, the newest of 2 training checkpoints (from checkpoint-500)"),
        "{said}"
    );
    assert!(said.contains("averaged weights, out/checkpoint-1000/unet_ema"), "{said}");
    assert_eq!(newest, drawn(&place, "out/checkpoint-1000").0);
    assert_ne!(newest, averaged);
    // The pipeline itself, once it is saved.
    copy(&place.path("theirs/unet"), &place.path("out/unet"));
    let (saved, said) = drawn(&place, "out");
    assert!(
        said.contains("using out/unet; out also has 2 training checkpoints, checkpoint-500 to checkpoint-1000"),
        "{said}"
    );
    assert_eq!(saved, drawn(&place, "theirs").0);
    // Without averages.
    training_checkpoint(&place, "plain", 7, false, 0.01);
    assert!(drawn(&place, "plain/checkpoint-7").1.contains("has no averaged weights (unet_ema)"));
    // The scheduler is not assumed without a word anywhere.
    let assumed = contains("note: out/checkpoint-500/unet_ema has no scheduler_config.json").not();
    place.ddpm(&["schedule", "out/checkpoint-500", "--steps", "3"]).assert().success().stderr(assumed);
    let assumed = contains("note: plain/checkpoint-7/unet has no scheduler_config.json");
    place.ddpm(&["schedule", "plain", "--steps", "3"]).assert().success().stderr(assumed);
}

#[test]
fn inspect_says_what_a_folder_of_models_is() {
    let place = place_with_pipeline();
    training_checkpoint(&place, "out", 500, true, 0.01);
    training_checkpoint(&place, "out", 1000, true, 0.01);
    let said = contains("training checkpoint of diffusers, step 500")
        .and(contains("unet_ema (averaged weights: decay up to 0.9999, 500 steps)"))
        .and(contains("optimizer.bin (state of the optimizer)"))
        .and(contains("model:      out/checkpoint-500"));
    place.ddpm(&["inspect", "out/checkpoint-500"]).assert().success().stdout(said);
    let said =
        contains("checkpoints: checkpoint-500, checkpoint-1000").and(contains("model:      out/checkpoint-1000"));
    place.ddpm(&["inspect", "out"]).assert().success().stdout(said);

    let said =
        contains("run:        run").and(contains("8x8x1")).and(contains("step 2 of 2")).and(contains("000000002"));
    place
        .ddpm(&["inspect", "run"])
        .assert()
        .success()
        .stdout(said.and(contains("model:      run/checkpoints")))
        .stderr("");
    assert_eq!(json(place.ddpm(&["inspect", "run"]))["folder"]["progress"], "step 2 of 2");
    assert!(json(place.ddpm(&["inspect", "theirs"]))["folder"].is_null());
    // A run before its first checkpoint has pictures in it, and is no set of images.
    copy(&place.path("run"), &place.path("runs/begun"));
    fs::remove_dir_all(place.path("runs/begun/checkpoints")).unwrap();
    let said = contains("no checkpoint yet, 2 steps planned");
    place.ddpm(&["inspect", "runs/begun"]).assert().success().stdout(said).stderr("");
    copy(&place.path("run"), &place.path("runs/ended"));
    let said = contains("runs:       runs/begun (no checkpoint yet").and(contains("runs/ended (step 2 of 2)"));
    place.ddpm(&["inspect", "runs"]).assert().success().stdout(said).stderr("");
    assert!(json(place.ddpm(&["inspect", "runs"]))["folder"]["runs"].is_string());

    // A classifier, whatever its name is; it is no model.
    let small = ["--steps", "2", "--batch-size", "8", "--set", "data.resolution=8", "--quiet"];
    place.ddpm(&[&["classifier", "-o", "my clothes.safetensors"][..], &small].concat()).assert().success();
    fs::copy(place.path("my clothes.safetensors"), place.path("clothes")).unwrap();
    place.ddpm(&["inspect", "clothes"]).assert().success().stdout(contains("classifier: clothes"));
    let quoted = contains("--features 'my clothes.safetensors' --metrics");
    place.ddpm(&["inspect", "my clothes.safetensors"]).assert().success().stdout(quoted);
    fails(sample(&place, "my clothes.safetensors"), 1, &["my clothes.safetensors", "is a classifier", "--features"]);
}

#[test]
fn stand_ins_for_weights_are_named() {
    let place = place_with_pipeline();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 143015\n";
    for (content, what, way_out) in [
        (pointer, "Git LFS pointer", "git lfs pull"),
        ("<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page (HTML)", "login"),
        ("\n <html>", "web page (HTML)", "login"),
        ("", "is empty (0 bytes)", "repeat it"),
    ] {
        changed(&place, "m", |root| fs::write(root.join("unet").join(WEIGHTS), content).unwrap());
        fails(sample(&place, "m"), 1, &["m/unet/diffusion_pytorch_model.safetensors", what, way_out]);
        for file in ["m.ckpt", "m.safetensors", "m.bin", "model.ckpt-1.index"] {
            fs::write(place.path(file), content).unwrap();
            fails(place.ddpm(&["import", file, "-o", "i"]), 1, &[file, what, way_out]);
        }
        if !content.is_empty() {
            changed(&place, "m", |root| fs::write(root.join("unet/config.json"), content).unwrap());
            fails(sample(&place, "m"), 1, &["m/unet/config.json", what, way_out]);
        }
    }
    // A folder needs no import, and the suggested command can be typed.
    copy(&place.path("theirs"), &place.path("my model"));
    let said = "`ddpm export 'my model' -o 'my copy'`";
    fails(place.ddpm(&["import", "my model", "-o", "my copy"]), 2, &["my model", said]);
}

#[cfg(unix)]
#[test]
fn the_cache_of_the_hub_is_read_through_its_snapshots() {
    use std::os::unix::fs::symlink;
    let place = place_with_pipeline();
    let expected = drawn(&place, "theirs").0;
    let model = place.path("home/hub/models--google--ddpm-tiny");
    // A snapshot's files are links to blobs.
    let snapshot = |commit: &str| {
        for (i, file) in files(&place.path("theirs")).into_iter().enumerate() {
            let blob = model.join(format!("blobs/{i}"));
            fs::create_dir_all(blob.parent().unwrap()).unwrap();
            fs::copy(place.path("theirs").join(&file), &blob).unwrap();
            let link = model.join("snapshots").join(commit).join(&file);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&blob, link).unwrap();
        }
    };
    snapshot("aaa");
    let [hub, folder] = ["home/hub", "home/hub/models--google--ddpm-tiny"];
    for path in [folder, hub, "home", "home/hub/models--google--ddpm-tiny/snapshots/aaa"] {
        let (samples, said) = drawn(&place, path);
        assert_eq!(samples, expected);
        assert_eq!(said.contains("note: using the snapshot"), !path.ends_with("aaa"), "{said}");
    }
    snapshot("bbb");
    fails(sample(&place, folder), 1, &[folder, "several snapshots", "snapshots/aaa", "snapshots/bbb"]);
    fs::create_dir(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "bbb").unwrap();
    assert!(drawn(&place, folder).1.contains("snapshots/bbb"));
    for (reference, words) in [("ccc", "`ccc`"), ("../../../..", "`../../../..`"), ("", "``")] {
        fs::write(model.join("refs/main"), reference).unwrap();
        fails(sample(&place, folder), 1, &[folder, "refs/main", words, "snapshots/aaa"]);
    }
    // A blob that was not downloaded.
    fs::write(model.join("refs/main"), "bbb").unwrap();
    fs::remove_dir_all(model.join("blobs")).unwrap();
    fails(sample(&place, folder), 1, &["snapshots/bbb/model_index.json", "a link to a file that is missing"]);
    fs::create_dir_all(place.path("home/hub/models--google--other/snapshots")).unwrap();
    fails(sample(&place, "home"), 1, &["several models", "models--google--ddpm-tiny", "models--google--other"]);
    fails(sample(&place, "home/hub/models--google--other"), 1, &["without snapshots"]);
}

/// Opening a named pipe would block until someone writes to it; a device may have no end.
#[cfg(unix)]
#[test]
fn pipes_sockets_and_devices_are_refused_at_once() {
    let place = place_with_pipeline();
    let pipe = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    pipe(&place.path("pipe"));
    pipe(&place.path("pipe.safetensors"));
    pipe(&place.path("pipe.ckpt"));
    let _socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    for (path, what) in
        [("pipe", "a named pipe"), ("socket", "a socket"), ("/dev/zero", "a device"), ("/dev/null", "a device")]
    {
        for arguments in [
            &["sample", path][..],
            &["inspect", path],
            &["export", path, "-o", "e"],
            &["import", path, "-o", "i"],
            &["schedule", path],
            &["train", "--config", path, "-o", "r"],
            &["predict", "theirs", "-i", path, "-o", "p.safetensors"],
            &["sample", "theirs", "--init", path],
            &["sample", "theirs", "--steps", "3", "--denoising", path],
            &["evaluate", path, "-n", "1"],
        ] {
            let mut command = place.ddpm(arguments);
            command.timeout(std::time::Duration::from_secs(20));
            fails(command, 1, &[path, what]);
        }
    }
    fails(sample(&place, "pipe.safetensors"), 1, &["pipe.safetensors", "a named pipe"]);
    fails(place.ddpm(&["import", "pipe.ckpt", "-o", "i"]), 1, &["pipe.ckpt", "a named pipe"]);
    for file in [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "preprocessing.json",
    ] {
        changed(&place, "m", |root| {
            fs::remove_file(root.join(file)).unwrap();
            pipe(&root.join(file));
        });
        fails(sample(&place, "m"), 1, &[file, "a named pipe"]);
    }
}

#[test]
fn a_denoising_profile_belongs_to_its_model() {
    let place = place_with_pipeline();
    place.trained("other", 2, &["--set", "train.seed=5"]);
    let measure = ["evaluate", "run", "-n", "2", "--draws", "1", "--metrics", "nll", "--denoising", "mt.json"];
    let data = ["--data", "train-images-idx3-ubyte", "--train", "-q"];
    place.ddpm(&[&measure[..], &data].concat()).assert().success();
    let use_it =
        |model: &str| place.ddpm(&["sample", model, "-n", "1", "--steps", "3", "--denoising", "mt.json", "-q"]);
    use_it("run").assert().success().stderr("");
    // The same model, in another folder.
    use_it("theirs").assert().success().stderr("");
    fails(use_it("other"), 1, &["mt.json", "another model, run/checkpoints/000000002", "other/checkpoints/000000002"]);
    // The same weights in another process.
    changed(&place, "m", |root| {
        edit(&root.join("scheduler/scheduler_config.json"), |config| config["beta_end"] = json!(0.03));
    });
    fails(use_it("m"), 1, &["mt.json", "another model"]);
    // A file of an early version.
    edit(&place.path("mt.json"), |profile| {
        profile.as_object_mut().unwrap().remove("model").unwrap();
    });
    use_it("other").assert().success().stderr(contains("warning: mt.json does not say which model"));
}

#[test]
fn preprocessing_that_does_not_fit_the_network_is_refused() {
    let place = place_with_pipeline();
    for (key, value, words) in [
        ("channels", json!(3), "`channels` is 3, expected 1"),
        ("resolution", json!([9, 9]), "`resolution`"),
        ("resolution", json!([0, 0]), "resolution is 0x0"),
        ("null_label", json!(5), "`null_label` is 5, but the network has no classes"),
        ("fit", json!("stretch"), "stretch"),
        ("novelty", json!(1), "novelty"),
    ] {
        changed(&place, "m", |root| edit(&root.join("preprocessing.json"), |file| file[key] = value));
        fails(sample(&place, "m"), 1, &["m/", "preprocessing.json", words]);
    }
}
