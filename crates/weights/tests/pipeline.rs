//! Finding the files of a model in every supported layout, and updating old parameter names.

use ddpm_weights::pipeline::{ModelFiles, checkpoints, latest, locate, set_latest, write_model_index};
use ddpm_weights::{Error, Tensor, Tensors, names};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Creates a folder with these files, which are empty but for `model_index.json`.
fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    add(folder.path(), files);
    folder
}

fn add(folder: &Path, files: &[&str]) {
    for file in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let index = r#"{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}"#;
        fs::write(path, if file.ends_with("model_index.json") { index } else { "" }).unwrap();
    }
}

fn message(path: &Path) -> String {
    let error = locate(path).unwrap_err();
    assert!(matches!(error, Error::NoModel { .. }), "{error}");
    error.to_string()
}

fn located(root: PathBuf, unet: &str, scheduler: Option<&str>, index: bool) -> ModelFiles {
    ModelFiles {
        unet_config: root.join(unet).join("config.json"),
        unet_weights: root.join(unet).join(WEIGHTS),
        scheduler_config: scheduler.map(|scheduler| root.join(scheduler)),
        model_index: index.then(|| root.join("model_index.json")),
        root,
        notes: Vec::new(),
    }
}

const PIPELINE: [&str; 4] = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
];

#[test]
fn pipeline_folder() {
    let folder = folder(&PIPELINE);
    let root = folder.path();
    let expected = located(root.to_owned(), "unet", Some("scheduler/scheduler_config.json"), true);
    assert_eq!(locate(root).unwrap(), expected);
    assert_eq!(locate(root.join("model_index.json")).unwrap(), expected);

    // Its unet folder and its weights have the same network and scheduler.
    for path in [root.join("unet"), root.join("unet").join(WEIGHTS), root.join("unet/config.json")] {
        let unet = locate(path).unwrap();
        assert_eq!(unet.root, root.join("unet"));
        assert_eq!(unet.unet_config, expected.unet_config);
        assert_eq!(unet.unet_weights, expected.unet_weights);
        assert_eq!(unet.scheduler_config, expected.scheduler_config);
    }
}

/// `google/ddpm-cifar10-32`.
#[test]
fn flat_repository() {
    let folder = folder(&["model_index.json", "config.json", WEIGHTS, "scheduler_config.json", "README.md"]);
    let expected = located(folder.path().to_owned(), "", Some("scheduler_config.json"), true);
    assert_eq!(locate(folder.path()).unwrap(), expected);
}

#[test]
fn unet_without_scheduler() {
    let folder = folder(&["config.json", WEIGHTS]);
    let found = locate(folder.path()).unwrap();
    assert!(found.notes[0].contains("assumed Ho et al.'s process"), "{:?}", found.notes);
    let found = ModelFiles { notes: Vec::new(), ..found };
    assert_eq!(found, located(folder.path().to_owned(), "", None, false));
}

#[test]
fn preferred_weights() {
    let folder = folder(&["config.json", "diffusion_pytorch_model.bin"]);
    let pickled = located(folder.path().to_owned(), "", None, false).unet_weights.with_extension("bin");
    assert_eq!(locate(folder.path()).unwrap().unet_weights, pickled);
    assert_eq!(locate(&pickled).unwrap().unet_weights, pickled);
    std::fs::write(folder.path().join("ema.pt"), "").unwrap();
    let alone = locate(folder.path().join("ema.pt"));
    assert!(matches!(&alone, Err(Error::Import { .. })), "{alone:?}");
    assert!(alone.unwrap_err().to_string().contains("ddpm import"));

    for better in
        ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.json", WEIGHTS]
    {
        add(folder.path(), &[better]);
        assert_eq!(locate(folder.path()).unwrap().unet_weights, folder.path().join(better));
    }
    // A file that is given by name may have any name.
    add(folder.path(), &["mine.safetensors"]);
    let mine = folder.path().join("mine.safetensors");
    assert_eq!(locate(&mine).unwrap().unet_weights, mine);
}

