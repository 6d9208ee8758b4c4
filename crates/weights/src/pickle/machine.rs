//! The state of the stack machine: the stack, its marks, the memo and the values built so far.

use super::value::{Item, Object, Pickle, PickleValue};
use crate::Error;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes charged for a node of the arena and for an item of a list. The factor covers a vector that is moved to grow.
const NODE: u64 = 3 * size_of::<PickleValue>() as u64;
const ITEM: u64 = 3 * size_of::<Item>() as u64;
/// Bytes charged for an entry of the memo.
const MEMO: u64 = 64;

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
pub(super) struct Machine {
    pub pickle: Pickle,
    stack: Vec<Item>,
    /// The height of the stack at each open mark.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Item>,
    /// The greatest height of the stack so far; an item is charged for only when the stack exceeds it.
    height: usize,
    /// Bytes that may still be allocated.
    budget: u64,
    /// The position of the current opcode.
    pub byte: u64,
}

impl Machine {
    /// Creates a machine that may allocate about `budget` bytes.
    pub fn new(budget: u64) -> Self {
        Self {
            pickle: Pickle { nodes: Vec::new(), storages: Vec::new(), root: Item::None },
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            height: 0,
            budget,
            byte: 0,
        }
    }

    /// Makes an error that gives the position of the current opcode.
    pub fn error(&self, reason: impl std::fmt::Display) -> PickleError {
        PickleError::Malformed(format!("{reason} (byte {})", self.byte))
    }

    /// Charges the budget for an allocation, before it is made.
    pub fn charge(&mut self, bytes: u64) -> Result<()> {
        self.budget = self.budget.checked_sub(bytes).ok_or_else(|| {
            self.error("it exceeds its allocation budget (3 × the file's size), which no file of torch.save does")
        })?;
        Ok(())
    }

    /// Adds a value to the arena.
    pub fn add_node(&mut self, node: PickleValue) -> Result<Item> {
        self.charge(NODE)?;
        let index = u32::try_from(self.pickle.nodes.len()).map_err(|_| self.error("too many values"))?;
        self.pickle.nodes.push(node);
        Ok(Item::Node(index))
    }

    /// Returns the object that `item` is, if it is one.
    pub fn object_mut(&mut self, item: Item) -> Option<&mut Object> {
        match item {
            Item::Node(index) => match &mut self.pickle.nodes[index as usize] {
                PickleValue::Object(object) => Some(object),
                _ => None,
            },
            _ => None,
        }
    }

    pub fn push(&mut self, item: Item) -> Result<()> {
        if self.stack.len() >= self.height {
            self.charge(ITEM)?;
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

    /// Pushes a string, or bytes if they are not UTF-8.
    pub fn push_text(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.charge(bytes.len() as u64)?;
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
        self.charge(ITEM)?;
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
        self.charge(items.len() as u64 * ITEM)?;
        match self.top_node()? {
            PickleValue::List(list) => list.extend_from_slice(items),
            PickleValue::Object(object) => object.elements.extend_from_slice(items),
            _ => return Err(self.error("elements are appended to a value that is not a list")),
        }
        Ok(())
    }

    /// Adds `entries` to the dictionary on top of the stack.
    pub fn set_items(&mut self, entries: &[(Item, Item)]) -> Result<()> {
        self.charge(2 * entries.len() as u64 * ITEM)?;
        match self.top_node()? {
            PickleValue::Dict(dict) => dict.extend_from_slice(entries),
            PickleValue::Object(object) => object.entries.extend_from_slice(entries),
            _ => return Err(self.error("entries are set in a value that is not a dictionary")),
        }
        Ok(())
    }

    fn top_node(&mut self) -> Result<&mut PickleValue> {
        match self.top()? {
            Item::Node(index) => Ok(&mut self.pickle.nodes[index as usize]),
            _ => Err(self.error("an opcode fills a container, but a plain value is on top of the stack")),
        }
    }

    /// Returns the number of entries of the memo.
    pub fn memo_len(&self) -> usize {
        self.memo.len()
    }

    /// Stores the topmost item in the memo.
    pub fn memo_put(&mut self, index: u32) -> Result<()> {
        self.charge(MEMO)?;
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
