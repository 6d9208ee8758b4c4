//! Options of an import.

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
