//! The blocks of a U-Net and their names in a file, in the same form for all families.

/// The modules of a network by name, without `.weight` and `.bias`.
#[derive(Debug)]
pub(super) struct Skeleton {
    pub conv_in: String,
    pub time: [String; 2],
    pub classes: Option<String>,
    /// The levels of the down path, finest first.
    pub down: Vec<Level>,
    /// The middle: a residual block, attention, a residual block.
    pub mid: [String; 3],
    /// The levels of the up path, coarsest first.
    pub up: Vec<Level>,
    pub norm_out: String,
    pub conv_out: String,
}

/// A level of the down or up path.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub resnets: Vec<String>,
    /// Empty, or one for each residual block.
    pub attentions: Vec<String>,
    pub resample: Option<Resample>,
}

/// The module that resamples after a level.
#[derive(Debug)]
pub(super) enum Resample {
    Conv(String),
    Resnet(String),
}

/// Checks that levels have equally many residual blocks, one more on the up path, and that all but the last resample.
pub(super) fn check(down: &[Level], up: &[Level]) -> Result<(), String> {
    let blocks = down.first().map_or(0, |level| level.resnets.len());
    if blocks == 0 {
        return Err("its first level has no residual blocks".into());
    }
    for (path, levels, blocks) in [("down", down, blocks), ("up", up, blocks + 1)] {
        for (i, level) in levels.iter().enumerate() {
            if level.resnets.len() != blocks {
                let found = level.resnets.len();
                return Err(format!("level {i} of the {path} path has {found} residual blocks; expected {blocks}"));
            }
            match (&level.resample, i + 1 < levels.len()) {
                (None, true) => {
                    return Err(format!("level {i} of the {path} path has no module with weights that resamples"));
                }
                (Some(_), false) => {
                    return Err(format!("level {i} of the {path} path resamples, although it is the last"));
                }
                _ => {}
            }
        }
    }
    match down.len() == up.len() {
        true => Ok(()),
        false => Err(format!("its down path has {} levels, but its up path has {}", down.len(), up.len())),
    }
}
