//! Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): the forward pass stores only the activations between
//! stages, and the backward pass recomputes each stage.

use burn::tensor::{Gradients, Tensor};

use crate::blocks::Dropout;
use crate::model::Unet;
use crate::ops::GradientObserver;
use crate::parameters::Parameters;
use crate::time_embedding::Labels;

/// The arguments of [`Unet::forward`].
#[derive(Clone, Debug)]
pub struct UnetInputs<'a> {
    /// Noisy images `[N,H,W,in_channels]`.
    pub x: Tensor<4>,
    /// The timestep of each image.
    pub timesteps: &'a [f32],
    /// The label of each image, if the network has classes.
    pub labels: Option<Labels<'a>>,
    /// The source of dropout masks, if dropout is applied.
    pub dropout: Option<&'a Dropout>,
    /// Gets the gradients of each stage as soon as they are known, in place of the result.
    pub observer: Option<&'a GradientObserver>,
}

impl Unet {
    /// Computes the gradients of `loss(self.forward(…))` with respect to the parameters, in the order of
    /// [`Parameters::flat_parameters`].
    ///
    /// They equal those of an ordinary backward pass up to rounding. Dropout uses the same masks in both forward
    /// passes.
    ///
    /// # Panics
    /// As [`Unet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        inputs: UnetInputs,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        let UnetInputs { x, timesteps, labels, dropout, observer } = inputs;
        assert_eq!(x.dims()[0], timesteps.len(), "expected one timestep per image");
        let mut parameters: Vec<Option<Tensor<1>>> = Vec::new();
        let mut take = |gradients: &mut Gradients| {
            let mut taken = self.take_gradients(gradients);
            if let Some(observer) = observer {
                for (index, gradient) in taken.iter_mut().enumerate() {
                    if let Some(gradient) = gradient.take() {
                        observer.call(index, &gradient.into_data().iter::<f32>().collect::<Vec<_>>());
                    }
                }
            }
            if parameters.is_empty() {
                parameters = taken;
            } else {
                // Each parameter belongs to exactly one stage.
                for (all, new) in parameters.iter_mut().zip(taken) {
                    *all = all.take().or(new);
                }
            }
        };

        let emb = self.time.forward(timesteps, labels, &x.device());
        let emb_inner = emb.clone().inner();
        let (mut x, mut skips) = (self.centered(x).inner(), Vec::new());
        let mut stage_inputs = Vec::new();
        for stage in self.stages() {
            let skip: Option<Tensor<4>> = if stage.pops_skip { skips.pop() } else { None };
            stage_inputs.push((x.clone(), skip.clone()));
            x = stage.layer.forward_untracked(x, skip, &emb_inner, dropout);
            if stage.pushes_skip {
                skips.push(x.clone());
            }
        }

        let leaf = x.autodiff().require_grad();
        let mut gradients = loss(self.output(leaf.clone(), timesteps)).backward();
        let mut dx = leaf.grad(&gradients);
        take(&mut gradients);
        let mut demb: Option<Tensor<2>> = None;
        // The gradients of the skip connections. Stages are visited in reverse order, so this is a stack, too.
        let mut dskips: Vec<Option<Tensor<4>>> = Vec::new();
        let stages: Vec<_> = self.stages().collect();
        for (stage, (x, skip)) in stages.iter().zip(stage_inputs).rev() {
            let dy = match stage.pushes_skip.then(|| dskips.pop()).flatten().flatten() {
                Some(dskip) => Some(add(dx.take(), dskip)),
                None => dx.take(),
            };
            let Some(dy) = dy else { continue };
            let (x, skip) = (x.autodiff().require_grad(), skip.map(|skip| skip.autodiff().require_grad()));
            let emb = emb_inner.clone().autodiff().require_grad();
            let y = stage.layer.forward(x.clone(), skip.clone(), &emb, dropout);
            // The gradient of this sum with respect to y is dy.
            let mut gradients = (y * dy.autodiff()).sum().backward();
            dx = x.grad(&gradients);
            if let Some(skip) = skip {
                dskips.push(skip.grad(&gradients));
            }
            if let Some(new) = emb.grad(&gradients) {
                demb = Some(add(demb.take(), new));
            }
            take(&mut gradients);
        }
        if let Some(demb) = demb {
            take(&mut (emb * demb.autodiff()).sum().backward());
        }
        parameters
    }
}

fn add<const D: usize>(total: Option<Tensor<D>>, term: Tensor<D>) -> Tensor<D> {
    match total {
        Some(total) => total + term,
        None => term,
    }
}
