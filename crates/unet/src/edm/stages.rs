//! The stages of the network.

use burn::module::Module;
use burn::tensor::Tensor;

use super::block::{EdmBlock, HALF_VARIANCE, Resizing};
use super::config::{DecoderType, EdmConfig};
use super::model::{Part, PartLayers};
use super::plan::{Resize, Role};
use crate::layers::{Conv2d, GroupNorm};
use crate::ops::{self, Fusion};
use crate::stages::{EmbeddingUse, GradientOrder, Pass, Stage, StageLayers, StageList};

/// The layers of a stage.
pub(super) enum EdmLayers<'a> {
    Conv(&'a Conv2d),
    Block(&'a EdmBlock),
    /// Changes the size of the copy of the images in the encoder, or of the output in the decoder.
    Resize(Resizing),
    /// Adds a convolution of the copy of the images, the first input, to the main path.
    AuxSkip(&'a Conv2d),
    /// Adds a convolution of the copy of the images, the second input, to the main path.
    AuxResidual(&'a Conv2d, Vec<f64>, GradientOrder),
    /// Adds a convolution of the main path to the output, the second input.
    Output(Option<&'a GroupNorm>, &'a Conv2d),
}

impl StageLayers for EdmLayers<'_> {
    fn forward(&self, x: Tensor<4>, second: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x, second, pass),
            Self::Resize(resizing) => resizing.apply(x),
            Self::AuxSkip(conv) => conv.forward_fused(x, Fusion { residual: second, ..Fusion::default() }),
            Self::AuxResidual(conv, filter, _) => match second {
                Some(aux) => (x + ops::filter_down2x(conv.forward(aux), filter, 0)).mul_scalar(HALF_VARIANCE),
                None => x,
            },
            Self::Output(norm, conv) => {
                let norm = norm.map(|norm| norm.with_silu(None));
                conv.forward_fused(x, Fusion { norm, residual: second, ..Fusion::default() })
            }
        }
    }

    fn forward_untracked(&self, x: Tensor<4>, second: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Conv(conv) => EdmLayers::Conv(&conv.valid()).forward(x, second, pass),
            Self::Block(block) => EdmLayers::Block(&block.valid()).forward(x, second, pass),
            Self::Resize(resizing) => resizing.apply(x),
            Self::AuxSkip(conv) => EdmLayers::AuxSkip(&conv.valid()).forward(x, second, pass),
            Self::AuxResidual(conv, filter, order) => {
                EdmLayers::AuxResidual(&conv.valid(), filter.clone(), *order).forward(x, second, pass)
            }
            Self::Output(norm, conv) => {
                let norm = norm.map(|norm| norm.valid());
                EdmLayers::Output(norm.as_ref(), &conv.valid()).forward(x, second, pass)
            }
        }
    }

    fn has_parameters(&self) -> bool {
        !matches!(self, Self::Resize(_))
    }

    fn embedding(&self) -> EmbeddingUse {
        if matches!(self, Self::Block(_)) { EmbeddingUse::AfterInputs } else { EmbeddingUse::None }
    }

    fn second_gradient(&self) -> GradientOrder {
        match self {
            Self::AuxResidual(.., order) => *order,
            _ => GradientOrder::First,
        }
    }
}

/// Lists the stages of an encoder and a decoder.
pub(super) fn stages<'a>(encoder: &'a [Part], decoder: &'a [Part], config: &EdmConfig) -> Vec<Stage<EdmLayers<'a>>> {
    let filter = &config.resample_filter;
    let resizing = |resize: Resize| EdmLayers::Resize(Resizing { resize, filter: filter.clone() });
    // The next block of the main path has operations of the same depth. They are found through the decoder's skip connections, but
    // a decoder with an output at each level is searched from its coarsest.
    let order = match config.decoder_type {
        DecoderType::Standard => GradientOrder::Last,
        DecoderType::Skip => GradientOrder::BeforeFirstOperations,
    };
    let mut list = StageList::new();
    // The copy of the images begins as the images themselves.
    let mut aux = 0;
    for part in encoder {
        match (part.role, &part.layers) {
            (Role::Aux, _) => aux = list.add(resizing(Resize::Down), aux, None),
            (Role::AuxSkip, Some(PartLayers::Conv(conv))) => {
                list.current = list.add(EdmLayers::AuxSkip(conv), aux, Some(list.current));
                list.pop_skip();
                list.push_skip();
            }
            (Role::AuxResidual, Some(PartLayers::Conv(conv))) => {
                list.then(EdmLayers::AuxResidual(conv, filter.clone(), order), Some(aux));
                aux = list.current;
                list.pop_skip();
                list.push_skip();
            }
            (_, Some(PartLayers::Conv(conv))) => {
                list.then(EdmLayers::Conv(conv), None);
                list.push_skip();
            }
            (_, Some(PartLayers::Block(block))) => {
                list.then(EdmLayers::Block(block), None);
                list.push_skip();
            }
            (_, Some(PartLayers::Norm(_)) | None) => {}
        }
    }

    let (mut channels, mut output, mut norm) = (skip_channels(encoder), None, None);
    let mut pending: Option<(EdmLayers, usize)> = None;
    for part in decoder {
        match (part.role, &part.layers) {
            (Role::Aux, _) => output = output.map(|output| list.add(resizing(Resize::Up), output, None)),
            (_, Some(PartLayers::Norm(layer))) => norm = Some(layer),
            (_, Some(PartLayers::Conv(conv))) => {
                pending = Some((EdmLayers::Output(norm.take(), conv), list.current));
            }
            (_, Some(PartLayers::Block(block))) => {
                let takes_skip = channels != block.in_channels();
                let skip = if takes_skip { list.pop_skip() } else { None };
                list.then(EdmLayers::Block(block), skip);
                channels = block.out_channels();
                // The block comes first, since the gradient of the output is added before its own.
                if let Some((layers, value)) = pending.take() {
                    output = Some(list.add(layers, value, output));
                }
            }
            (_, None) => {}
        }
    }
    if let Some((layers, value)) = pending {
        list.add(layers, value, output);
    }
    list.finish()
}

/// Returns the channels of the encoder's result.
fn skip_channels(encoder: &[Part]) -> usize {
    let channels = |part: &Part| match &part.layers {
        Some(PartLayers::Block(block)) => Some(block.out_channels()),
        Some(PartLayers::Conv(_) | PartLayers::Norm(_)) | None => None,
    };
    encoder.iter().rev().find_map(channels).unwrap_or(0)
}
