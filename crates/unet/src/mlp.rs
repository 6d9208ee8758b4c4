//! A multilayer perceptron for points: vectors of D numbers, as `[N,1,1,D]`.
//!
//! A layer of the input, residual blocks of two layers with SiLU, each of which adds the embedding of the timestep and the class,
//! and a layer of the output. Sines and cosines of the input ("positional encoding", Mildenhall et al. 2020, arXiv 2003.08934, eq. 4;
//! for diffusion models Kingma et al. 2021, arXiv 2107.00630, appendix C) let it learn structures that are thin.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::json;
use crate::layers::{Embedding, INIT_SCALE, Init, Linear, ZERO_INIT_SCALE};
use crate::ops;
use crate::parameters::Parameters;
use crate::time_embedding::{Positional, TimestepEmbedding};

/// The value of `_class_name`.
const CLASS: &str = "Mlp";

/// The configuration of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// D, the numbers of a point.
    pub dims: usize,
    /// Numbers of the output: `dims`, or twice as many if the variance is learned.
    pub out_dims: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Sines and cosines of the timestep.
    pub time_embed_dim: usize,
    /// The frequencies 1, 2, 4 … of the sines and cosines of the input; 0 for none.
    pub input_frequencies: usize,
    /// Rows of the table of classes, that of "no class" included; 0 for none.
    pub num_class_embeds: usize,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            dims: 2,
            out_dims: 2,
            hidden: 128,
            blocks: 3,
            time_embed_dim: 64,
            input_frequencies: 0,
            num_class_embeds: 0,
        }
    }
}

impl MlpConfig {
    /// The value of `_class_name` in `config.json`.
    pub const CLASS_NAME: &str = CLASS;

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If a key or value is not supported; the error names it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let fixed: json::FixedKeys = &[("_class_name", &["\"Mlp\""])];
        let config = json::read(text, &json::ClassKeys { class: CLASS, fixed, ignored: &[] }, &Self::default())?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration as the text of a `config.json`.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({ "_class_name": CLASS });
        if let (Some(all), Ok(serde_json::Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(own);
        }
        format!("{value:#}\n")
    }

    /// Returns the numbers that enter the first layer.
    fn features(&self) -> usize {
        self.dims * (1 + 2 * self.input_frequencies)
    }

    /// Returns the number of parameters of the network.
    pub fn parameter_count(&self) -> usize {
        let linear = |c_in: usize, c_out: usize| (c_in + 1) * c_out;
        let hidden = self.hidden;
        let embedding = linear(self.time_embed_dim, hidden) + linear(hidden, hidden) + self.num_class_embeds * hidden;
        linear(self.features(), hidden)
            + embedding
            + self.blocks * 3 * linear(hidden, hidden)
            + linear(hidden, self.out_dims)
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// If it does not; the error names the key and the expected value.
    pub fn validate(&self) -> Result<(), Error> {
        for (key, value, range) in [
            ("dims", self.dims, 1..=65_535),
            ("hidden", self.hidden, 1..=65_535),
            ("blocks", self.blocks, 0..=256),
            ("time_embed_dim", self.time_embed_dim, 4..=65_535),
            ("input_frequencies", self.input_frequencies, 0..=24),
            ("num_class_embeds", self.num_class_embeds, 0..=1_000_000),
        ] {
            if !range.contains(&value) {
                let message = format!("`{key}` is {value}; expected {} to {}", range.start(), range.end());
                return Err(Error::Config(message));
            }
        }
        let (dims, out_dims) = (self.dims, self.out_dims);
        if out_dims != dims && out_dims != 2 * dims {
            return Err(Error::Config(format!(
                "`out_dims` is {out_dims}; expected `dims`, which is {dims}, or twice as many with a learned variance"
            )));
        }
        Ok(())
    }
}

/// A residual block: two layers, each after SiLU, with the embedding added between them.
#[derive(Module, Debug)]
struct MlpBlock {
    linear_1: Linear,
    time_emb_proj: Linear,
    linear_2: Linear,
}

impl MlpBlock {
    fn new(init: &mut Init, hidden: usize) -> Self {
        Self {
            linear_1: Linear::new(init, hidden, hidden, INIT_SCALE),
            time_emb_proj: Linear::new(init, hidden, hidden, INIT_SCALE),
            linear_2: Linear::new(init, hidden, hidden, ZERO_INIT_SCALE),
        }
    }

