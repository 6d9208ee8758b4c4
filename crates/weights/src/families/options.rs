//! Options of an import.

use super::detect::Family;

/// The number of attention heads of an OpenAI network, which its weights do not record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// The number of heads in every block, `num_heads`.
    Count(usize),
    /// The number of channels of every head, `num_head_channels`.
    Channels(usize),
}

/// Settings that weights do not record. The defaults are correct for every family but OpenAI's, and for OpenAI's
/// releases.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Use the weights of the last step even if the file has their moving averages.
    pub raw: bool,
    /// The attention heads, for OpenAI's networks only.
    pub heads: Option<Heads>,
    /// The `use_new_attention_order` of guided-diffusion.
    pub new_attention_order: bool,
    /// The height and width of the images.
    pub sample_size: Option<usize>,
    /// The version of the code that trained the network, for lucidrains' only, such as `1.5.8`.
    pub code_version: Option<String>,
}

impl ImportOptions {
    /// Refuses what networks of `family` have no use for: whoever sets it takes the file for another one.
    pub(super) fn check(&self, family: Family) -> Result<(), String> {
        let given = [
            (self.heads.is_some(), "a number of heads", family == Family::OpenAi, "networks of OpenAI's programs"),
            (self.new_attention_order, "an attention order", family == Family::OpenAi, "networks of OpenAI's programs"),
            (
                self.code_version.is_some(),
                "a version of the code",
                family == Family::Lucidrains,
                "lucidrains' networks",
            ),
            (
                self.sample_size.is_some(),
                "a size",
                family != Family::Diffusers,
                "weights without diffusers' config.json",
            ),
        ];
        match given.into_iter().find(|&(given, _, used, _)| given && !used) {
            Some((_, what, _, whose)) => Err(format!("{what} cannot be chosen for it, only for {whose}")),
            None => Ok(()),
        }
    }
}
