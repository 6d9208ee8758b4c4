//! The bare network on tensors from a file, for whoever compares two implementations.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use unet::{ClassEmbedType, Labels, Parameters, TimeEmbeddingType, Unet};
use weights::{Metadata, Tensors, read_safetensors, views, write_safetensors};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the network.
    #[error(transparent)]
    Unet(#[from] unet::Error),
    /// From a file of tensors.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// Tensors that do not fit the network.
    #[error("{path}: {message}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What was expected.
        message: String,
    },
}

/// What the network is asked.
struct Input {
    /// `[N,H,W,C]`.
    x: Tensor<4>,
    /// A timestep for each image.
    timesteps: Vec<f32>,
    /// As the file has them.
    labels: Option<Vec<f32>>,
}

/// Reads `x` `[N,C,H,W]`, `t` `[N]` and, for a conditional network, `labels` from a safetensors file.
fn read_input(path: &Path, unet: &Unet) -> Result<Input, Error> {
    let fail = |message: String| Error::Input { path: path.to_owned(), message };
    let (mut tensors, _) = read_safetensors(path)?;
    let mut take = |name: &str| {
        tensors
            .remove(name)
            .ok_or_else(|| fail(format!("tensor `{name}` is missing; expected `x`, `t` and, with classes, `labels`")))
    };
    let (x, t) = (take("x")?, take("t")?);
    let labels = tensors.remove("labels").map(|labels| labels.data);
    let channels = unet.config().in_channels;
    let [n, c, h, w] = match x.shape[..] {
        [n, c, h, w] if c == channels && n > 0 => [n, c, h, w],
        _ => {
            return Err(fail(format!("`x` has shape {:?}; expected [N, {channels}, H, W]", x.shape)));
        }
    };
    unet.config().check_size(h, w).map_err(|e| fail(format!("`x`: {e}")))?;
    if t.data.len() != n {
        return Err(fail(format!("`t` has {} values; expected one for each of {n} images", t.data.len())));
    }
    let rows = match unet.config().time_embedding_type {
        TimeEmbeddingType::Learned => unet.config().num_train_timesteps.unwrap_or(0) as f32,
        TimeEmbeddingType::Positional | TimeEmbeddingType::Fourier => f32::INFINITY,
    };
    if let Some(wrong) = t.data.iter().find(|&&t| !(t >= 0.0 && t < rows)) {
        return Err(fail(format!("`t` has {wrong}; expected 0 ≤ t < {rows}")));
    }
    let x = Tensor::from_data(TensorData::new(x.data, [n, c, h, w]), &unet.device()).permute([0, 2, 3, 1]);
    Ok(Input { x, timesteps: t.data, labels })
}

/// Runs the network on a file of inputs and writes `prediction` `[N,C,H,W]`.
///
/// # Errors
/// Names the tensor that is missing or does not fit; and if the result cannot be written.
pub fn predict(unet: &Unet, input: &Path, output: &Path) -> Result<[usize; 4], Error> {
    let Input { x, timesteps, labels } = read_input(input, unet)?;
    let by_number = unet.config().class_embed_type != Some(ClassEmbedType::Identity);
    if let Some(wrong) = labels.iter().flatten().find(|v| by_number && (v.fract() != 0.0 || **v < 0.0)) {
        let message = format!("`labels` has {wrong}; expected class numbers, 0 and more");
        return Err(Error::Input { path: input.to_owned(), message });
    }
    let classes: Option<Vec<u32>> = labels.as_ref().map(|l| l.iter().map(|&v| v as u32).collect());
    let labels = match unet.config().class_embed_type {
        Some(ClassEmbedType::Identity) => labels.as_deref().map(Labels::Vectors),
        _ => classes.as_deref().map(Labels::Classes),
    };
    unet.check_labels(timesteps.len(), labels)?;
    let prediction = unet.forward(x, &timesteps, labels, None).permute([0, 3, 1, 2]);
    let shape = prediction.dims();
    let data = prediction.into_data().iter::<f32>().collect();
    let tensors = Tensors::from([("prediction".to_owned(), weights::Tensor { shape: shape.to_vec(), data })]);
    write_safetensors(output, views(&tensors), &Metadata::new())?;
    Ok(shape)
}
