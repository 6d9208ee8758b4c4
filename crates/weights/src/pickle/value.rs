//! The values of a pickle.

use crate::shown::{shown, shown_sizes};
use safetensors::tensor::Dtype;

/// A value. Small ones are stored inline, the others in the arena of their [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item {
    /// Python's `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// Any other value; [`Pickle::node`] returns it.
    Node(u32),
}

/// A value in the arena.
#[derive(Clone, Debug, PartialEq)]
pub enum PickleValue {
    /// A string.
    Text(Box<str>),
    /// Bytes, or a Python 2 string that is not UTF-8.
    Bytes(Box<[u8]>),
    /// An integer of more than 64 bits, in little-endian two's complement.
    Long(Box<[u8]>),
    /// A list or a set.
    List(Vec<Item>),
    /// A tuple or a `torch.Size`.
    Tuple(Box<[Item]>),
    /// A dictionary of any kind, in the file's order. Of equal keys, the last one counts.
    Dict(Vec<(Item, Item)>),
    /// The name of a class or function, which is not looked up.
    Name(Box<str>),
    /// A storage: an index into [`Pickle::storages`].
    Storage(u32),
    /// A tensor, whose values are in a storage.
    Tensor(Box<Strided>),
    /// An instance of a class: its name and contents.
    Object(Box<Object>),
}

/// An instance of a class that this crate does not interpret.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The class, as `module.name`.
    pub class: Box<str>,
    /// Its state, usually a dictionary of attributes.
    pub state: Item,
    /// Its entries, if it is a kind of dictionary.
    pub entries: Vec<(Item, Item)>,
    /// The arguments of its constructor, or its elements if it is a kind of list.
    pub elements: Vec<Item>,
}

/// A strided view of a storage: element (i, j, …) is number offset + i·stride\[0\] + j·stride\[1\] + … of the storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// The index of the storage in [`Pickle::storages`].
    pub storage: usize,
    /// The dtype of the elements; `None` if it is not supported.
    pub dtype: Option<Dtype>,
    /// The number of the first element in the storage.
    pub offset: usize,
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The number of elements between neighbors along each dimension.
    pub stride: Vec<usize>,
}

/// A one-dimensional array of values that tensors view.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Its name in the file.
    pub key: String,
    /// The name of its class in torch.
    pub class: String,
    /// The dtype of the class; `None` for untyped bytes and dtypes that are not supported.
    pub dtype: Option<Dtype>,
    /// The number of elements, or of bytes if it is untyped.
    pub len: u64,
    /// The number of its first element in the stored array; nonzero only for views in the legacy format.
    pub start: u64,
    /// The place of its values, if they are in the pickle.
    pub within: Option<Within>,
}

/// A place in a value of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Within {
    /// The number of the value in the arena.
    pub(crate) node: u32,
    /// The position of the first byte.
    pub(crate) begin: u64,
}

/// Values by number, in chunks: one vector would have to be moved to grow, and take three times its memory meanwhile.
#[derive(Debug, Default)]
pub(super) struct Arena(Vec<Vec<PickleValue>>);

/// The number of values of a chunk.
const CHUNK: usize = 1 << 10;

impl Arena {
    pub fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    pub fn push(&mut self, value: PickleValue) {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(value),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.0.push(chunk);
            }
        }
    }

    pub fn get(&self, index: u32) -> Option<&PickleValue> {
        self.0.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut PickleValue> {
        self.0.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }
}

/// A decoded pickle.
#[derive(Debug)]
pub struct Pickle {
    pub(super) nodes: Arena,
    /// The storages of its tensors.
    pub storages: Vec<Storage>,
    /// The pickled value.
    pub root: Item,
}

