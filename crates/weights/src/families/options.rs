//! Options of an import.

/// How many attention heads an OpenAI network has, which its weights do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// So many in every block, `num_heads`.
    Count(usize),
    /// So many that each has this many channels, `num_head_channels`.
    Channels(usize),
}

/// What weights do not say. The default is right for every file that is not one of OpenAI's, and for their releases.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Takes the weights of the last step although their moving averages are there.
    pub raw: bool,
    /// Attention heads, for OpenAI's networks alone.
    pub heads: Option<Heads>,
    /// `use_new_attention_order` of guided-diffusion.
    pub new_attention_order: bool,
    /// Height and width of the images.
    pub sample_size: Option<usize>,
}
