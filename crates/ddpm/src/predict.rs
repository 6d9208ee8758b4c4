//! The bare network on tensors from a file, to compare it with another implementation.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use model::{Condition, LabelKind, Labels, Network};
use weights::{Metadata, Tensors, read_safetensors, views, write_safetensors};

/// An error of [`predict`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// From the network.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// From a file of tensors.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// Tensors that do not fit the network.
    #[error("{path}: {message}")]
    Input {
        /// The file.
        path: PathBuf,
        /// The value that was found, and the one that was expected.
        message: String,
    },
}

/// The network's inputs.
struct Inputs {
    /// `[N,H,W,C]`.
    x: Tensor<4>,
    /// The timestep of each image.
    timesteps: Vec<f32>,
    /// Labels as the file has them.
    labels: Option<Vec<f32>>,
}

/// Reads `x` `[N,C,H,W]`, `t` `[N]` and, for a conditional network, `labels` from a safetensors file.
fn read_inputs(path: &Path, network: &Network) -> Result<Inputs, PredictError> {
    let fail = |message: String| PredictError::Input { path: path.to_owned(), message };
    let _reading = files::Reading::new(path);
    let signature = network.signature();
    let (mut tensors, _) = read_safetensors(path)?;
    let mut take = |name: &str| {
        tensors
            .remove(name)
            .ok_or_else(|| fail(format!("tensor `{name}` is missing; expected `x`, `t` and, with classes, `labels`")))
    };
    let (x, t) = (take("x")?, take("t")?);
    let labels = tensors.remove("labels").map(|labels| labels.data);
    let channels = signature.in_channels;
    let [n, c, h, w] = match x.shape[..] {
        [n, c, h, w] if c == channels && n > 0 => [n, c, h, w],
        _ => return Err(fail(format!("`x` has shape {:?}; expected [N, {channels}, H, W]", x.shape))),
    };
    network
        .check_size(h, w)
        .and_then(|()| network.check_memory(n, h, w))
        .map_err(|error| fail(format!("`x`: {error}")))?;
    if t.data.len() != n {
        return Err(fail(format!("`t` has {} values; expected one for each of {n} images", t.data.len())));
    }
    let timesteps = signature.timesteps.map_or(f32::INFINITY, |timesteps| timesteps as f32);
    if let Some(wrong) = t.data.iter().find(|&&t| !(t >= 0.0 && t < timesteps)) {
        return Err(fail(format!("`t` has {wrong}; expected 0 ≤ t < {timesteps}")));
    }
    let x = Tensor::from_data(TensorData::new(x.data, [n, c, h, w]), &network.device()).permute([0, 2, 3, 1]);
    Ok(Inputs { x, timesteps: t.data, labels })
}

/// Runs a network on the inputs in a file and writes `prediction` `[N,C,H,W]`. Returns its shape.
///
/// # Errors
/// Names the tensor that is missing or does not fit; and if the result cannot be written.
pub fn predict(network: &Network, input: &Path, output: &Path) -> Result<[usize; 4], PredictError> {
    let Inputs { x, timesteps, labels } = read_inputs(input, network)?;
    let are_vectors = matches!(network.signature().labels, LabelKind::Vectors(_));
    if let Some(wrong) = labels.iter().flatten().find(|v| !are_vectors && (v.fract() != 0.0 || **v < 0.0)) {
        let message = format!("`labels` has {wrong}; expected class numbers, 0 and more");
        return Err(PredictError::Input { path: input.to_owned(), message });
    }
    let classes: Option<Vec<u32>> = labels.as_ref().map(|labels| labels.iter().map(|&v| v as u32).collect());
    let condition = match are_vectors {
        true => Condition { labels: labels.as_deref().map(Labels::Vectors), ..Condition::default() },
        false => Condition::classes(classes.as_deref()),
    };
    network.check(x.dims(), condition)?;
    let prediction = network.forward(x, &timesteps, condition, None).permute([0, 3, 1, 2]);
    let shape = prediction.dims();
    let data = prediction.into_data().iter::<f32>().collect();
    let tensors = Tensors::from([("prediction".to_owned(), weights::Tensor { shape: shape.to_vec(), data })]);
    write_safetensors(output, views(&tensors), &Metadata::new())?;
    Ok(shape)
}
