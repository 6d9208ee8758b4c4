//! The state of the stack machine: the stack, its marks, the memo and the values built so far.

use super::saved;
use super::value::{Arena, Item, Object, Pickle, PickleValue, Storage, Within};
use crate::Error;
use crate::budget::Budget;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a node of the arena and of an item.
const NODE: u64 = size_of::<PickleValue>() as u64;
const ITEM: u64 = size_of::<Item>() as u64;
/// The factor of what is charged for an element of a vector that grows: while it is moved, its old and its new buffer
/// exist, and the new one is twice as long.
const GROWING: u64 = 3;
/// Bytes charged for a mark and for an entry of the memo.
const MARK: u64 = GROWING * size_of::<usize>() as u64;
const MEMO: u64 = 48;

/// The reason why a pickle could not be read.
pub(crate) enum PickleError {
    /// The bytes are no pickle of protocol 0 to 5, or exceed the allocation budget.
    Malformed(String),
    /// The pickle calls a function that builds neither tensors nor plain values.
    Call { call: String, byte: u64 },
}

impl From<String> for PickleError {
    fn from(reason: String) -> Self {
        PickleError::Malformed(reason)
    }
}

impl PickleError {
    /// Adds the path of the file that the pickle is in.
    pub fn at(self, path: &Path) -> Error {
        match self {
            PickleError::Malformed(reason) => Error::file(path, format!("bad pickle: {reason}")),
            PickleError::Call { call, byte } => Error::Call { path: path.to_owned(), call, byte },
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, PickleError>;

/// The stack machine that a pickle is a program for.
pub(super) struct Machine<'b> {
    pub pickle: Pickle,
    stack: Vec<Item>,
    /// The height of the stack at each open mark.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Item>,
    /// The greatest height of the stack so far; an item is charged for only when the stack exceeds it.
    height: usize,
    /// The greatest number of open marks so far.
    depth: usize,
    budget: &'b mut Budget,
    /// Bytes of the budget that are free again when the pickle has been read.
    temporary: u64,
    /// The position of the current opcode.
    pub byte: u64,
    /// Set for a pickle in the bytes of another one. Deeper ones are refused, since each takes a part of the call stack.
    pub is_nested: bool,
}

impl<'b> Machine<'b> {
    /// Creates a machine that allocates from `budget`.
    pub fn new(budget: &'b mut Budget) -> Self {
        Self {
            pickle: Pickle { nodes: Arena::default(), storages: Vec::new(), root: Item::None },
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            height: 0,
            depth: 0,
            budget,
            temporary: 0,
            byte: 0,
            is_nested: false,
        }
    }

    /// Creates a machine for a pickle in the bytes of another one.
    pub fn nested(budget: &'b mut Budget) -> Self {
        Self { is_nested: true, ..Self::new(budget) }
    }

    /// Makes an error that gives the position of the current opcode.
    pub fn error(&self, reason: impl std::fmt::Display) -> PickleError {
        PickleError::Malformed(format!("{reason} (byte {})", self.byte))
    }

    /// Charges the budget for an allocation, before it is made.
    pub fn charge(&mut self, bytes: u64) -> Result<()> {
        self.budget.take(bytes).map_err(|reason| self.error(format!("it {reason}")))
    }

    /// Charges the budget for memory that is needed until the pickle has been read.
    fn charge_temporary(&mut self, bytes: u64) -> Result<()> {
        self.charge(bytes)?;
        self.temporary += bytes;
        Ok(())
    }

    /// Ends with the topmost item, the pickled value, and frees what only the machine needs.
    pub fn finish(mut self) -> Result<Pickle> {
        self.pickle.root = self.pop()?;
        self.pickle.storages.shrink_to_fit();
        self.budget.give_back(self.temporary);
        Ok(self.pickle)
    }

    /// Adds a value to the arena, whose chunks do not move.
    pub fn add_node(&mut self, node: PickleValue) -> Result<Item> {
        self.charge(NODE)?;
        let index = u32::try_from(self.pickle.nodes.len()).map_err(|_| self.error("too many values"))?;
        self.pickle.nodes.push(node);
        Ok(Item::Node(index))
    }

    /// Adds a storage, unless it is the last one added, and returns its number. Only the last one is compared, since tensors
    /// that share a storage usually follow each other.
    pub fn add_storage(&mut self, storage: Storage) -> Result<u32> {
        if self.pickle.storages.last() != Some(&storage) {
            let bytes = size_of::<Storage>() as u64;
            self.charge(bytes)?;
            self.charge_temporary((GROWING - 1) * bytes)?;
            self.pickle.storages.push(storage);
        }
        Ok((self.pickle.storages.len() - 1) as u32)
    }

    /// Adds the storage whose file of `torch.save` is in the bytes `item`; `None` if it is no value of bytes.
    pub fn add_nested_storage(&mut self, item: Item) -> Result<Option<Item>> {
        let (Item::Node(node), Some(PickleValue::Bytes(bytes))) = (item, self.pickle.node(item)) else {
            return Ok(None);
        };
        if self.is_nested {
            return Err(self.error("a storage is in the bytes of another one"));
        }
        // For the time of reading them, since memoized bytes can be read often.
        self.charge_temporary(bytes.len() as u64)?;
        let Some(PickleValue::Bytes(bytes)) = self.pickle.node(item) else {
            return Ok(None);
        };
        let (storage, begin) = saved::nested_storage(bytes, format!("bytes {node}"), self.budget)?;
        let index = self.add_storage(Storage { within: Some(Within { node, begin }), ..storage })?;
        self.add_node(PickleValue::Storage(index)).map(Some)
    }

    /// Joins the parts of the name of a class or function, and adds it to the arena.
    pub fn add_name(&mut self, parts: [&str; 2]) -> Result<Item> {
        self.charge(parts.iter().map(|part| part.len() as u64 + 1).sum())?;
        self.add_node(PickleValue::Name(parts.join(".").into()))
    }

    /// Joins the module and the name of a class or function, which are strings, and adds them to the arena.
    pub fn add_global(&mut self, module: Item, name: Item) -> Result<Item> {
        let length = |item| self.pickle.text(item).map(|text| text.len() as u64);
        let (Some(before), Some(after)) = (length(module), length(name)) else {
            return Err(self.error("the name of a global is not a string"));
        };
        // A memoized string can be used in many names.
        self.charge(before + after + 1)?;
        let name = [module, name].map(|item| self.pickle.text(item).unwrap_or_default()).join(".");
        self.add_node(PickleValue::Name(name.into()))
    }

    /// Copies a string, which may be memoized and used by many values; `None` if `item` is none.
    pub fn copy_text(&mut self, item: Item) -> Result<Option<String>> {
        self.charge(self.pickle.text(item).map_or(0, |text| text.len() as u64))?;
        Ok(self.pickle.text(item).map(str::to_owned))
    }

    /// Copies the name of a class or function, as [`copy_text`](Self::copy_text) does.
    pub fn copy_name(&mut self, item: Item) -> Result<Option<String>> {
        let name = |pickle: &Pickle| match pickle.node(item) {
            Some(PickleValue::Name(name)) => Some(name.to_string()),
            _ => None,
        };
        let length = match self.pickle.node(item) {
            Some(PickleValue::Name(name)) => name.len() as u64,
            _ => 0,
        };
        self.charge(length)?;
        Ok(name(&self.pickle))
    }

    /// Returns the object that `item` is, if it is one.
    pub fn object_mut(&mut self, item: Item) -> Option<&mut Object> {
        match item {
            Item::Node(index) => match self.pickle.nodes.get_mut(index) {
                Some(PickleValue::Object(object)) => Some(object),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn push(&mut self, item: Item) -> Result<()> {
        if self.stack.len() >= self.height {
            self.charge_temporary(GROWING * ITEM)?;
            self.height = self.stack.len() + 1;
        }
        self.stack.push(item);
        Ok(())
    }

    pub fn push_node(&mut self, node: PickleValue) -> Result<()> {
        let item = self.add_node(node)?;
        self.push(item)
    }

    /// Pushes the integer whose little-endian two's complement is `bytes`.
    pub fn push_integer(&mut self, mut bytes: &[u8]) -> Result<()> {
        // Drops sign-extension bytes, so that any integer that fits 64 bits becomes an `Item::Int`.
        while let [.., below, last] = *bytes
            && last == if below >= 0x80 { 0xff } else { 0 }
        {
            bytes = &bytes[..bytes.len() - 1];
        }
        if bytes.len() > 8 {
            return self.push_node(PickleValue::Long(bytes.into()));
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut all = [sign; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        self.push(Item::Int(i64::from_le_bytes(all)))
    }

    /// Pushes a string, or bytes if they are not UTF-8. They are charged already.
    pub fn push_text(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.push_node(match String::from_utf8(bytes) {
            Ok(text) => PickleValue::Text(text.into()),
            Err(error) => PickleValue::Bytes(error.into_bytes().into()),
        })
    }

    /// Replaces the `count` topmost items by a tuple of them.
    pub fn push_tuple(&mut self, count: usize) -> Result<()> {
        let mut items = [Item::None; 3];
        for item in items[..count].iter_mut().rev() {
            *item = self.pop()?;
        }
        self.charge(count as u64 * ITEM)?;
        self.push_node(PickleValue::Tuple(items[..count].into()))
    }

    /// Returns the topmost item above the last mark.
    pub fn top(&self) -> Result<Item> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&item) if self.stack.len() > floor => Ok(item),
            _ => Err(self.error("an opcode needs a value, but the stack is empty")),
        }
    }

    pub fn pop(&mut self) -> Result<Item> {
        let item = self.top()?;
        self.stack.pop();
        Ok(item)
    }

    /// Opens a mark at the top of the stack.
    pub fn push_mark(&mut self) -> Result<()> {
        if self.marks.len() >= self.depth {
            self.charge_temporary(MARK)?;
            self.depth = self.marks.len() + 1;
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Closes the last mark, and returns the items above it.
    pub fn pop_mark(&mut self) -> Result<Vec<Item>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("an opcode needs a mark, but there is none"))?;
        self.charge((self.stack.len() - mark) as u64 * ITEM)?;
        Ok(self.stack.split_off(mark))
    }

    /// Groups `items` into keys and values.
    pub fn pairs(&mut self, items: &[Item]) -> Result<Vec<(Item, Item)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.error("a dictionary has a key without a value"));
        }
        self.charge(items.len() as u64 * ITEM)?;
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    /// Appends `items` to the list on top of the stack.
    pub fn append(&mut self, items: &[Item]) -> Result<()> {
        self.charge(items.len() as u64 * GROWING * ITEM)?;
        match self.top_node()? {
            PickleValue::List(list) => list.extend_from_slice(items),
            PickleValue::Object(object) => object.elements.extend_from_slice(items),
            _ => return Err(self.error("elements are appended to a value that is not a list")),
        }
        Ok(())
    }

    /// Adds `entries` to the dictionary on top of the stack.
    pub fn set_items(&mut self, entries: &[(Item, Item)]) -> Result<()> {
        self.charge(2 * entries.len() as u64 * GROWING * ITEM)?;
        match self.top_node()? {
            PickleValue::Dict(dict) => dict.extend_from_slice(entries),
            PickleValue::Object(object) => object.entries.extend_from_slice(entries),
            _ => return Err(self.error("entries are set in a value that is not a dictionary")),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Result<&mut PickleValue> {
        let (top, byte) = (self.top()?, self.byte);
        let node = match top {
            Item::Node(index) => self.pickle.nodes.get_mut(index),
            _ => None,
        };
        let reason = "an opcode fills a container, but a plain value is on top of the stack";
        node.ok_or_else(|| PickleError::Malformed(format!("{reason} (byte {byte})")))
    }

    /// Returns the number of entries of the memo.
    pub fn memo_len(&self) -> usize {
        self.memo.len()
    }

    /// Stores the topmost item in the memo.
    pub fn memo_put(&mut self, index: u32) -> Result<()> {
        self.charge_temporary(MEMO)?;
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    /// Pushes the item that the memo has at `index`.
    pub fn memo_get(&mut self, index: u32) -> Result<()> {
        match self.memo.get(&index) {
            Some(&item) => self.push(item),
            None => Err(self.error(format!("the memo has no entry {index}"))),
        }
    }
}