impl Pickle {
    /// Returns the value of `item` in the arena, if it is there.
    pub fn node(&self, item: Item) -> Option<&PickleValue> {
        match item {
            Item::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    /// Returns the bytes from a place to the end of their value.
    pub(crate) fn bytes(&self, within: Within) -> Option<&[u8]> {
        match self.nodes.get(within.node)? {
            PickleValue::Bytes(bytes) => bytes.get(usize::try_from(within.begin).ok()?..),
            _ => None,
        }
    }

    /// Returns `item` if it is a string.
    pub fn text(&self, item: Item) -> Option<&str> {
        match self.node(item)? {
            PickleValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the elements of a list or tuple.
    pub fn sequence(&self, item: Item) -> Option<&[Item]> {
        match self.node(item)? {
            PickleValue::List(items) => Some(items),
            PickleValue::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the value for a string key of a dictionary, or of an object that is a kind of dictionary.
    pub fn get(&self, item: Item, key: &str) -> Option<Item> {
        let entries = match self.node(item)? {
            PickleValue::Dict(entries) => entries,
            PickleValue::Object(object) => &object.entries,
            _ => return None,
        };
        entries.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// Returns a plain value as JSON: a number, a string, a boolean, none, or a list or tuple of them. It is short, since
    /// memoized values can be asked for often.
    pub(crate) fn plain(&self, item: Item) -> Option<serde_json::Value> {
        const LONGEST: usize = 64;
        Some(match item {
            Item::None => serde_json::Value::Null,
            Item::Bool(value) => value.into(),
            Item::Int(value) => value.into(),
            Item::Float(value) => serde_json::Number::from_f64(value)?.into(),
            Item::Node(_) => match (self.text(item), self.sequence(item)) {
                (Some(text), _) if text.len() <= LONGEST => text.into(),
                (_, Some(items)) if items.len() <= LONGEST => {
                    // A list in a list, which can be circular, is no plain value.
                    let value = |&item: &Item| if self.sequence(item).is_some() { None } else { self.plain(item) };
                    items.iter().map(value).collect::<Option<Vec<_>>>()?.into()
                }
                _ => return None,
            },
        })
    }

    /// Formats `item` as Python would, abbreviated.
    pub fn describe(&self, item: Item) -> String {
        let mut text = String::new();
        self.describe_into(item, 3, &mut text);
        text
    }

    fn describe_into(&self, item: Item, depth: usize, text: &mut String) {
        const LENGTH: usize = 160;
        if depth == 0 || text.len() > LENGTH {
            return text.push('…');
        }
        let join = |items: &[Item], text: &mut String| {
            for (i, &item) in items.iter().enumerate() {
                if text.len() > LENGTH {
                    return text.push('…');
                }
                text.push_str(if i > 0 { ", " } else { "" });
                self.describe_into(item, depth - 1, text);
            }
        };
        let brackets = |[open, close]: [char; 2], items: &[Item], text: &mut String| {
            text.push(open);
            join(items, text);
            text.push(close);
        };
        match (item, self.node(item)) {
            (Item::None, _) => text.push_str("None"),
            (Item::Bool(true), _) => text.push_str("True"),
            (Item::Bool(false), _) => text.push_str("False"),
            (Item::Int(number), _) => text.push_str(&number.to_string()),
            (Item::Float(number), _) => text.push_str(&number.to_string()),
            (_, Some(PickleValue::Text(string))) => {
                text.push_str(&format!("'{}'", shown(string)));
            }
            (_, Some(PickleValue::Bytes(bytes))) => text.push_str(&format!("{} bytes", bytes.len())),
            (_, Some(PickleValue::Long(bytes))) => text.push_str(&format!("an integer of {} bytes", bytes.len())),
            (_, Some(PickleValue::List(items))) => brackets(['[', ']'], items, text),
            (_, Some(PickleValue::Tuple(items))) => brackets(['(', ')'], items, text),
            (_, Some(PickleValue::Dict(entries))) => text.push_str(&format!("a dictionary of {}", entries.len())),
            (_, Some(PickleValue::Name(name))) => text.push_str(&shown(name)),
            (_, Some(PickleValue::Tensor(tensor))) => {
                text.push_str(&format!("a tensor of shape {}", shown_sizes(&tensor.shape)));
            }
            (_, Some(PickleValue::Object(object))) => text.push_str(&format!("a {}", shown(&object.class))),
            (_, Some(PickleValue::Storage(_)) | None) => text.push_str("a storage"),
        }
    }
}