#[test]
fn run_folder() {
    let folder = folder(&["config.toml", "metrics.jsonl"]);
    let run = folder.path();
    let checkpoints_folder = run.join("checkpoints");
    let add_checkpoint = |name: &str| add(&checkpoints_folder.join(name), &PIPELINE);
    assert!(message(run).contains("checkpoints/latest"));
    fs::create_dir(&checkpoints_folder).unwrap();
    assert!(message(run).contains("checkpoints/latest"));

    for name in ["000000900", "000010000", "junk", ".000020000.tmp-1-1"] {
        add_checkpoint(name);
    }
    // An incomplete checkpoint, a file instead of a folder, and a folder without a network.
    add(&checkpoints_folder, &["000030000/unet/config.json", "000040000", "000050000/training/state.json"]);
    let root = |path: &Path| locate(path).unwrap().root;
    let newest = checkpoints_folder.join("000010000");
    assert_eq!(root(run), newest, "no latest: the newest complete one");
    let numbers: Vec<u64> = checkpoints(&checkpoints_folder).unwrap().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [900, 10_000, 30_000, 50_000]);

    assert_eq!(latest(&checkpoints_folder).unwrap(), None);
    set_latest(&checkpoints_folder, "000000900").unwrap();
    assert_eq!(latest(&checkpoints_folder).unwrap().unwrap(), "000000900");
    let named = checkpoints_folder.join("000000900");
    for path in [run, &checkpoints_folder, &named] {
        assert_eq!(root(path), named);
    }
    fs::remove_dir_all(&named).unwrap();
    assert_eq!(root(run), newest, "latest is gone: the newest complete one");

    for bad in ["", "../x", "/etc", "a/b", ".."] {
        fs::write(checkpoints_folder.join("latest"), bad).unwrap();
        let error = locate(run).unwrap_err().to_string();
        assert!(error.contains("latest") && error.contains("000010000"), "{bad}: {error}");
    }
}

#[test]
fn missing_models_are_errors() {
    let folder = folder(&["picture.png"]);
    let empty = message(folder.path());
    for what in ["unet/config.json", "config.json", "checkpoints/latest"] {
        assert!(empty.contains(what), "{empty}");
    }
    assert!(message(&folder.path().join("picture.png")).contains("or a .safetensors file"));
    assert!(message(Path::new("google/ddpm-cifar10-32")).contains("hf download"));

    add(folder.path(), &["unet/config.json"]);
    let no_weights = message(folder.path());
    assert!(no_weights.contains("/unet") && no_weights.contains(WEIGHTS), "{no_weights}");
    fs::remove_file(folder.path().join("unet/config.json")).unwrap();
    assert!(message(folder.path()).contains("config.json"));
}

/// The index is equal to the one that `DDPMPipeline.save_pretrained` writes.
#[test]
fn model_index() {
    let folder = folder(&[]);
    write_model_index(folder.path(), "UNet2DModel", "DDPMScheduler").unwrap();
    let expected = r#"{
  "_class_name": "DDPMPipeline",
  "_diffusers_version": "0.35.0",
  "scheduler": [
    "diffusers",
    "DDPMScheduler"
  ],
  "unet": [
    "diffusers",
    "UNet2DModel"
  ]
}
"#;
    assert_eq!(fs::read_to_string(folder.path().join("model_index.json")).unwrap(), expected);
}

#[test]
fn old_tensors_are_renamed_and_squeezed() {
    let tensor = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: vec![0.5; shape.iter().product()] };
    let old = Tensors::from([
        ("mid_block.attentions.0.query.weight".to_owned(), tensor(&[4, 4, 1, 1])),
        ("mid_block.attentions.0.proj_attn.weight".to_owned(), tensor(&[4, 4])),
        ("mid_block.attentions.0.key.bias".to_owned(), tensor(&[4])),
        ("mid_block.attentions.0.to_v.weight".to_owned(), tensor(&[4, 4, 1])),
        ("mid_block.resnets.0.conv_shortcut.weight".to_owned(), tensor(&[4, 2, 1, 1])),
    ]);
    let new = names::modernize("f", old).unwrap();
    let shapes: Vec<_> = new.iter().map(|(name, tensor)| (name.as_str(), &tensor.shape[..])).collect();
    let expected: [(&str, &[usize]); 5] = [
        ("mid_block.attentions.0.to_k.bias", &[4]),
        ("mid_block.attentions.0.to_out.0.weight", &[4, 4]),
        ("mid_block.attentions.0.to_q.weight", &[4, 4]),
        ("mid_block.attentions.0.to_v.weight", &[4, 4]),
        ("mid_block.resnets.0.conv_shortcut.weight", &[4, 2, 1, 1]),
    ];
    assert_eq!(shapes, expected);

    let both = ["attentions.0.query.weight", "attentions.0.to_q.weight"];
    let both = both.into_iter().map(|name| (name.to_owned(), tensor(&[1, 1]))).collect();
    let error = names::modernize("f.safetensors", both).unwrap_err().to_string();
    assert!(error.contains("f.safetensors") && error.contains("to_q"), "{error}");
}
