//! The stack machine: one pickle from its first opcode to `STOP`.

use super::calls;
use super::escapes::{unescaped, unquoted};
use super::{Item, Node, Object, Pickle, Source};
use crate::Error;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

/// Bytes that a value costs in the arena or in a list, with what a growing vector holds while it moves.
const NODE: u64 = 3 * size_of::<Node>() as u64;
const ITEM: u64 = 3 * size_of::<Item>() as u64;
/// An entry of the memo.
const MEMO: u64 = 64;

/// Why a pickle was not read.
pub(crate) enum Refusal {
    /// It is not a pickle, or not one of protocols 0 to 5, or too much for its file.
    Bad(String),
    /// It would call something.
    Call { call: String, byte: u64 },
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::Bad(reason)
    }
}

impl Refusal {
    pub fn of(self, path: &Path) -> Error {
        match self {
            Refusal::Bad(reason) => Error::file(path, format!("bad pickle: {reason}")),
            Refusal::Call { call, byte } => Error::Call { path: path.to_owned(), call, byte },
        }
    }
}

pub(super) type Answer<T> = Result<T, Refusal>;

pub(super) struct Machine {
    pub pickle: Pickle,
    stack: Vec<Item>,
    /// Where on the stack each open mark is.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Item>,
    /// The stack's greatest height so far; only that is paid for.
    height: usize,
    /// Bytes that may still be allocated.
    allowance: u64,
    /// Where the current opcode is.
    pub byte: u64,
}

/// Reads one pickle of a file with `file_length` bytes, and not a byte more. A pickle that builds more than about three
/// times its file is refused.
pub(crate) fn read<R: BufRead>(source: &mut Source<R>, file_length: u64) -> Answer<Pickle> {
    let mut machine = Machine {
        pickle: Pickle { nodes: Vec::new(), storages: Vec::new(), root: Item::None },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        height: 0,
        allowance: file_length.saturating_mul(3).saturating_add(512 << 10),
        byte: 0,
    };
    loop {
        machine.byte = source.position();
        let opcode = source.byte()?;
        if opcode == b'.' {
            machine.pickle.root = machine.pop()?;
            return Ok(machine.pickle);
        }
        machine.step(opcode, source)?;
    }
}

