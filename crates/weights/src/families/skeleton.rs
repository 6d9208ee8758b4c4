//! The blocks of a U-Net under the names that a file has for them, the same for all families.

/// Where the parts of a network are: the names that stand before `.weight` and `.bias`.
#[derive(Debug)]
pub(super) struct Skeleton {
    pub conv_in: String,
    pub time: [String; 2],
    pub classes: Option<String>,
    /// From the finest.
    pub down: Vec<Level>,
    /// A residual block, attention, a residual block.
    pub mid: [String; 3],
    /// From the coarsest.
    pub up: Vec<Level>,
    pub norm_out: String,
    pub conv_out: String,
}

/// A level of the down or up path.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub resnets: Vec<String>,
    /// None, or one for each residual block.
    pub attentions: Vec<String>,
    pub resample: Option<Resample>,
}

/// What comes after a level.
#[derive(Debug)]
pub(super) enum Resample {
    Conv(String),
    Resnet(String),
}

/// As many blocks on each level, one more on the way up, and something that resamples between any two levels.
pub(super) fn check(down: &[Level], up: &[Level]) -> Result<(), String> {
    let blocks = down.first().map_or(0, |level| level.resnets.len());
    if blocks == 0 {
        return Err("its first level has no residual blocks".into());
    }
    for (path, levels, blocks) in [("down", down, blocks), ("up", up, blocks + 1)] {
        for (i, level) in levels.iter().enumerate() {
            if level.resnets.len() != blocks {
                let found = level.resnets.len();
                return Err(format!("level {i} of the way {path} has {found} residual blocks in place of {blocks}"));
            }
            if level.resample.is_some() != (i + 1 < levels.len()) {
                return Err(format!("after level {i} of the way {path} nothing with weights resamples"));
            }
        }
    }
    match down.len() == up.len() {
        true => Ok(()),
        false => Err(format!("it has {} levels on the way down and {} up", down.len(), up.len())),
    }
}
