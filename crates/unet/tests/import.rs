//! Tests the import of networks of other code bases: names, shapes and configuration. `tools/goldens_families.py`
//! writes the files; `families.rs` tests that the imported networks compute the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_unet::Parameters;
use ddpm_unet::lucidrains::{LucidrainsConfig, LucidrainsUnet};
use serde_json::{Value, json};
use weights::families::{Heads, ImportOptions, Imported, import};
use weights::{Tensor, Tensors, read_tensors, views, write_safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name)
}

fn keys(config: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|&key| config[key].clone()).collect()
}

/// Returns the error of importing a file of these tensors.
fn error(tensors: &Tensors) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    write_safetensors(&path, views(tensors), &Default::default()).unwrap();
    import(&path, &ImportOptions::default()).unwrap_err().to_string()
}

#[test]
fn every_family_is_imported() {
    let options = |heads| ImportOptions { heads, ..ImportOptions::default() };
    let two = options(Some(Heads::Count(2)));
    let none = options(None);
    // (file, options, family, is EMA, prefix, number of parameters)
    let table = [
        ("pesser.pt", &none, "pesser/pytorch_diffusion", false, "", 285_667),
        ("ddim.pt", &none, "pesser/pytorch_diffusion", true, "4.", 163_331),
        ("ho/model.ckpt-790000", &none, "hojonathanho/diffusion", true, "model/", 175_041),
        ("improved.pt", &none, "openai/improved-diffusion or guided-diffusion", false, "", 320_454),
        ("guided.pt", &two, "openai/improved-diffusion or guided-diffusion", false, "", 367_686),
        ("w86763777.pt", &none, "w86763777/pytorch-ddpm", true, "ema_model.", 285_667),
    ];
    for (file, options, family, ema, prefix, parameters) in table {
        let imported = import(golden(file), options).unwrap();
        let Imported { config, tensors, .. } = &imported;
        assert_eq!((imported.family, imported.ema, &*imported.prefix), (family, ema, prefix), "{file}");
        assert_eq!(tensors.values().map(|tensor| tensor.data.len()).sum::<usize>(), parameters, "{file}");
        assert_eq!(config["block_out_channels"][0], 32, "{file}");
        assert_eq!(tensors["mid_block.attentions.0.to_q.weight"].shape, [32, 32], "{file}");
        assert_eq!(tensors["up_blocks.0.resnets.0.conv_shortcut.weight"].shape, [32, 64, 1, 1], "{file}");
        for tensor in tensors.values() {
            assert_eq!(tensor.data.len(), tensor.shape.iter().product::<usize>());
        }
    }
}