    fn forward(&self, x: Tensor<2>, embedding: Tensor<2>) -> Tensor<2> {
        let h = self.linear_1.forward_with(ops::silu(x.clone()), Some(self.time_emb_proj.forward(embedding)));
        self.linear_2.forward_with(ops::silu(h), Some(x))
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Mlp {
    linear_in: Linear,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Embedding>,
    blocks: Vec<MlpBlock>,
    linear_out: Linear,
    #[module(skip)]
    config: MlpConfig,
}

impl Parameters for Mlp {}

impl Mlp {
    /// Creates a network with initial parameters drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &MlpConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let init = &mut Init::new(seed, device);
        let hidden = config.hidden;
        Ok(Self {
            linear_in: Linear::new(init, config.features(), hidden, INIT_SCALE),
            time_embedding: TimestepEmbedding::new(init, config.time_embed_dim, hidden),
            class_embedding: match config.num_class_embeds {
                0 => None,
                rows => Some(Embedding::new(init, rows, hidden)),
            },
            blocks: (0..config.blocks).map(|_| MlpBlock::new(init, hidden)).collect(),
            linear_out: Linear::new(init, hidden, config.out_dims, ZERO_INIT_SCALE),
            config: config.clone(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &MlpConfig {
        &self.config
    }

    /// Computes the output `[N,1,1,out_dims]` for noisy points `[N,1,1,D]` and a timestep for each.
    pub fn forward(&self, x: Tensor<4>, timesteps: &[f32], classes: Option<&[u32]>) -> Tensor<4> {
        let [n, _, _, dims] = x.dims();
        let device = x.device();
        let x = x.reshape([n, dims]);
        let mut features = vec![x.clone()];
        for k in 0..self.config.input_frequencies {
            let argument = x.clone().mul_scalar(f64::from(1u32 << k));
            features.extend([argument.clone().sin(), argument.cos()]);
        }
        let features = if features.len() == 1 { x } else { Tensor::cat(features, 1) };
        let width = self.config.time_embed_dim;
        let rows = Positional { width, freq_shift: 1.0, flip_sin_to_cos: false }.embed(timesteps);
        let rows = Tensor::<2>::from_data(TensorData::new(rows, [n, width]), &device);
        let mut embedding = self.time_embedding.forward(rows);
        if let (Some(table), Some(classes)) = (&self.class_embedding, classes) {
            embedding = embedding + table.forward(classes);
        }
        let embedding = ops::silu(embedding);
        let mut h = self.linear_in.forward(features);
        for block in &self.blocks {
            h = block.forward(h, embedding.clone());
        }
        self.linear_out.forward(ops::silu(h)).reshape([n, 1, 1, self.config.out_dims])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MlpConfig {
        MlpConfig {
            dims: 3,
            out_dims: 3,
            hidden: 8,
            blocks: 2,
            input_frequencies: 2,
            num_class_embeds: 4,
            ..Default::default()
        }
    }

    #[test]
    fn the_parameters_are_as_many_as_the_configuration_says() {
        for config in [config(), MlpConfig::default(), MlpConfig { blocks: 0, out_dims: 4, ..Default::default() }] {
            let network = Mlp::new(&config, 0, &Device::flex()).unwrap();
            let found: usize = network.flat_parameters().iter().map(|flat| flat.shape.iter().product::<usize>()).sum();
            assert_eq!(found, config.parameter_count(), "{config:?}");
            assert_eq!(MlpConfig::from_json(&config.to_json()).unwrap(), config);
        }
        let error = MlpConfig::from_json(r#"{"dims": 2, "out_dims": 3}"#).unwrap_err().to_string();
        assert!(error.contains("`out_dims` is 3"), "{error}");
    }

    /// Against the formulas in f64, with parameters that are not zero.
    #[test]
    fn the_output_is_that_of_the_formulas() {
        let device = Device::flex();
        let (config, mut seed) = (config(), 1u64);
        let network = Mlp::new(&config, 0, &device).unwrap();
        let mut tensors = network.tensors().unwrap();
        for tensor in tensors.values_mut() {
            let random = random::Random::new(seed);
            random.normals(random::Stream::Parameters, 0, 0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|value| *value *= 0.3);
            seed += 1;
        }
        let network = network.with_tensors(tensors.clone()).unwrap();
        let x = [[0.3f32, -1.2, 0.7], [2.0, 0.1, -0.4]];
        let (t, classes) = ([7.0f32, 40.0], [2u32, 0]);
        let input = Tensor::<4>::from_data(TensorData::new(x.concat(), [2, 1, 1, 3]), &device);
        let found: Vec<f64> = network.forward(input, &t, Some(&classes)).into_data().iter::<f64>().collect();

        let linear = |name: &str, x: &[f64]| -> Vec<f64> {
            let (weight, bias) = (&tensors[&format!("{name}.weight")], &tensors[&format!("{name}.bias")]);
            let row = |o: usize| weight.data[o * x.len()..][..x.len()].iter().zip(x).map(|(&w, x)| f64::from(w) * x);
            (0..bias.data.len()).map(|o| f64::from(bias.data[o]) + row(o).sum::<f64>()).collect()
        };
        let silu = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x / (1.0 + (-x).exp())).collect() };
        let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        for i in 0..2 {
            let x: Vec<f64> = x[i].iter().map(|&x| f64::from(x)).collect();
            let each = |f: fn(f64) -> f64, scale: f64| x.iter().map(move |&x| f(scale * x)).collect::<Vec<_>>();
            let features =
                [x.clone(), each(f64::sin, 1.0), each(f64::cos, 1.0), each(f64::sin, 2.0), each(f64::cos, 2.0)];
            let frequency = |i: usize| 10000f64.powf(-(i as f64) / 31.0);
            let angles: Vec<f64> = (0..32).map(|k| f64::from(t[i]) * frequency(k)).collect();
            let rows: Vec<f64> = angles.iter().map(|a| a.sin()).chain(angles.iter().map(|a| a.cos())).collect();
            let time = linear("time_embedding.linear_2", &silu(&linear("time_embedding.linear_1", &rows)));
            let class = &tensors["class_embedding.weight"].data[8 * classes[i] as usize..][..8];
            let embedding = silu(&sum(&time, &class.iter().map(|&c| f64::from(c)).collect::<Vec<_>>()));
            let mut h = linear("linear_in", &features.concat());
            for block in 0..2 {
                let name = |part: &str| format!("blocks.{block}.{part}");
                let inner = sum(&linear(&name("linear_1"), &silu(&h)), &linear(&name("time_emb_proj"), &embedding));
                h = sum(&h, &linear(&name("linear_2"), &silu(&inner)));
            }
            for (found, expected) in found[3 * i..].iter().zip(linear("linear_out", &silu(&h))) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}
