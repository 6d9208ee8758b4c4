//! Importing weights of diffusers, current and old.

use std::path::Path;

use weights::families::{ImportOptions, import};
use weights::{views, write_safetensors};

#[test]
fn old_and_new_diffusers_weights_are_equal() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pipeline");
    let modern = import(folder.join("unet/diffusion_pytorch_model.safetensors"), &ImportOptions::default()).unwrap();
    for file in ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"] {
        let old = import(folder.join("old").join(file), &ImportOptions::default()).unwrap();
        assert_eq!(old.family, "diffusers");
        assert_eq!(old.tensors, modern.tensors, "{file}");
        assert_eq!(old.config["block_out_channels"], modern.config["block_out_channels"]);
    }
    assert_eq!(modern.scheduler["variance_type"], "fixed_large");

    // Without a configuration in the same folder, the weights are an error.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    write_safetensors(&path, views(&modern.tensors), &Default::default()).unwrap();
    let error = import(&path, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("put the config.json"), "{error}");
}
