//! Updating parameter names of older diffusers releases to the current ones.
//!
//! Early releases, and the `google/ddpm-*` repositories, name the layers of attention `query`, `key`, `value` and
//! `proj_attn`. [`modernize`] renames them as diffusers does when it loads such a file
//! (`ModelMixin._fix_state_dict_keys_on_load`).

use crate::shown::shown;
use crate::{Error, Result, Tensor, Tensors};
use std::path::Path;

/// The old and the new names of the layers under `attentions.N.`.
const ATTENTION: [(&str, &str); 4] = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Returns the current name of a `UNet2DModel` parameter: `….0.proj_attn.bias` becomes `….0.to_out.0.bias`, and so on.
fn modern(name: &str) -> String {
    match attention_layer(name) {
        Some((before, layer, after)) => match ATTENTION.iter().find(|(old, _)| *old == layer) {
            Some((_, new)) => format!("{before}{new}{after}"),
            None => name.to_owned(),
        },
        None => name.to_owned(),
    }
}

/// Renames the tensors of the file `path` to current names. Attention weights that are stored as 1×1 convolutions
/// `[O, I, 1, 1]`, as in Ho et al.'s code and its ports, become `[O, I]`.
///
/// # Errors
/// If two tensors would get the same name.
pub fn modernize(path: impl AsRef<Path>, tensors: Tensors) -> Result<Tensors> {
    let mut modern_tensors = Tensors::new();
    for (name, mut tensor) in tensors {
        let new = modern(&name);
        squeeze(&new, &mut tensor);
        if modern_tensors.contains_key(&new) {
            return Err(Error::tensor(
                path.as_ref(),
                &name,
                format!("another tensor is already named `{}`", shown(new)),
            ));
        }
        modern_tensors.insert(new, tensor);
    }
    Ok(modern_tensors)
}

/// Drops the trailing dimensions of size 1 of an attention weight.
fn squeeze(name: &str, tensor: &mut Tensor) {
    let is_projection =
        attention_layer(name).is_some_and(|(_, layer, after)| after.ends_with(".weight") && layer.starts_with("to_"));
    if is_projection && matches!(tensor.shape[..], [_, _, 1] | [_, _, 1, 1]) {
        tensor.shape.truncate(2);
    }
}

/// Splits `….attentions.N.LAYER.…` into the part before the layer, the layer, and the part after it.
fn attention_layer(name: &str) -> Option<(&str, &str, &str)> {
    let start = if name.starts_with("attentions.") { 0 } else { name.find(".attentions.")? + 1 };
    let block = &name[start + "attentions.".len()..];
    let (number, rest) = block.split_once('.')?;
    let (layer, after) = rest.split_at(rest.find('.')?);
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| (&name[..name.len() - rest.len()], layer, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_updated() {
        let cases = [
            ("down_blocks.1.attentions.0.query.weight", "down_blocks.1.attentions.0.to_q.weight"),
            ("up_blocks.2.attentions.10.key.bias", "up_blocks.2.attentions.10.to_k.bias"),
            ("mid_block.attentions.0.value.weight", "mid_block.attentions.0.to_v.weight"),
            ("mid_block.attentions.0.proj_attn.weight", "mid_block.attentions.0.to_out.0.weight"),
            ("attentions.0.query.weight", "attentions.0.to_q.weight"),
        ];
        for (old, new) in cases {
            assert_eq!(modern(old), new);
            assert_eq!(modern(new), new, "current names do not change");
        }
        let untouched = [
            "mid_block.attentions.0.group_norm.weight",
            "down_blocks.0.resnets.0.query.weight",
            "query.weight",
            "myattentions.0.query.weight",
            "attentions.x.query.weight",
            "attentions..query.weight",
            "attentions.0.query",
            "attentions.0",
            "attentions.",
            "",
        ];
        for name in untouched {
            assert_eq!(modern(name), name);
        }
    }
}
