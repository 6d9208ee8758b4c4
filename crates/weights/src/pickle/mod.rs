//! Python's pickles, read and not run.
//!
//! A pickle is a program for a stack machine that may import any function and call it. This machine knows the opcodes of
//! protocols 0 to 5 (CPython's `Lib/pickletools.py` describes each) but imports nothing: a global is only a name, and a
//! call is answered for the few names in [`calls`](self) that build tensors and plain values. Any other call ends the
//! reading with [`Error::Call`](crate::Error::Call), which shows it.
//!
//! Everything lives in one arena, so that shared and even circular values cost what they cost in the file, and nothing is
//! freed by recursion. Each value is paid for from an allowance that follows from the file's length.

mod calls;
mod escapes;
mod machine;
mod opcodes;
mod source;
mod value;

pub(crate) use opcodes::read;
pub(crate) use source::Source;
pub use value::{Item, Node, Object, Pickle, Storage, Strided};
