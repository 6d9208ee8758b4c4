//! The JSON header of a safetensors file.
//!
//! It is deserialized by hand, since a derived `Deserialize` would accept repeated names, would not name the tensor in
//! errors, and could allocate ten times the header's length.

use crate::Metadata;
use crate::budget::Budget;
use crate::shown::shown;
use crate::tensor::MAX_RANK;
use ::safetensors::tensor::Dtype;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;

/// The tensors and the metadata of a file.
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, Info>,
}

/// A tensor: its dtype and shape, and its first byte and the one after its last.
#[derive(serde::Deserialize)]
pub(super) struct Info {
    pub dtype: Dtype,
    #[serde(deserialize_with = "shape")]
    pub shape: Vec<usize>,
    pub data_offsets: (usize, usize),
}

/// The memory of an element of a map, in which nodes are about half full.
const fn in_map<K, V>() -> u64 {
    2 * size_of::<(K, V)>() as u64
}

impl Header {
    /// Parses a header. Its names, shapes and metadata are taken from `budget`.
    pub fn parse(text: &[u8], budget: &mut Budget) -> Result<Self, String> {
        // The parser copies strings with escapes into a buffer that grows to twice the longest.
        let buffer = if text.contains(&b'\\') { 2 * text.len() as u64 } else { 0 };
        budget.take(buffer).map_err(|reason| format!("it {reason}"))?;
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let header = HeaderSeed(budget).deserialize(&mut deserializer).map_err(|error| shown(&error))?;
        deserializer.end().map_err(|error| shown(&error))?;
        budget.give_back(buffer);
        Ok(header)
    }
}

/// Deserializes a [`Header`].
struct HeaderSeed<'a>(&'a mut Budget);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a map of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { metadata: Metadata::new(), tensors: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            let wrong = |error: A::Error| de::Error::custom(format_args!("`{}`: {}", shown(&name), shown(error)));
            if name == "__metadata__" {
                header.metadata = map.next_value_seed(MetadataSeed(self.0)).map_err(wrong)?;
                continue;
            }
            let info: Info = map.next_value().map_err(wrong)?;
            let bytes = in_map::<String, Info>() + (name.len() + 8 * info.shape.capacity()) as u64;
            take(self.0, bytes)?;
            if header.tensors.contains_key(&name) {
                return Err(de::Error::custom(format_args!("`{}` appears twice", shown(name))));
            }
            header.tensors.insert(name, info);
        }
        Ok(header)
    }
}

/// Deserializes the metadata.
struct MetadataSeed<'a>(&'a mut Budget);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = Metadata;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Metadata, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = Metadata;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut metadata = Metadata::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            take(self.0, in_map::<String, String>() + (key.len() + value.len()) as u64)?;
            metadata.insert(key, value);
        }
        Ok(metadata)
    }
}

fn take<E: de::Error>(budget: &mut Budget, bytes: u64) -> Result<(), E> {
    budget.take(bytes).map_err(|reason| E::custom(format_args!("it {reason}")))
}

/// Deserializes a shape of at most [`MAX_RANK`] dimensions.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct ShapeVisitor;
    impl<'de> Visitor<'de> for ShapeVisitor {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            write!(f, "a list of at most {MAX_RANK} sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<usize>, A::Error> {
            let mut sizes = Vec::new();
            while let Some(size) = list.next_element()? {
                if sizes.len() == MAX_RANK {
                    return Err(de::Error::invalid_length(MAX_RANK + 1, &self));
                }
                sizes.push(size);
            }
            sizes.shrink_to_fit();
            Ok(sizes)
        }
    }
    deserializer.deserialize_seq(ShapeVisitor)
}
