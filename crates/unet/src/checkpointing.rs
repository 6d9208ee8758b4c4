//! Gradients with less memory (Chen et al. 2016, arXiv:1604.06174): the forward pass keeps the activations between pieces
//! only, and the backward pass computes each piece once more to have what is inside it.

use burn::tensor::{Gradients, Tensor};

use crate::blocks::Dropout;
use crate::model::Unet;
use crate::parameters::Parameters;
use crate::time_embedding::Labels;

impl Unet {
    /// The gradients of `loss(self.forward(…))` by the parameters, in the order of [`Parameters::flat_parameters`], as a
    /// backward pass through the whole network gives them up to rounding. Dropout draws the same masks both times.
    ///
    /// # Panics
    /// As [`Unet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        x: Tensor<4>,
        timesteps: &[f32],
        labels: Option<Labels>,
        dropout: Option<&Dropout>,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        assert_eq!(x.dims()[0], timesteps.len(), "one timestep for each image");
        let mut parameters: Vec<Option<Tensor<1>>> = Vec::new();
        let mut take = |gradients: &mut Gradients| {
            let taken = self.take_gradients(gradients);
            if parameters.is_empty() {
                parameters = taken;
            } else {
                // A parameter belongs to one piece.
                for (all, new) in parameters.iter_mut().zip(taken) {
                    *all = all.take().or(new);
                }
            }
        };

        let emb = self.time.forward(timesteps, labels, &x.device());
        let given = emb.clone().inner();
        let (mut x, mut skips) = (self.centred(x).inner(), Vec::new());
        let mut inputs = Vec::new();
        for piece in self.pieces() {
            let skip: Option<Tensor<4>> = if piece.joins { skips.pop() } else { None };
            inputs.push((x.clone(), skip.clone()));
            x = piece.layer.forward_untracked(x, skip, &given, dropout);
            if piece.leaves {
                skips.push(x.clone());
            }
        }

        let leaf = x.autodiff().require_grad();
        let mut gradients = loss(self.output(leaf.clone(), timesteps)).backward();
        let mut dx = leaf.grad(&gradients);
        take(&mut gradients);
        let mut demb: Option<Tensor<2>> = None;
        // Gradients of what was left, by the pieces that took it: in the reverse order the last is the first to be met.
        let mut dskips: Vec<Option<Tensor<4>>> = Vec::new();
        let pieces: Vec<_> = self.pieces().collect();
        for (piece, (x, skip)) in pieces.iter().zip(inputs).rev() {
            let dy = match piece.leaves.then(|| dskips.pop()).flatten().flatten() {
                Some(dskip) => Some(sum(dx.take(), dskip)),
                None => dx.take(),
            };
            let Some(dy) = dy else { continue };
            let (x, skip) = (x.autodiff().require_grad(), skip.map(|skip| skip.autodiff().require_grad()));
            let emb = given.clone().autodiff().require_grad();
            let y = piece.layer.forward(x.clone(), skip.clone(), &emb, dropout);
            // Its gradient by y is dy.
            let mut gradients = (y * dy.autodiff()).sum().backward();
            dx = x.grad(&gradients);
            if let Some(skip) = skip {
                dskips.push(skip.grad(&gradients));
            }
            if let Some(new) = emb.grad(&gradients) {
                demb = Some(sum(demb.take(), new));
            }
            take(&mut gradients);
        }
        if let Some(demb) = demb {
            take(&mut (emb * demb.autodiff()).sum().backward());
        }
        parameters
    }
}

fn sum<const D: usize>(some: Option<Tensor<D>>, more: Tensor<D>) -> Tensor<D> {
    match some {
        Some(some) => some + more,
        None => more,
    }
}
