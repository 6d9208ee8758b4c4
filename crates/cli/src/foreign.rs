//! Files of the user's that an output must not replace.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::bail;
use ddpm::evaluate::quality::StatisticsOrigin;
use ddpm::sample::Provenance;
use ddpm::{data, files};

use crate::error::usage;
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

/// Checks the outputs of a command, those that are asked for: refuses what [`check_replaceable`] does, two that are the same
/// file, one that lies in another, a folder, and one that is an input.
pub fn check_outputs<'a>(outputs: &[Option<&'a Path>], inputs: &[&'a Path]) -> anyhow::Result<()> {
    // A device, such as /dev/null, can be several outputs.
    let is_device = |path: &Path| fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
    let outputs: Vec<&Path> = outputs.iter().copied().flatten().filter(|path| !is_device(path)).collect();
    for (i, output) in outputs.iter().enumerate() {
        let (place, shown) = (place(output), output.display());
        let mut others = outputs[..i].iter().map(|other| self::place(other));
        if let Some(other) = others.find(|other| place.starts_with(other) || other.starts_with(&place)) {
            let message = match place == other {
                true => format!("{shown}: is given for two outputs"),
                false => format!("{shown} and {}: one output lies in the other", other.display()),
            };
            return Err(usage(format!("{message}; choose another name")));
        }
        check_replaceable(output)?;
        check_not_input(output, inputs)?;
    }
    Ok(())
}

/// Refuses an output that is also an input of the command.
pub fn check_not_input(output: &Path, inputs: &[&Path]) -> anyhow::Result<()> {
    let place_of_output = place(output);
    match inputs.iter().any(|input| place(input) == place_of_output) {
        true => {
            let shown = output.display();
            Err(usage(format!("{shown}: is both an input and an output; choose another name for the output")))
        }
        false => Ok(()),
    }
}

/// Returns the place of a file that may not exist yet, without links.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |there: &Path| Some(there.canonicalize().ok()?.join(absolute.strip_prefix(there).ok()?));
    absolute.ancestors().find_map(real).unwrap_or_else(|| absolute.clone())
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
