//! Decoding Python pickles without running them.
//!
//! A pickle is a program for a stack machine that can import and call any function. This decoder supports the opcodes
//! of protocols 0 to 5 but imports nothing: a global is only a name, and a call is evaluated only for a few known
//! functions that build tensors and plain values. Any other call is an [`Error::Call`](crate::Error::Call), which shows
//! it.
//!
//! All values live in one arena, so that shared and circular values take no more memory than in the file, and nothing
//! is dropped recursively. Each value, and each copy of a memoized string or list, is taken from the file's budget before
//! it is made, so that a pickle takes at most four times the file's size and 768 KiB of memory, and a time in proportion.

mod calls;
mod escapes;
mod machine;
mod opcodes;
pub(crate) mod saved;
mod source;
mod value;

pub(crate) use machine::PickleError;
pub(crate) use opcodes::read;
pub(crate) use source::Source;
pub use value::{Item, Object, Pickle, PickleValue, Storage, Strided, Within};
