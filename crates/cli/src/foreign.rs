//! Files of the user's that an output must not replace.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::bail;
use ddpm::evaluate::quality::StatisticsOrigin;
use ddpm::sample::Provenance;
use ddpm::{data, files};

use crate::inspect;

/// Refuses a path where a file lies that this program did not write as an output: a photo, a data set, weights, a
/// configuration.
pub fn check_replaceable(path: &Path) -> anyhow::Result<()> {
    let is_foreign = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0) && !is_output(path);
    if is_foreign {
        bail!("{}: is a file from elsewhere; choose another name for the output, or remove it", path.display());
    }
    Ok(())
}

/// Refuses the first of several outputs, those that are asked for, where [`check_replaceable`] does.
pub fn check_all_replaceable<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> anyhow::Result<()> {
    paths.into_iter().flatten().try_for_each(check_replaceable)
}

/// Returns whether the content of a file says that it is an output of this program.
fn is_output(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = files::open_regular(path).and_then(|(file, _)| file.take(1 << 16).read_to_end(&mut head));
    if read.is_err() {
        return false;
    }
    let names = |names: &[&str]| {
        let head = String::from_utf8_lossy(&head);
        names.iter().any(|name| head.contains(&format!("\"{name}\":")))
    };
    match &head[..] {
        [0x89, b'P', b'N', b'G', ..] | [b'G', b'I', b'F', ..] => data::is_generated(path),
        [b'P', b'K', ..] => matches!(Provenance::read(path), Ok(Some(_))) || StatisticsOrigin::read(path).is_some(),
        // A profile of `ddpm evaluate --denoising`.
        [b'{', ..] => names(&["mse"]),
        // Samples, latents, predictions and classifiers in safetensors; not the weights of a network.
        [_, _, _, _, _, _, _, _, b'{', ..] => {
            names(&["samples", "noise", "prediction"]) || inspect::classifier(path).is_some()
        }
        _ => false,
    }
}
