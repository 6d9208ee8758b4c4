//! The size of the activations of a training step, for estimates of memory.

use crate::config::{DownBlockType, UnetConfig, UpBlockType};

/// Numbers of f32 for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activations {
    /// Activations that the backward pass reads.
    pub stored: f64,
    /// The outputs of all stages, which is what gradient checkpointing stores.
    pub outputs: f64,
    /// The outputs of the way down, which sampling keeps for the way up.
    pub skips: f64,
    /// The stored activations of the largest stage.
    pub largest: f64,
    /// The inputs and outputs of the largest stage, twice: the working memory of its gradients.
    pub working: f64,
}

/// Working memory of a pass without gradients, in units of `Activations::working`, fitted to measured peaks
/// (docs/performance.md): freed blocks of one size do not serve for those of another.
const INFERENCE: f64 = 1.15;

impl Activations {
    /// Returns the numbers of f32 that a pass of `images` images without gradients needs.
    pub fn inference(&self, images: f64) -> f64 {
        images * (self.skips + INFERENCE * self.working)
    }

    /// Adds a stage, by what its backward pass reads, its output, and the sum of its largest input and output.
    pub(crate) fn add(&mut self, stored: f64, output: f64, working: f64) {
        self.stored += stored;
        self.outputs += output;
        self.largest = self.largest.max(stored);
        self.working = self.working.max(2.0 * working);
    }

    /// Adds a residual block with `from` input channels, concatenated if `joins`, and perhaps attention.
    fn add_block(&mut self, config: &UnetConfig, [from, to]: [f64; 2], pixels: f64, joins: bool, attends: bool) {
        // The concatenated input, the first convolution's output and the block's.
        let mut channels = if joins { from } else { 0.0 } + 2.0 * to;
        if config.dropout > 0.0 {
            // The mask, and what it leaves.
            channels += 2.0 * to;
        }
        if attends {
            // Normalized input, queries, keys, values, their product and the output.
            channels += 6.0 * to;
        }
        self.add(channels * pixels, to * pixels, (from + to) * pixels);
    }
}

impl UnetConfig {
    /// Counts the activations of images of a size, from the structure of the network. Parameters are not included.
    pub fn activations(&self, height: usize, width: usize) -> Activations {
        let mut all = Activations::default();
        let channels: Vec<f64> = self.block_out_channels.iter().map(|&c| c as f64).collect();
        let (Some(&first), Some(&last)) = (channels.first(), channels.last()) else { return all };
        let mut pixels = height as f64 * width as f64;
        let mut skips = vec![first];
        all.add(first * pixels, first * pixels, first * pixels / 2.0);
        let mut from = first;
        for (level, &to) in channels.iter().enumerate() {
            let attends = self.down_block_types.get(level) == Some(&DownBlockType::AttnDownBlock2D);
            for _ in 0..self.layers_per_block {
                all.add_block(self, [from, to], pixels, false, attends);
                skips.push(to);
                from = to;
            }
            if level + 1 < channels.len() {
                pixels /= 4.0;
                all.add(to * pixels, to * pixels, 2.0 * to * pixels);
                skips.push(to);
            }
        }
        all.skips = all.outputs;
        if self.mid_block_type.is_some() {
            all.add_block(self, [last, last], pixels, false, self.add_attention);
            all.add_block(self, [last, last], pixels, false, false);
        }
        for (index, &to) in channels.iter().rev().enumerate() {
            let attends = self.up_block_types.get(index) == Some(&UpBlockType::AttnUpBlock2D);
            for _ in 0..=self.layers_per_block {
                let joined = from + skips.pop().unwrap_or(0.0);
                all.add_block(self, [joined, to], pixels, true, attends);
                from = to;
            }
            if index + 1 < channels.len() {
                pixels *= 4.0;
                // The enlarged input and the output.
                all.add(2.0 * to * pixels, to * pixels, to * pixels);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted by hand for one level of 8 channels on 4×4 pixels with one layer and middle attention.
    #[test]
    fn a_small_network_is_counted_by_hand() {
        let config = UnetConfig::ddpm([4, 4, 1], &[8], 1, &[]);
        let found = config.activations(4, 4);
        let block = 2.0 * 8.0;
        let up = 16.0 + 2.0 * 8.0;
        assert_eq!(found.stored, 16.0 * (8.0 + block + (block + 6.0 * 8.0) + block + 2.0 * up));
        assert_eq!(found.outputs, 16.0 * 8.0 * 6.0);
        assert_eq!(found.skips, 16.0 * 8.0 * 2.0);
        assert_eq!(found.largest, 16.0 * (block + 6.0 * 8.0));
        assert_eq!(found.working, 16.0 * 2.0 * (16.0 + 8.0));
        let larger = config.activations(8, 8);
        assert_eq!(larger.stored, 4.0 * found.stored);
    }
}
