//! The size of the activations.

use super::config::LucidrainsConfig;
use crate::activations::Activations;

/// The attention after a block: its channels in all heads, and whether it is linear.
#[derive(Clone, Copy)]
struct Attention {
    hidden: f64,
    is_linear: bool,
}

impl LucidrainsConfig {
    /// Counts the activations of images of a size, from the structure of the network. Parameters are not included.
    pub fn activations(&self, height: usize, width: usize) -> Activations {
        let mut all = Activations::default();
        let mut pixels = height as f64 * width as f64;
        let levels = self.dim_mults.len();
        let images = if self.self_condition { 2 * self.channels } else { self.channels };
        let first = self.first_width() as f64;
        all.add(first * pixels, first * pixels, (images as f64 + first) * pixels);
        all.skips = first * pixels;
        for level in 0..levels {
            let (from, to) = (self.width_before(level) as f64, self.width(level) as f64);
            self.add_block(&mut all, [from, from], pixels, None);
            self.add_block(&mut all, [from, from], pixels, Some(self.attention(level)));
            all.skips += 2.0 * from * pixels;
            let is_last = level + 1 == levels;
            let moved = if is_last || self.has_strided_convs() { 0.0 } else { from * pixels };
            let before = from * pixels;
            pixels /= if is_last { 1.0 } else { 4.0 };
            all.add(moved + to * pixels, to * pixels, before + to * pixels);
        }
        let mid = self.width(levels - 1) as f64;
        self.add_block(&mut all, [mid, mid], pixels, None);
        let [heads, d] = self.mid_heads();
        self.add_block(&mut all, [mid, mid], pixels, Some(Attention { hidden: (heads * d) as f64, is_linear: false }));
        for level in (0..levels).rev() {
            let (from, to) = (self.width_before(level) as f64, self.width(level) as f64);
            self.add_block(&mut all, [from + to, to], pixels, None);
            self.add_block(&mut all, [from + to, to], pixels, Some(self.attention(level)));
            // The enlarged input.
            let enlarged = if level == 0 { 0.0 } else { 4.0 * to * pixels };
            pixels *= if level == 0 { 1.0 } else { 4.0 };
            all.add(enlarged + from * pixels, from * pixels, (from + to) * pixels);
        }
        self.add_block(&mut all, [2.0 * first, first], pixels, None);
        all
    }

    fn attention(&self, level: usize) -> Attention {
        let [heads, d] = self.heads(level);
        Attention { hidden: (heads * d) as f64, is_linear: !self.has_full_attention(level) }
    }

    /// Adds a residual block, whose input is concatenated if it has other channels than the output, and perhaps an attention.
    fn add_block(&self, all: &mut Activations, [from, to]: [f64; 2], pixels: f64, attention: Option<Attention>) {
        // The concatenated input, the results of two convolutions, that of a normalization, and the block's.
        let mut channels = if from == to { 0.0 } else { from } + 4.0 * to;
        if self.dropout > 0.0 {
            // The mask, and what it leaves.
            channels += 2.0 * to;
        }
        let mut working = from + to;
        if let Some(Attention { hidden, is_linear }) = attention {
            // Normalized input, queries, keys, values, their product and the output; the product's projection is normalized too after
            // linear attention.
            let (norms, outputs) = if is_linear { (2.0, 1.0) } else { (1.0, 1.0) };
            channels += norms * to + 4.0 * hidden + outputs * to;
            if self.version.has_layer_norm() {
                // Layer normalization stores the differences from the mean twice, and the quotients.
                channels += 3.0 * norms * to;
            }
            working = working.max(to + 3.0 * hidden);
        }
        all.add(channels * pixels, to * pixels, working * pixels);
    }
}
