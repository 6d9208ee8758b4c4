//! Opens files that others made, which may be anything, and bounds the memory that reading them takes.
//!
//! - [`open_regular`], [`read_text`] and [`read_json_text`] open the files that a user names, and refuse pipes and devices;
//! - [`Unchanged`] notices that a file that is read again was changed;
//! - [`special_kind`] and [`stand_in`] say what a file is in place of the one that was expected;
//! - [`Charge`] takes memory from a budget that all readers and threads of the process share;
//! - [`memory_limit`] returns the memory that the process may use, and [`limit_memory`] lowers it;
//! - [`Reading`] names the file that is being read, for the message when memory runs out;
//! - [`without_shortage`] keeps what the process lacks apart from what is wrong with a file;
//! - [`catch_panic`] turns the panic of a decoder into an error, and [`is_caught`] tells a panic hook about it.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod budget;
mod memory;
mod open;
mod panics;
mod reading;
mod shortage;
mod unchanged;

pub use budget::{Charge, OverBudget};
pub use memory::{MemoryLimit, limit_memory, memory_limit, peak_memory, with_memory_limit, without_limit};
pub use open::{MAX_TOML, open_regular, parent, read_json_text, read_text, read_text_up_to, special_kind, stand_in};
pub use panics::{catch_panic, is_caught};
pub use reading::{Reading, with_file_being_read};
pub use shortage::{is_shortage, without_shortage};
pub use unchanged::Unchanged;
