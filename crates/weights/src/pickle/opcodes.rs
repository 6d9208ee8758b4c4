//! Running a pickle: one opcode after the other until `STOP` (CPython's `Lib/pickletools.py` describes each).

use super::calls;
use super::escapes::{unescape, unquote};
use super::machine::{Machine, Result};
use super::source::Source;
use super::value::{Item, Pickle, PickleValue};
use crate::budget::Budget;
use crate::shown::shown;
use std::io::BufRead;

/// Reads one pickle, and no byte after it. What it builds is taken from `budget`.
pub(crate) fn read<R: BufRead>(source: &mut Source<R>, budget: &mut Budget) -> Result<Pickle> {
    run(Machine::new(budget), source)
}

/// Reads a pickle in the bytes of another one, which has no others in it.
pub(super) fn read_nested<R: BufRead>(source: &mut Source<R>, budget: &mut Budget) -> Result<Pickle> {
    run(Machine::nested(budget), source)
}

fn run<R: BufRead>(mut machine: Machine, source: &mut Source<R>) -> Result<Pickle> {
    loop {
        machine.byte = source.position();
        let opcode = source.byte()?;
        if opcode == b'.' {
            return machine.finish();
        }
        execute(&mut machine, opcode, source)?;
    }
}

fn execute<R: BufRead>(machine: &mut Machine, opcode: u8, source: &mut Source<R>) -> Result<()> {
    match opcode {
        // The protocol and frames, which do not change what follows.
        0x80 => match source.byte()? {
            0..=5 => Ok(()),
            version => Err(machine.error(format!("protocol {version} is not supported; expected 0 to 5"))),
        },
        0x95 => match u64::from_le_bytes(source.array()?) {
            length if length <= source.left() => Ok(()),
            length => Err(machine
                .error(format!("a frame of {length} bytes is longer than the {} bytes that are left", source.left()))),
        },

        // The stack.
        b'(' => machine.push_mark(),
        b'0' => match machine.pop() {
            Ok(_) => Ok(()),
            // POP at a mark removes the mark.
            Err(_) => machine.pop_mark().map(drop),
        },
        b'1' => machine.pop_mark().map(drop),
        b'2' => {
            let top = machine.top()?;
            machine.push(top)
        }

        // The memo.
        b'p' => {
            let index = parse(machine, &source.line()?)?;
            machine.memo_put(index)
        }
        b'q' => {
            let index = source.byte()?;
            machine.memo_put(index.into())
        }
        b'r' => {
            let index = u32::from_le_bytes(source.array()?);
            machine.memo_put(index)
        }
        0x94 => machine.memo_put(machine.memo_len() as u32),
        b'g' => {
            let index = parse(machine, &source.line()?)?;
            machine.memo_get(index)
        }
        b'h' => {
            let index = source.byte()?;
            machine.memo_get(index.into())
        }
        b'j' => {
            let index = u32::from_le_bytes(source.array()?);
            machine.memo_get(index)
        }

        // Plain values.
        b'N' => machine.push(Item::None),
        0x88 => machine.push(Item::Bool(true)),
        0x89 => machine.push(Item::Bool(false)),
        b'I' => match source.line()?.trim() {
            "00" => machine.push(Item::Bool(false)),
            "01" => machine.push(Item::Bool(true)),
            digits => {
                let number = parse(machine, digits)?;
                machine.push(Item::Int(number))
            }
        },
        b'L' => {
            let line = source.line()?;
            let number: i128 = parse(machine, line.trim().trim_end_matches('L'))?;
            machine.push_integer(&number.to_le_bytes())
        }
        b'J' => machine.push(Item::Int(i32::from_le_bytes(source.array()?).into())),
        b'K' => machine.push(Item::Int(source.byte()?.into())),
        b'M' => machine.push(Item::Int(u16::from_le_bytes(source.array()?).into())),
        0x8a => {
            let length = source.byte()?;
            push_long(machine, source, length.into())
        }
        0x8b => {
            let length = u32::from_le_bytes(source.array()?);
            push_long(machine, source, length.into())
        }
        b'F' => {
            let number = parse(machine, source.line()?.trim())?;
            machine.push(Item::Float(number))
        }
        b'G' => machine.push(Item::Float(f64::from_be_bytes(source.array()?))),

        // Strings and bytes.
        b'S' => {
            let line = source.line()?;
            machine.charge(line.len() as u64)?;
            let bytes = unquote(line.trim()).ok_or_else(|| machine.error("a string is not quoted"))?;
            machine.push_text(bytes)
        }
        b'V' => {
            let line = source.line()?;
            machine.charge(line.len() as u64)?;
            machine.push_text(unescape(line.as_bytes(), true))
        }
        b'T' => push_bytes(machine, source, Width::Four, Kind::Text),
        b'U' => push_bytes(machine, source, Width::One, Kind::Text),
        b'X' => push_bytes(machine, source, Width::Four, Kind::Text),
        0x8c => push_bytes(machine, source, Width::One, Kind::Text),
        0x8d => push_bytes(machine, source, Width::Eight, Kind::Text),
        b'B' => push_bytes(machine, source, Width::Four, Kind::Bytes),
        b'C' => push_bytes(machine, source, Width::One, Kind::Bytes),
        0x8e | 0x96 => push_bytes(machine, source, Width::Eight, Kind::Bytes),

        // Containers.
        b')' => machine.push_node(PickleValue::Tuple(Box::new([]))),
        0x85 => machine.push_tuple(1),
        0x86 => machine.push_tuple(2),
        0x87 => machine.push_tuple(3),
        b't' => {
            let items = machine.pop_mark()?;
            machine.push_node(PickleValue::Tuple(items.into()))
        }
        b']' | 0x8f => machine.push_node(PickleValue::List(Vec::new())),
        b'l' | 0x91 => {
            let items = machine.pop_mark()?;
            machine.push_node(PickleValue::List(items))
        }
        b'}' => machine.push_node(PickleValue::Dict(Vec::new())),
        b'd' => {
            let items = machine.pop_mark()?;
            let entries = machine.pairs(&items)?;
            machine.push_node(PickleValue::Dict(entries))
        }
        b'a' => {
            let item = machine.pop()?;
            machine.append(&[item])
        }
        b'e' | 0x90 => {
            let items = machine.pop_mark()?;
            machine.append(&items)
        }
        b's' => {
            let value = machine.pop()?;
            let key = machine.pop()?;
            machine.set_items(&[(key, value)])
        }
        b'u' => {
            let items = machine.pop_mark()?;
            let entries = machine.pairs(&items)?;
            machine.set_items(&entries)
        }

        // Globals, calls and instances.
        b'c' => {
            let (module, name) = (source.line()?, source.line()?);
            let name = machine.add_name([&module, &name])?;
            machine.push(name)
        }
        0x93 => {
            let (name, module) = (machine.pop()?, machine.pop()?);
            let name = machine.add_global(module, name)?;
            machine.push(name)
        }
        b'R' => {
            let (arguments, function) = (machine.pop()?, machine.pop()?);
            let result = calls::call(machine, function, arguments)?;
            machine.push(result)
        }
        0x81 => {
            let (arguments, class) = (machine.pop()?, machine.pop()?);
            let result = calls::instance(machine, class, arguments)?;
            machine.push(result)
        }
        b'i' => {
            let (module, name) = (source.line()?, source.line()?);
            let arguments = machine.pop_mark()?;
            let class = machine.add_name([&module, &name])?;
            let arguments = machine.add_node(PickleValue::Tuple(arguments.into()))?;
            let result = calls::instance(machine, class, arguments)?;
            machine.push(result)
        }
        b'o' => {
            let items = machine.pop_mark()?;
            let Some((&class, arguments)) = items.split_first() else {
                return Err(machine.error("the opcode OBJ has no class"));
            };
            let arguments = machine.add_node(PickleValue::Tuple(arguments.into()))?;
            let result = calls::instance(machine, class, arguments)?;
            machine.push(result)
        }
        b'b' => {
            let state = machine.pop()?;
            let object = machine.top()?;
            calls::build(machine, object, state)
        }
        b'Q' => {
            let id = machine.pop()?;
            let result = calls::persistent(machine, id)?;
            machine.push(result)
        }
        b'P' => Err(machine.error(format!(
            "it refers to the persistent object `{}` (PERSID), which torch.save does not write",
            shown(source.line()?)
        ))),
        0x92 => Err(machine.error("it makes an instance with keyword arguments (NEWOBJ_EX), which is not supported")),
        0x82..=0x84 => Err(machine.error("it uses the extension registry (EXT), which is not supported")),
        0x97 | 0x98 => Err(machine.error("it refers to an out-of-band buffer, which is not supported")),
        _ => Err(machine.error(format!("opcode {opcode:#04x} is unknown"))),
    }
}

fn push_long<R: BufRead>(machine: &mut Machine, source: &mut Source<R>, length: u64) -> Result<()> {
    machine.charge(length.min(source.left()))?;
    let bytes = source.bytes(length)?;
    machine.push_integer(&bytes)
}

fn push_bytes<R: BufRead>(machine: &mut Machine, source: &mut Source<R>, width: Width, kind: Kind) -> Result<()> {
    let length = match width {
        Width::One => source.byte()?.into(),
        Width::Four => u32::from_le_bytes(source.array()?).into(),
        Width::Eight => u64::from_le_bytes(source.array()?),
    };
    if length <= source.left() {
        machine.charge(length)?;
    }
    let bytes = source.bytes(length)?;
    match kind {
        Kind::Text => machine.push_text(bytes),
        Kind::Bytes => machine.push_node(PickleValue::Bytes(bytes.into())),
    }
}

/// Parses the text of a number.
fn parse<T: std::str::FromStr>(machine: &Machine, digits: &str) -> Result<T> {
    digits.parse().map_err(|_| machine.error(format!("`{}` is not a number of the expected type", shown(digits))))
}

/// The number of bytes of a length.
enum Width {
    One,
    Four,
    Eight,
}

enum Kind {
    Text,
    Bytes,
}
