//! Errors of importing networks that are not supported. Imports of whole networks are tested by the crates that own the
//! golden files: `crates/unet/tests/import.rs` for other code bases, `crates/sample/tests/import.rs` for diffusers.

use ddpm_weights::families::{ImportOptions, import};
use ddpm_weights::{Tensor, Tensors, views, write_safetensors};

/// Returns the error of importing a file of these tensors.
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
fn unsupported_networks_are_errors() {
    for (name, reason) in [
        ("state_dict.ema.down.1.resblocks.norm1.weight", "`state_dict.ema.down.0.weight` is missing"),
        ("ema.ema_model.model.downs.0.0.block1.proj.weight", "`ema.ema_model.model.init_conv.weight` is missing"),
        ("encoder.layers.0.weight", "no network of a known family"),
    ] {
        let error = error(&with_shapes(&[(name, &[1])]));
        assert!(error.contains(reason), "{error}");
    }
    let latent = with_shapes(&[
        ("model.diffusion_model.input_blocks.1.0.in_layers.0.weight", &[1]),
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1.weight", &[1]),
    ]);
    assert!(error(&latent).contains("cross-attention to a text"));
    let classifier = with_shapes(&[("input_blocks.1.0.in_layers.0.weight", &[1])]);
    assert!(error(&classifier).contains("a classifier"));
}
