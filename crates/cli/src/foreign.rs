//! Files of the user's that an output must not replace.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::bail;
use ddpm::data;
use ddpm::sample::Provenance;

/// Refuses a path where a file lies that this program did not write: a photo, a data set, weights.
pub fn check_replaceable(path: &Path) -> anyhow::Result<()> {
    let is_foreign = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0) && !is_own(path);
    if is_foreign {
        bail!("{}: is a file from elsewhere; choose another name for the output, or remove it", path.display());
    }
    Ok(())
}

fn is_own(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match extension.as_str() {
        "png" | "apng" | "gif" => data::is_generated(path),
        "npz" => matches!(Provenance::read(path), Ok(Some(_))),
        "safetensors" => holds_images(path),
        _ => true,
    }
}

/// Returns whether the header of a safetensors file names samples or noise, not the weights of a network.
fn holds_images(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut head));
    let head = String::from_utf8_lossy(&head);
    read.is_ok() && ["\"samples\":", "\"noise\":"].iter().any(|name| head.contains(name))
}