impl Machine {
    fn step<R: BufRead>(&mut self, opcode: u8, source: &mut Source<R>) -> Answer<()> {
        match opcode {
            // Protocol, frames: what they announce follows anyway.
            0x80 => match source.byte()? {
                0..=5 => Ok(()),
                version => Err(self.bad(format!("protocol {version}; 0 to 5 are known"))),
            },
            0x95 => match u64::from_le_bytes(source.array()?) {
                length if length <= source.left() => Ok(()),
                length => Err(self.bad(format!("a frame of {length} bytes, {} are left", source.left()))),
            },

            // The stack.
            b'(' => {
                self.pay(ITEM)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.pop() {
                Ok(_) => Ok(()),
                // A pop at a mark takes the mark.
                Err(_) => self.marked().map(drop),
            },
            b'1' => self.marked().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push(top)
            }

            // The memo.
            b'p' => {
                let index = self.number(&source.line()?)?;
                self.remember(index)
            }
            b'q' => {
                let index = source.byte()?;
                self.remember(index.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(source.array()?);
                self.remember(index)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'g' => {
                let index = self.number(&source.line()?)?;
                self.recall(index)
            }
            b'h' => {
                let index = source.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = u32::from_le_bytes(source.array()?);
                self.recall(index)
            }

            // Plain values.
            b'N' => self.push(Item::None),
            0x88 => self.push(Item::Bool(true)),
            0x89 => self.push(Item::Bool(false)),
            b'I' => match source.line()?.trim() {
                "00" => self.push(Item::Bool(false)),
                "01" => self.push(Item::Bool(true)),
                digits => {
                    let number = self.number(digits)?;
                    self.push(Item::Int(number))
                }
            },
            b'L' => {
                let line = source.line()?;
                let number: i128 = self.number(line.trim().trim_end_matches('L'))?;
                self.integer(&number.to_le_bytes())
            }
            b'J' => self.push(Item::Int(i32::from_le_bytes(source.array()?).into())),
            b'K' => self.push(Item::Int(source.byte()?.into())),
            b'M' => self.push(Item::Int(u16::from_le_bytes(source.array()?).into())),
            0x8a => {
                let length = source.byte()?;
                self.long(source, length.into())
            }
            0x8b => {
                let length = u32::from_le_bytes(source.array()?);
                self.long(source, length.into())
            }
            b'F' => {
                let number = self.number(source.line()?.trim())?;
                self.push(Item::Float(number))
            }
            b'G' => self.push(Item::Float(f64::from_be_bytes(source.array()?))),

            // Strings and bytes.
            b'S' => {
                let line = source.line()?;
                let bytes = unquoted(line.trim()).ok_or_else(|| self.bad("a string without its quotes".into()))?;
                self.text(bytes)
            }
            b'V' => {
                let line = source.line()?;
                self.text(unescaped(line.as_bytes(), true))
            }
            b'T' => self.bytes(source, Width::Four, Kind::Text),
            b'U' => self.bytes(source, Width::One, Kind::Text),
            b'X' => self.bytes(source, Width::Four, Kind::Text),
            0x8c => self.bytes(source, Width::One, Kind::Text),
            0x8d => self.bytes(source, Width::Eight, Kind::Text),
            b'B' => self.bytes(source, Width::Four, Kind::Bytes),
            b'C' => self.bytes(source, Width::One, Kind::Bytes),
            0x8e | 0x96 => self.bytes(source, Width::Eight, Kind::Bytes),

            // Containers.
            b')' => self.push_node(Node::Tuple(Box::new([]))),
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b't' => {
                let items = self.marked()?;
                self.push_node(Node::Tuple(items.into()))
            }
            b']' | 0x8f => self.push_node(Node::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.marked()?;
                self.push_node(Node::List(items))
            }
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.marked()?;
                let entries = self.pairs(&items)?;
                self.push_node(Node::Dict(entries))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[(key, value)])
            }
            b'u' => {
                let items = self.marked()?;
                let entries = self.pairs(&items)?;
                self.set(&entries)
            }

            // Names, and what they are asked to do.
            b'c' => {
                let (module, name) = (source.line()?, source.line()?);
                self.push_node(Node::Name(format!("{module}.{name}").into()))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let name = match (self.pickle.text(module), self.pickle.text(name)) {
                    (Some(module), Some(name)) => format!("{module}.{name}"),
                    _ => return Err(self.bad("a global whose name is no string".into())),
                };
                self.push_node(Node::Name(name.into()))
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let result = calls::call(self, function, arguments)?;
                self.push(result)
            }
            0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                let result = calls::instance(self, class, arguments)?;
                self.push(result)
            }
            b'i' => {
                let class = format!("{}.{}", source.line()?, source.line()?);
                let arguments = self.marked()?;
                let class = self.node(Node::Name(class.into()))?;
                let arguments = self.node(Node::Tuple(arguments.into()))?;
                let result = calls::instance(self, class, arguments)?;
                self.push(result)
            }
            b'o' => {
                let items = self.marked()?;
                let Some((&class, arguments)) = items.split_first() else {
                    return Err(self.bad("an instance of nothing".into()));
                };
                let arguments = self.node(Node::Tuple(arguments.into()))?;
                let result = calls::instance(self, class, arguments)?;
                self.push(result)
            }
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                calls::build(self, object, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let result = calls::persistent(self, id)?;
                self.push(result)
            }
            b'P' => Err(self.bad(format!("it refers to `{}`, which no file of torch.save's has", source.line()?))),
            0x92 => Err(self.bad("it makes an instance with keywords (NEWOBJ_EX), which is refused".into())),
            0x82..=0x84 => Err(self.bad("it uses the registry of extensions (EXT), which is refused".into())),
            0x97 | 0x98 => Err(self.bad("it refers to a buffer outside of itself, which is refused".into())),
            _ => Err(self.bad(format!("no opcode is {opcode:#04x}"))),
        }
    }

    pub fn bad(&self, reason: String) -> Refusal {
        Refusal::Bad(format!("{reason} (byte {})", self.byte))
    }

    /// Pays for an allocation that is about to be made.
    pub fn pay(&mut self, bytes: u64) -> Answer<()> {
        self.allowance = self.allowance.checked_sub(bytes).ok_or_else(|| {
            self.bad("it builds more than a file of this size is worth; nothing that torch.save writes does".into())
        })?;
        Ok(())
    }

    fn push(&mut self, item: Item) -> Answer<()> {
        if self.stack.len() >= self.height {
            self.pay(ITEM)?;
            self.height = self.stack.len() + 1;
        }
        self.stack.push(item);
        Ok(())
    }

    pub fn node(&mut self, node: Node) -> Answer<Item> {
        self.pay(NODE)?;
        let index = u32::try_from(self.pickle.nodes.len()).map_err(|_| self.bad("too many values".into()))?;
        self.pickle.nodes.push(node);
        Ok(Item::Node(index))
    }

    fn push_node(&mut self, node: Node) -> Answer<()> {
        let item = self.node(node)?;
        self.push(item)
    }

    fn top(&self) -> Answer<Item> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&item) if self.stack.len() > floor => Ok(item),
            _ => Err(self.bad("nothing on the stack where something should be".into())),
        }
    }

    fn pop(&mut self) -> Answer<Item> {
        let item = self.top()?;
        self.stack.pop();
        Ok(item)
    }

    /// What is above the last mark, paid for.
    fn marked(&mut self) -> Answer<Vec<Item>> {
        let mark = self.marks.pop().ok_or_else(|| self.bad("no mark where one should be".into()))?;
        self.pay((self.stack.len() - mark) as u64 * ITEM)?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Answer<()> {
        let mut items = [Item::None; 3];
        for item in items[..count].iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push_node(Node::Tuple(items[..count].into()))
    }

    fn pairs(&mut self, items: &[Item]) -> Answer<Vec<(Item, Item)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.bad("a key without a value".into()));
        }
        self.pay(items.len() as u64 * ITEM)?;
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    /// The value of the arena on the stack's top, to be filled.
    fn target(&mut self) -> Answer<&mut Node> {
        match self.top()? {
            Item::Node(index) => Ok(&mut self.pickle.nodes[index as usize]),
            _ => Err(self.bad("a number is filled like a container".into())),
        }
    }

    fn extend(&mut self, items: &[Item]) -> Answer<()> {
        self.pay(items.len() as u64 * ITEM)?;
        match self.target()? {
            Node::List(list) => list.extend_from_slice(items),
            Node::Object(object) => object.elements.extend_from_slice(items),
            _ => return Err(self.bad("elements are added to what is no list".into())),
        }
        Ok(())
    }

    fn set(&mut self, entries: &[(Item, Item)]) -> Answer<()> {
        self.pay(2 * entries.len() as u64 * ITEM)?;
        match self.target()? {
            Node::Dict(dict) => dict.extend_from_slice(entries),
            Node::Object(object) => object.entries.extend_from_slice(entries),
            _ => return Err(self.bad("entries are added to what is no dictionary".into())),
        }
        Ok(())
    }

    /// The object of an item, to be given its state.
    pub fn object(&mut self, item: Item) -> Option<&mut Object> {
        match item {
            Item::Node(index) => match &mut self.pickle.nodes[index as usize] {
                Node::Object(object) => Some(object),
                _ => None,
            },
            _ => None,
        }
    }

    fn remember(&mut self, index: u32) -> Answer<()> {
        self.pay(MEMO)?;
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Answer<()> {
        match self.memo.get(&index) {
            Some(&item) => self.push(item),
            None => Err(self.bad(format!("nothing is in the memo under {index}"))),
        }
    }

    fn number<T: std::str::FromStr>(&self, digits: &str) -> Answer<T> {
        digits.parse().map_err(|_| self.bad(format!("`{digits:.40}` is not a number of the size that it should have")))
    }

    fn long<R: BufRead>(&mut self, source: &mut Source<R>, length: u64) -> Answer<()> {
        self.pay(length.min(source.left()))?;
        let bytes = source.bytes(length)?;
        self.integer(&bytes)
    }

    /// Pushes an integer in two's complement.
    fn integer(&mut self, mut bytes: &[u8]) -> Answer<()> {
        // A byte that only copies the sign of the one below it says nothing.
        while let [.., below, last] = *bytes
            && last == if below >= 0x80 { 0xff } else { 0 }
        {
            bytes = &bytes[..bytes.len() - 1];
        }
        if bytes.len() > 8 {
            return self.push_node(Node::Long(bytes.into()));
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut all = [sign; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        self.push(Item::Int(i64::from_le_bytes(all)))
    }

    fn text(&mut self, bytes: Vec<u8>) -> Answer<()> {
        self.pay(bytes.len() as u64)?;
        self.push_node(match String::from_utf8(bytes) {
            Ok(text) => Node::Text(text.into()),
            Err(error) => Node::Bytes(error.into_bytes().into()),
        })
    }

    fn bytes<R: BufRead>(&mut self, source: &mut Source<R>, width: Width, kind: Kind) -> Answer<()> {
        let length = match width {
            Width::One => source.byte()?.into(),
            Width::Four => u32::from_le_bytes(source.array()?).into(),
            Width::Eight => u64::from_le_bytes(source.array()?),
        };
        if length <= source.left() {
            self.pay(length)?;
        }
        let bytes = source.bytes(length)?;
        match kind {
            Kind::Text => self.text(bytes),
            Kind::Bytes => self.push_node(Node::Bytes(bytes.into())),
        }
    }
}

/// How many bytes a length takes.
enum Width {
    One,
    Four,
    Eight,
}

enum Kind {
    Text,
    Bytes,
}
