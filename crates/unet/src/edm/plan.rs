//! The layers of a network in order, with their names.

use super::config::{DecoderType, EdmClass, EdmConfig, EncoderType};

/// The change of size in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The size stays.
    Keep,
    /// Height and width are halved.
    Down,
    /// Height and width are doubled.
    Up,
}

/// The use of a layer's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It goes on to the next layer. In the encoder, it is a skip connection too.
    Main,
    /// It is the smaller copy of the images in the encoder, or the larger output in the decoder.
    Aux,
    /// It is added to the main path.
    AuxSkip,
    /// It is added to the main path, and the sum is the copy of the next level.
    AuxResidual,
    /// It is added to the output.
    Output,
}

/// The layers of a piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layers {
    Conv {
        kernel: usize,
        c_in: usize,
        c_out: usize,
    },
    Resize,
    /// A normalization with SiLU, in front of the convolution that follows.
    Norm {
        channels: usize,
    },
    Block {
        c_in: usize,
        c_out: usize,
        resize: Resize,
        has_attention: bool,
    },
}

/// A part of the network with a name of its own.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub name: String,
    pub role: Role,
    pub layers: Layers,
}

/// The pieces of a network, in the order in which they run.
#[derive(Default)]
pub(super) struct Plan {
    pub encoder: Vec<Piece>,
    pub decoder: Vec<Piece>,
}

impl Plan {
    /// Returns all pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.encoder.iter().chain(&self.decoder)
    }
}

/// Lists the layers of a network.
pub(super) fn plan(config: &EdmConfig) -> Plan {
    let is_song = config.class == EdmClass::SongUnet;
    let last = config.channel_mult.len() - 1;
    let size = |level: usize| config.img_resolution >> level;
    let attends = |level: usize| config.attn_resolutions.contains(&size(level));
    let width_of = |level: usize| config.model_channels * config.channel_mult[level];
    let named = |path: &str, level: usize, name: &str| format!("{path}.{0}x{0}_{name}", size(level));
    let conv = |kernel: usize, c_in: usize, c_out: usize| Layers::Conv { kernel, c_in, c_out };
    // A block that is narrower than a head has no attention, as in the original.
    let block = |c_in: usize, c_out: usize, resize: Resize, attends: bool| Layers::Block {
        c_in,
        c_out,
        resize,
        has_attention: attends && config.heads(c_out) > 0,
    };

    let Plan { mut encoder, mut decoder } = Plan::default();
    // `SongUNet` begins with `model_channels`, `DhariwalUNet` with the first level's channels.
    let mut width = if is_song { config.model_channels } else { width_of(0) };
    let mut aux = config.in_channels;
    let mut skips = Vec::new();
    for level in 0..=last {
        let mut add = |name: &str, role: Role, layers: Layers| {
            encoder.push(Piece { name: named("enc", level, name), role, layers })
        };
        if level == 0 {
            add("conv", Role::Main, conv(3, config.in_channels, width));
        } else {
            add("down", Role::Main, block(width, width, Resize::Down, false));
            match config.encoder_type {
                EncoderType::Standard => {}
                EncoderType::Skip => {
                    add("aux_down", Role::Aux, Layers::Resize);
                    add("aux_skip", Role::AuxSkip, conv(1, aux, width));
                }
                EncoderType::Residual => {
                    add("aux_residual", Role::AuxResidual, conv(3, aux, width));
                    aux = width;
                }
            }
        }
        skips.push(width);
        for i in 0..config.num_blocks {
            add(&format!("block{i}"), Role::Main, block(width, width_of(level), Resize::Keep, attends(level)));
            width = width_of(level);
            skips.push(width);
        }
    }
    for level in (0..=last).rev() {
        let mut add = |name: &str, role: Role, layers: Layers| {
            decoder.push(Piece { name: named("dec", level, name), role, layers })
        };
        if level == last {
            add("in0", Role::Main, block(width, width, Resize::Keep, true));
            add("in1", Role::Main, block(width, width, Resize::Keep, false));
        } else {
            add("up", Role::Main, block(width, width, Resize::Up, false));
        }
        for i in 0..=config.num_blocks {
            let c_in = width + skips.pop().unwrap_or(0);
            // `SongUNet` has attention in the last block of a level only.
            let has_attention = attends(level) && (!is_song || i == config.num_blocks);
            width = width_of(level);
            add(&format!("block{i}"), Role::Main, block(c_in, width, Resize::Keep, has_attention));
        }
        let is_skip = config.decoder_type == DecoderType::Skip;
        if is_song && (is_skip || level == 0) {
            if is_skip && level < last {
                add("aux_up", Role::Aux, Layers::Resize);
            }
            add("aux_norm", Role::Output, Layers::Norm { channels: width });
            add("aux_conv", Role::Output, conv(3, width, config.out_channels));
        }
    }
    if !is_song {
        let mut add =
            |name: &str, layers: Layers| decoder.push(Piece { name: name.to_owned(), role: Role::Output, layers });
        add("out_norm", Layers::Norm { channels: width });
        add("out_conv", conv(3, width, config.out_channels));
    }
    Plan { encoder, decoder }
}
