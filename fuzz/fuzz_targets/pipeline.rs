//! Finds and verifies the model in a folder whose JSON files are the input, split at the bytes 0xff, which text in UTF-8 does
//! not have. Reads its scheduler.
#![no_main]

use diffusion::SchedulerConfig;
use libfuzzer_sys::fuzz_target;
use weights::{digest, families, pipeline};

/// The files, in the order of the parts of the input.
const FILES: [&str; 5] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "checksums.json",
    "unet/diffusion_pytorch_model.safetensors.index.json",
];

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in FILES.iter().zip(bytes.split(|byte| *byte == 0xff)) {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let _ = digest::verify(folder.path());
    if let Ok(files) = pipeline::locate(folder.path()) {
        let _ = families::import(&files.unet_weights, &Default::default());
        if let Some(Ok(text)) = files.scheduler_config.map(std::fs::read_to_string)
            && let Ok(config) = SchedulerConfig::from_json(&text)
        {
            let _ = config.to_json();
        }
    }
});
