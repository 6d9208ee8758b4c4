//! Networks of other code bases under diffusers' names. `tools/goldens_families.py` wrote the files; that the networks
//! compute the same is tested where they run, in crates/unet.

use ddpm_weights::families::{Heads, ImportOptions, Imported, import};
use ddpm_weights::{Tensor, Tensors, read_tensors, views, write_safetensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens/families").join(name)
}

fn keys(config: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|&key| config[key].clone()).collect()
}

/// What is wrong with a file of these tensors.
fn error(tensors: &Tensors) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    write_safetensors(&path, views(tensors), &Default::default()).unwrap();
    import(&path, &ImportOptions::default()).unwrap_err().to_string()
}

fn with_shapes(shapes: &[(&str, &[usize])]) -> Tensors {
    let tensor = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] };
    shapes.iter().map(|&(name, shape)| (name.to_owned(), tensor(shape))).collect()
}

#[test]
fn every_family() {
    let options = |heads| ImportOptions { heads, ..ImportOptions::default() };
    let two = options(Some(Heads::Count(2)));
    let none = options(None);
    // (file, options, family, averages, prefix, parameters)
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

#[test]
fn what_weights_do_not_say() {
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

    // The release that resamples by residual blocks has 64 channels in a head, which 32 channels are not.
    let error = import(golden("guided.pt"), &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("32 channels cannot be divided into heads of 64"), "{error}");
    let options = ImportOptions { heads: Some(Heads::Channels(16)), sample_size: Some(8), ..ImportOptions::default() };
    let guided = import(golden("guided.pt"), &options).unwrap();
    let samplers = ["downsample_type", "upsample_type", "resnet_time_scale_shift", "sample_size", "attention_head_dim"];
    assert_eq!(keys(&guided.config, &samplers), json!(["resnet", "resnet", "scale_shift", 8, 16]));
    // Another order of q, k and v is another network.
    let new = import(golden("guided.pt"), &ImportOptions { new_attention_order: true, ..options }).unwrap();
    let q = "mid_block.attentions.0.to_q.weight";
    assert_ne!(guided.tensors[q], new.tensors[q]);
}

#[test]
fn averages_are_preferred() {
    let raw = ImportOptions { raw: true, ..ImportOptions::default() };
    for (file, prefix, value) in [("w86763777.pt", "net_model.", 0.01), ("ddim.pt", "0.module.", 0.01)] {
        let imported = import(golden(file), &raw).unwrap();
        assert_eq!((imported.ema, &*imported.prefix), (false, prefix));
        assert!(imported.tensors["conv_in.weight"].data.iter().all(|&x| x == value), "{file}");
    }
    // OpenAI's programs and pesser's releases put averages into files of their own.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ema_0.9999_500000.pt");
    fs::copy(golden("improved.pt"), &path).unwrap();
    assert!(import(&path, &ImportOptions::default()).unwrap().ema);
}

#[test]
fn diffusers_of_any_age() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/pipeline");
    let modern = import(folder.join("unet/diffusion_pytorch_model.safetensors"), &ImportOptions::default()).unwrap();
    for file in ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"] {
        let old = import(folder.join("old").join(file), &ImportOptions::default()).unwrap();
        assert_eq!(old.family, "diffusers");
        assert_eq!(old.tensors, modern.tensors, "{file}");
        assert_eq!(old.config["block_out_channels"], modern.config["block_out_channels"]);
    }
    assert_eq!(modern.scheduler["variance_type"], "fixed_large");
    let error = error(&modern.tensors);
    assert!(error.contains("put the config.json"), "{error}");
}

#[test]
fn networks_that_are_others() {
    for (name, reason) in [
        ("state_dict.ema.down.1.resblocks.norm1.weight", "the values, is not used"),
        ("ema.ema_model.model.downs.0.0.block1.proj.weight", "learned memory keys and values"),
        ("encoder.layers.0.weight", "no network of a known family"),
    ] {
        let error = error(&with_shapes(&[(name, &[1])]));
        assert!(error.contains(reason), "{error}");
    }
    let latent = with_shapes(&[
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.weight", &[1]),
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1.weight", &[1]),
    ]);
    assert!(error(&latent).contains("it attends to a text"));
    let classifier = with_shapes(&[("input_blocks.1.0.in_layers.0.weight", &[1])]);
    assert!(error(&classifier).contains("a classifier"));
}

#[test]
fn every_tensor_has_its_place() {
    let whole: Tensors = read_tensors(golden("pesser.pt")).unwrap();
    let without = |name: &str| {
        let mut tensors = whole.clone();
        tensors.remove(name).unwrap();
        error(&tensors)
    };
    // Whatever is missing or too much is named, or breaks the levels.
    for name in whole.keys().step_by(3) {
        let error = without(name);
        assert!(error.contains("x.pt: "), "{name}: {error}");
    }
    assert!(without("mid.attn_1.k.bias").contains("it should have a tensor `mid.attn_1.k.bias`"));
    assert!(without("conv_in.weight").contains("it has no tensor `conv_in.weight`"));
    assert!(without("up.1.upsample.conv.weight").contains("nothing with weights resamples"));
    let mut more = whole.clone();
    more.extend(with_shapes(&[("mid.block_3.norm1.weight", &[32])]));
    assert!(error(&more).contains("`mid.block_3.norm1.weight` has no place"));

    // Wrong shapes are for the network to refuse; here they must only not panic.
    for name in whole.keys().step_by(9) {
        for shape in [vec![], vec![0], vec![3], vec![2, 2, 2, 2, 2]] {
            let data = vec![0.0; shape.iter().product()];
            let tensors: BTreeMap<_, _> =
                whole.clone().into_iter().chain([(name.clone(), Tensor { shape, data })]).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            write_safetensors(&path, views(&tensors), &Default::default()).unwrap();
            let _ = import(&path, &ImportOptions::default());
        }
    }
}
