//! Tests that networks of other code bases compute the same as the original code. `tools/goldens_families.py` builds
//! each family's network in PyTorch with every option enabled, and writes its weights and outputs.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_unet::{Labels, Parameters, Unet, UnetConfig};
use weights::families::{Heads, ImportOptions, import};
use weights::read_safetensors;

fn options(name: &str) -> ImportOptions {
    ImportOptions {
        heads: ["guided", "guided_new_order", "improved_plain"].contains(&name).then_some(Heads::Count(2)),
        new_attention_order: name == "guided_new_order",
        ..ImportOptions::default()
    }
}

/// Returns the largest difference from the golden output, relative to its largest value.
fn difference(name: &str, file: &str) -> f32 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let imported = import(folder.join(file), &options(name)).unwrap();
    let config = UnetConfig::from_json(&imported.config.to_string()).unwrap();
    let unet = Unet::new(&config, 0, &Device::flex()).unwrap().with_tensors(imported.tensors).unwrap();
    let (golden, _) = read_safetensors(folder.join(format!("{name}.safetensors"))).unwrap();
    let x = &golden["x"];
    let shape: [usize; 4] = x.shape.clone().try_into().unwrap();
    let x = Tensor::<4>::from_data(TensorData::new(x.data.clone(), shape), &Device::flex()).permute([0, 2, 3, 1]);
    let labels: Option<Vec<u32>> =
        golden.get("labels").map(|labels| labels.data.iter().map(|&label| label as u32).collect());
    let labels = labels.as_deref().map(Labels::Classes);
    let output = unet.forward(x, &golden["t"].data, labels, None).permute([0, 3, 1, 2]);
    let output: Vec<f32> = output.into_data().iter::<f32>().collect();
    let expected = &golden["output"].data;
    assert_eq!(output.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
    output.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

#[test]
fn every_family_matches_its_original_code() {
    for (name, file) in [
        ("ho", "ho/model.ckpt-790000"),
        ("pesser", "pesser.pt"),
        ("ddim", "ddim.pt"),
        ("improved", "improved.pt"),
        ("improved_plain", "improved_plain.pt"),
        ("guided", "guided.pt"),
        ("guided_new_order", "guided_new_order.pt"),
        ("w86763777", "w86763777.pt"),
    ] {
        let difference = difference(name, file);
        println!("{name}: {difference:.1e}");
        assert!(difference < 1e-5, "{name}: {difference:e}");
    }
}
