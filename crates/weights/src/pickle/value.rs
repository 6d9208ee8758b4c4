//! The values that a pickle holds.

use safetensors::tensor::Dtype;

/// A value: small ones are inside, the others in the arena of their [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Item {
    /// Python's `None`.
    None,
    /// A boolean.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// A float.
    Float(f64),
    /// Anything else; [`Pickle::node`] has it.
    Node(u32),
}

/// A value of the arena.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A string.
    Text(Box<str>),
    /// Bytes, and Python 2's strings that are not UTF-8.
    Bytes(Box<[u8]>),
    /// An integer beyond 64 bits, little-endian in two's complement.
    Long(Box<[u8]>),
    /// A list or a set.
    List(Vec<Item>),
    /// A tuple or a `torch.Size`.
    Tuple(Box<[Item]>),
    /// A dictionary of any kind, in the file's order; of equal keys the last one counts.
    Dict(Vec<(Item, Item)>),
    /// A class or function, by its name; what it is was not looked up.
    Name(Box<str>),
    /// The place of a tensor's values: an index into [`Pickle::storages`].
    Storage(u32),
    /// A tensor, whose values are elsewhere.
    Tensor(Box<Strided>),
    /// An instance of a class: what is in it, under the class's name.
    Object(Box<Object>),
}

/// An instance of a class that this crate knows nothing of.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The class, as `module.name`.
    pub class: Box<str>,
    /// What was set on it: its attributes as a dictionary, most often.
    pub state: Item,
    /// Entries, if it is some kind of dictionary.
    pub entries: Vec<(Item, Item)>,
    /// The arguments of its constructor, or elements, if it is some kind of list.
    pub elements: Vec<Item>,
}

/// Where a tensor's values are: element (i, j, …) is number offset + i·stride\[0\] + j·stride\[1\] + … of its storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Strided {
    /// Index into [`Pickle::storages`].
    pub storage: usize,
    /// What the elements are; `None` if that is not supported.
    pub dtype: Option<Dtype>,
    /// Number of the first element.
    pub offset: usize,
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    pub stride: Vec<usize>,
}

/// A run of values that tensors share.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Its name within the file.
    pub key: String,
    /// torch's name for its type.
    pub class: String,
    /// What the class holds; `None` for untyped bytes and for what is not supported.
    pub dtype: Option<Dtype>,
    /// Elements, or bytes if it is untyped.
    pub len: u64,
    /// Where it begins within the stored one, in elements; not 0 only for the views of the legacy format.
    pub start: u64,
}

/// What a pickle holds.
#[derive(Debug)]
pub struct Pickle {
    pub(super) nodes: Vec<Node>,
    /// The storages that its tensors lie in.
    pub storages: Vec<Storage>,
    /// The value of the whole.
    pub root: Item,
}

impl Pickle {
    /// The arena's value for `item`, if that is where it is.
    pub fn node(&self, item: Item) -> Option<&Node> {
        match item {
            Item::Node(index) => self.nodes.get(index as usize),
            _ => None,
        }
    }

    /// `item` as a string.
    pub fn text(&self, item: Item) -> Option<&str> {
        match self.node(item)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list or tuple.
    pub fn sequence(&self, item: Item) -> Option<&[Item]> {
        match self.node(item)? {
            Node::List(items) => Some(items),
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a dictionary under a string, or of an object that is one.
    pub fn get(&self, item: Item, key: &str) -> Option<Item> {
        let entries = match self.node(item)? {
            Node::Dict(entries) => entries,
            Node::Object(object) => &object.entries,
            _ => return None,
        };
        entries.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    /// `item` as Python would write it, cut short.
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
            (_, Some(Node::Text(string))) => {
                text.push('\'');
                text.extend(string.chars().take(100).flat_map(char::escape_debug));
                text.push('\'');
            }
            (_, Some(Node::Bytes(bytes))) => text.push_str(&format!("{} bytes", bytes.len())),
            (_, Some(Node::Long(bytes))) => text.push_str(&format!("an integer of {} bytes", bytes.len())),
            (_, Some(Node::List(items))) => brackets(['[', ']'], items, text),
            (_, Some(Node::Tuple(items))) => brackets(['(', ')'], items, text),
            (_, Some(Node::Dict(entries))) => text.push_str(&format!("a dictionary of {}", entries.len())),
            (_, Some(Node::Name(name))) => text.extend(name.chars().take(100)),
            (_, Some(Node::Tensor(tensor))) => text.push_str(&format!("a tensor of shape {:?}", tensor.shape)),
            (_, Some(Node::Object(object))) => text.push_str(&format!("a {:.100}", object.class)),
            (_, Some(Node::Storage(_)) | None) => text.push_str("a storage"),
        }
    }
}
