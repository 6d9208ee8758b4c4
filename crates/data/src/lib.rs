//! Image sets as batches of u8 pixels, laid out N,H,W,C.
//!
//! [`open`] finds out what a path holds, [`ImageSet::read`] gives any images of it by index. A set that fits
//! [`Options::memory_limit_bytes`] is decoded once and kept; a larger one is decoded from its files on each read,
//! in parallel, so that a caller prefetches by reading from another thread.
//!
//! | format | what is recognised |
//! |---|---|
//! | IDX | `*-images-idx3-ubyte`, plain or `.gz`, or a folder of them; labels from `*-labels-idx1-ubyte` beside it |
//! | CIFAR-10, CIFAR-100 | the binary version: its folder, its `.tar.gz` or `.tar` |
//! | npz | u8 `arr_0` of N,H,W,C with labels `arr_1` (OpenAI's sample files); the names of Keras and MedMNIST too |
//! | image folder | PNG, JPEG, WebP and GIF (first frame) at any depth; the first level of subfolders are the classes |
//! | folder with labels | the same with `dataset.json` (StyleGAN, EDM), `metadata.jsonl` or `metadata.csv` (datasets' `imagefolder`: `file_name`, `label`) beside the images |
//! | Parquet | as the Hugging Face hub has it: a `.parquet` or a folder of `train-*.parquet` and so on, with `image` or `img` (`{bytes, path}`, or binary) and `label` (feature `parquet`) |
//! | zip | the same packed, read in place; with `dataset.json` it is the layout of StyleGAN's and EDM's tools |
//! | tar | the same packed, read in place; a `.tar.gz` is unpacked into memory, if it fits the limit |
//! | webdataset | a `.tar` or a folder of shards (`*-train-*.tar`, `*-val-*.tar`); labels from `.cls`, or `label` in `.json` |
//!
//! LSUN's LMDB is refused with the way out: no reader of it in Rust is without C. So are TFRecord, Arrow and MATLAB files.
//!
//! A file that cannot be read is left out, counted and named in [`ImageSet::report`]; it never passes silently.
//! The format of a set is one file in `formats/`, which says what to look for and where the pixels are;
//! size, channels, memory and streaming are the same for all.
//!
//! ```
//! let options = ddpm_data::Options { resolution: Some((32, 32)), fit: data::Fit::Pad, ..Default::default() };
//! let set = ddpm_data::builtin(&options)?;
//! let mut batch = vec![0; 2 * 32 * 32];
//! set.read(&[0, 9_999], &mut batch)?;
//! assert_eq!((set.len(), set.height(), set.width(), set.channels()), (10_000, 32, 32, 1));
//! # Ok::<(), ddpm_data::Error>(())
//! ```

mod arrays;
mod builtin;
pub mod duplicates;
mod encoded;
mod error;
mod formats;
mod grid;
pub mod inspect;
mod options;
mod pixels;
mod records;
mod set;

pub use arrays::{NumberArray, read_numbers, write_numbers};
pub use builtin::builtin;
pub use duplicates::{duplicates, leaks};
pub use error::{Error, Result};
pub use formats::npz::{write as write_npz, write_with as write_npz_with};
pub use formats::open;
pub use grid::grid;
pub use options::{Fit, Options, Split};
pub use set::{ImageSet, Report};
