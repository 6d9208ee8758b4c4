//! The size of the activations.

use super::config::EdmConfig;
use super::plan::{Layers, Piece, Resize, Role, plan};
use crate::activations::Activations;

impl EdmConfig {
    /// Counts the activations of images of a size, from the structure of the network. Parameters are not included.
    pub fn activations(&self, height: usize, width: usize) -> Activations {
        let mut all = Activations::default();
        let plan = plan(self);
        let mut at = Position { pixels: height as f64 * width as f64, channels: 0 };
        for piece in &plan.encoder {
            let before = all.outputs;
            self.add(&mut all, piece, &mut at);
            // Other pieces replace a skip connection or are none.
            if piece.role == Role::Main {
                all.skips += all.outputs - before;
            }
        }
        plan.decoder.iter().for_each(|piece| self.add(&mut all, piece, &mut at));
        all
    }

    fn add(&self, all: &mut Activations, piece: &Piece, at: &mut Position) {
        match piece.layers {
            Layers::Norm { .. } => {}
            Layers::Resize => {
                let images = self.in_channels as f64 * at.pixels;
                all.add(images, images, images);
            }
            Layers::Conv { c_in, c_out, .. } => {
                // Before the change of size, the copy of the images has four times the pixels.
                let pixels = if piece.role == Role::AuxResidual { 4.0 * at.pixels } else { at.pixels };
                let output = c_out as f64 * at.pixels;
                all.add(output, output, (c_in + c_out) as f64 * pixels);
                if piece.role == Role::Main {
                    at.channels = c_out;
                }
            }
            Layers::Block { c_in, c_out, resize, has_attention } => {
                let joins = at.channels != c_in;
                let (from, to) = (c_in as f64, c_out as f64);
                let input = from * at.pixels;
                at.pixels *= match resize {
                    Resize::Keep => 1.0,
                    Resize::Down => 0.25,
                    Resize::Up => 4.0,
                };
                // The concatenated input, or both inputs of another size; the first convolution's output and the block's.
                let mut channels = if joins { from } else { 0.0 } + 2.0 * to;
                if resize != Resize::Keep {
                    channels += 2.0 * from;
                }
                if self.dropout > 0.0 {
                    // The mask, and what it leaves.
                    channels += 2.0 * to;
                }
                if has_attention {
                    // Queries, keys, values, their product and the output.
                    channels += 5.0 * to;
                }
                let working = input.max(from * at.pixels) + to * at.pixels;
                all.add(channels * at.pixels, to * at.pixels, working);
                at.channels = c_out;
            }
        }
    }
}

/// The size of the main path.
struct Position {
    pixels: f64,
    channels: usize,
}