/// The network with classes of an older version, whose weights do not tell the version.
#[test]
fn lucidrains_networks_with_classes_need_a_version_before_2() {
    let file = golden("../lucidrains_classes_0.32/network.pt");
    let with = |version: &str| {
        import(&file, &ImportOptions { code_version: Some(version.into()), ..ImportOptions::default() })
    };
    let error = import(&file, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("--code-version"), "{error}");
    for version in ["2.0", "0.28", "x"] {
        assert!(with(version).is_err(), "{version}");
    }
    let imported = with("1.5.8").unwrap();
    assert_eq!(imported.null_label, Some(3));
    let stored = read_tensors(golden("../lucidrains_classes_0.32/weights.safetensors")).unwrap();
    assert_eq!(imported.tensors.len(), stored.len());
    for (name, tensor) in &stored {
        let found = &imported.tensors[name];
        assert_eq!(found.shape, tensor.shape, "{name}");
        let worst = found.data.iter().zip(&tensor.data).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
    let mut config = LucidrainsConfig::from_json(&imported.config.to_string()).unwrap();
    config.resnet_block_groups = 4;
    let network = LucidrainsUnet::new(&config, 0, &Device::flex()).unwrap();
    assert!(network.with_tensors(imported.tensors).is_ok());
    assert_eq!(config.original_name("downs.0.2.to_out.1.g"), "downs.0.2.fn.fn.to_out.1.g");
    assert_eq!(config.original_name("mid_attn.norm.g"), "mid_attn.fn.norm.g");
    assert_eq!(config.original_name("downs.0.0.block1.norm.weight"), "downs.0.0.block1.norm.weight");
}

#[test]
fn settings_that_are_not_in_the_weights_are_assumed() {
    let conventions = ["flip_sin_to_cos", "freq_shift", "downsample_padding", "norm_eps", "attention_head_dim"];
    let config = |file| import(golden(file), &ImportOptions::default()).unwrap().config;
    assert_eq!(keys(&config("pesser.pt"), &conventions), json!([false, 1, 0, 1e-6, null]));
    assert_eq!(keys(&config("improved.pt"), &conventions), json!([true, 0, 1, 1e-5, 8]));
    assert_eq!(keys(&config("w86763777.pt"), &conventions), json!([false, 0, 1, 1e-5, null]));

    let improved = import(golden("improved.pt"), &ImportOptions::default()).unwrap();
    assert!(improved.notes.iter().any(|note| note.contains("assumed 4 (num_heads)")), "{:?}", improved.notes);
    assert_eq!(improved.scheduler["variance_type"], "learned_range");
    let blocks = ["down_block_types", "up_block_types", "num_class_embeds", "attn_norm_num_groups"];
    let expected = json!([["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D"], 7, 32]);
    assert_eq!(keys(&improved.config, &blocks), expected);

    // Networks that resample with residual blocks are assumed to have heads of 64 channels; this one has only 32
    // channels.
    let error = import(golden("guided.pt"), &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("32 channels cannot be divided into heads of 64"), "{error}");
    let options = ImportOptions { heads: Some(Heads::Channels(16)), sample_size: Some(8), ..ImportOptions::default() };
    let guided = import(golden("guided.pt"), &options).unwrap();
    let samplers = ["downsample_type", "upsample_type", "resnet_time_scale_shift", "sample_size", "attention_head_dim"];
    assert_eq!(keys(&guided.config, &samplers), json!(["resnet", "resnet", "scale_shift", 8, 16]));
    // The order of q, k and v changes the tensors.
    let new = import(golden("guided.pt"), &ImportOptions { new_attention_order: true, ..options }).unwrap();
    let q = "mid_block.attentions.0.to_q.weight";
    assert_ne!(guided.tensors[q], new.tensors[q]);
}

#[test]
fn options_of_another_family_are_refused() {
    let refused = |file, options: ImportOptions, expected: &str| {
        let error = import(golden(file), &options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let heads = ImportOptions { heads: Some(Heads::Count(2)), ..ImportOptions::default() };
    refused("pesser.pt", heads, "a number of heads cannot be chosen for it, only for networks of OpenAI's programs");
    let order = ImportOptions { new_attention_order: true, ..ImportOptions::default() };
    refused("w86763777.pt", order, "an attention order cannot be chosen for it");
    let version = ImportOptions { code_version: Some("1.5.8".to_owned()), ..ImportOptions::default() };
    refused("improved.pt", version, "a version of the code cannot be chosen for it, only for lucidrains' networks");
}

#[test]
fn moving_averages_are_preferred() {
    let raw = ImportOptions { raw: true, ..ImportOptions::default() };
    for (file, prefix, value) in [("w86763777.pt", "net_model.", 0.01), ("ddim.pt", "0.module.", 0.01)] {
        let imported = import(golden(file), &raw).unwrap();
        assert_eq!((imported.ema, &*imported.prefix), (false, prefix));
        assert!(imported.tensors["conv_in.weight"].data.iter().all(|&x| x == value), "{file}");
    }
    // OpenAI's code and pesser's releases store moving averages in separate files.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ema_0.9999_500000.pt");
    fs::copy(golden("improved.pt"), &path).unwrap();
    assert!(import(&path, &ImportOptions::default()).unwrap().ema);
}

#[test]
fn missing_and_unexpected_tensors_are_errors() {
    let all: Tensors = read_tensors(golden("pesser.pt")).unwrap();
    let without = |name: &str| {
        let mut tensors = all.clone();
        tensors.remove(name).unwrap();
        error(&tensors)
    };
    // Any missing tensor is an error that names the tensor or the level.
    for name in all.keys().step_by(3) {
        let error = without(name);
        assert!(error.contains("x.pt: "), "{name}: {error}");
    }
    assert!(without("mid.attn_1.k.bias").contains("tensor `mid.attn_1.k.bias` is missing"));
    assert!(without("conv_in.weight").contains("tensor `conv_in.weight` is missing"));
    assert!(
        without("up.1.upsample.conv.weight")
            .contains("level 0 of the up path has no module with weights that resamples")
    );
    let mut more = all.clone();
    more.insert("mid.block_3.norm1.weight".to_owned(), Tensor { shape: vec![32], data: vec![0.0; 32] });
    assert!(error(&more).contains("`mid.block_3.norm1.weight` has no counterpart"));

    // Wrong shapes are detected when the network is built; the import must not panic.
    for name in all.keys().step_by(9) {
        for shape in [vec![], vec![0], vec![3], vec![2, 2, 2, 2, 2]] {
            let data = vec![0.0; shape.iter().product()];
            let tensors: BTreeMap<_, _> =
                all.clone().into_iter().chain([(name.clone(), Tensor { shape, data })]).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            write_safetensors(&path, views(&tensors), &Default::default()).unwrap();
            let _ = import(&path, &ImportOptions::default());
        }
    }
}

/// Files of `Trainer` of old versions: names, standardized convolutions and versions, which are recorded from 1.0 on.
#[test]
fn old_networks_of_lucidrains_become_new_ones() {
    let place =
        |network: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/lucidrains_{network}"));
    let with =
        |version: Option<&str>| ImportOptions { code_version: version.map(str::to_owned), ..ImportOptions::default() };
    for (network, version) in [("0.28", Some("0.30.1")), ("0.32", None), ("1.7", None), ("1.9", None)] {
        let imported = import(place(network).join("trainer.pt"), &with(version)).unwrap();
        let expected: Value =
            serde_json::from_str(&fs::read_to_string(place(network).join("config.json")).unwrap()).unwrap();
        for key in ["version", "dim", "dim_mults", "self_condition", "learned_variance"] {
            let expected = expected.get(key).cloned().unwrap_or(json!(false));
            assert_eq!(imported.config[key], expected, "{network}: {key}");
        }
        let tensors = read_tensors(place(network).join("weights.safetensors")).unwrap();
        assert!(tensors.keys().eq(imported.tensors.keys()), "{network}");
        for (name, tensor) in tensors {
            let found = &imported.tensors[&name];
            assert_eq!(found.shape, tensor.shape, "{network}: {name}");
            let is_same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
            assert!(found.data.iter().zip(&tensor.data).all(is_same), "{network}: {name}");
        }
        let config = LucidrainsConfig::from_json(&imported.config.to_string()).unwrap();
        let device = Device::flex();
        LucidrainsUnet::new(&config, 0, &device).unwrap().with_tensors(imported.tensors).unwrap();
    }
    let refused = [
        ("0.28", None, "--code-version"),
        ("0.28", Some("0.27.12"), "only versions from 0.28"),
        ("0.28", Some("0.32.0"), "not those of version 0.32.0"),
        ("0.32", Some("0.31.1"), "not those of version 0.31.1"),
        ("0.32", Some("1.8"), "not those of version 1.8"),
        ("1.9", Some("2"), "not those of version 2"),
        ("1.9", Some("latest"), "expected one such as 1.5.8"),
        // 2 heads of 5 channels, which no tensor tells.
        ("1.7.4", None, "whose heads are not recorded"),
    ];
    for (network, version, reason) in refused {
        let error = import(place(network).join("trainer.pt"), &with(version)).unwrap_err().to_string();
        assert!(error.contains(reason), "{network}, {version:?}: {error}");
    }
}
