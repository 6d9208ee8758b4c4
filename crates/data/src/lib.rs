//! Image sets as batches of u8 pixels in N,H,W,C layout.
//!
//! [`open`] detects the format of a path, and [`ImageSet::read`] returns any images by index. A set of at most
//! [`ReadOptions::memory_limit_bytes`] is decoded once and kept in memory. Images of a larger set are decoded from
//! their files on each read, in parallel; call `read` from another thread to prefetch.
//!
//! | format | supported input |
//! |---|---|
//! | IDX | `*-images-idx3-ubyte`, plain or `.gz`, or a folder of them; labels from `*-labels-idx1-ubyte` in the same folder |
//! | CIFAR-10, CIFAR-100 | the binary version: a folder, `.tar.gz` or `.tar` |
//! | npz | u8 `arr_0` of N,H,W,C with labels `arr_1` (OpenAI's sample files); also the array names of Keras and MedMNIST; other numbers with [`ReadOptions::range`] |
//! | npy | u8 N,H,W,C, N,C,H,W or N,H,W, if the shape can be read in one way only; other numbers with [`ReadOptions::range`] |
//! | MAT | MATLAB's `.mat` of level 5 with u8 `X` of H,W,C,N and labels `y`; a folder with `train_32x32.mat` and `test_32x32.mat` (SVHN, whose label 10 is the digit 0) |
//! | image folder | PNG, JPEG, WebP, GIF (first frame), BMP, TIFF (first page) and PNM at any depth; the first level of subfolders are the classes |
//! | folder with labels | an image folder with `dataset.json` (StyleGAN, EDM), or `metadata.jsonl` or `metadata.csv` (`imagefolder` of the `datasets` library: `file_name`, `label`) |
//! | Parquet | as on the Hugging Face hub: a `.parquet` or a folder of `train-*.parquet` etc., with columns `image` or `img` (`{bytes, path}`, or binary) and `label` (cargo feature `parquet`) |
//! | zip | an archive of an image folder, read without unpacking; with `dataset.json`, the layout of StyleGAN's and EDM's tools |
//! | tar | an archive of an image folder, read without unpacking; a `.tar.gz` is unpacked in memory, up to the memory limit |
//! | webdataset | a `.tar` or a folder of shards (`*-train-*.tar`, `*-val-*.tar`); labels from `.cls`, or `label` in `.json` |
//!
//! LMDB (LSUN), TFRecord and Arrow files are not supported; the error says how to convert them.
//!
//! With [`ReadOptions::points`], a set has points in place of images: vectors of numbers from `.npy`, `.npz`, `.csv` or a built-in
//! distribution ([`points`]). [`ImageSet::read_points`] reads them, and whatever reads pixels is an error that says so.
//!
//! Files that cannot be read are skipped, counted and listed in [`ImageSet::report`]. So are images and training runs of this
//! program in a folder with other images. Folders `train` and `test` (or `val` etc.) are the parts of a set if no other folder
//! next to them has images; if there is one, [`ReadReport::warnings`] says so.
//!
//! ```
//! use ddpm_data::{Fit, ReadOptions};
//!
//! let options = ReadOptions { resolution: Some((32, 32)), fit: Fit::Pad, ..Default::default() };
//! let set = ddpm_data::builtin(&options)?;
//! assert_eq!((set.len(), set.shape()), (10_000, [32, 32, 1]));
//! let batch = set.read([0, 9_999])?;
//! assert_eq!(batch.len(), 2 * 32 * 32);
//! # Ok::<(), ddpm_data::Error>(())
//! ```
//!
//! # Damaged and malicious files
//!
//! A file is read, listed as a bad file, or an error that names it. Only regular files are opened. The time to read a set is
//! in proportion to its bytes and pixels, and so is the memory, which all threads take from one budget, a share of the memory
//! of the process ([`files`](https://docs.rs/ddpm-files)), before they allocate it. A set that does not fit is streamed. A small
//! file cannot take more than this:
//!
//! | input | memory, while it is read |
//! |---|---|
//! | image | decoded to at most 64 MiB and 1100 times its file, and 512 MiB in all; four times that while it is decoded |
//! | names in a folder or archive | 4096 bytes each; about 40 bytes for each byte of an archive's headers |
//! | `dataset.json`, `metadata.jsonl`, `metadata.csv` | 64 times the file, which may have 256 MiB, and 128 MiB for the names of a million numbered classes |
//! | `.tar.gz`, compressed npz, IDX, CIFAR and MAT | unpacked to at most 256 times the file and 64 MiB, and the memory limit |
//! | Parquet | 64 times the file; a page is unpacked to at most 256 times its size and 64 MiB, and 512 MiB in all |
//! | plain npy, npz, IDX and MAT | the labels: the pixels stay in the file |
//! | points | 13 times the file; a compressed npz may be unpacked to at most 256 times its size and 64 MiB |
//!
//! # Cargo features
//!
//! `parquet` (on by default) reads Parquet files. It is most of the crate's build time.

mod builtin;
mod claims;
mod crop_box;
mod dataset;
mod duplicates;
mod encoded;
mod error;
mod formats;
mod generated;
mod grid;
mod heartbeat;
mod mat5;
mod memory;
mod npy;
mod npz_arrays;
mod open;
mod options;
mod pixels;
pub mod points;
mod raw;
mod reading;
mod report;
mod set;
mod source;
mod subset;
mod summary;

pub use builtin::builtin;
pub use crop_box::CropBox;
pub use dataset::Dataset;
pub use duplicates::{DuplicateGroup, DuplicateReport, Leak, duplicates, leaks};
pub use error::{Error, Result};
pub use formats::npz::{
    read_note as read_npz_note, write as write_npz_images, write_with as write_npz_images_with,
    write_with_note as write_npz_images_with_note,
};
pub use generated::{MARK, is_generated, mark_png};
pub use grid::grid;
pub use heartbeat::heartbeat;
pub use npz_arrays::{NpzArray, read_npz_array, verify_npz, write_npz_arrays, write_npz_arrays_with_note};
pub use open::open;
pub use options::{Background, Fit, LabelFrom, ReadOptions, Split};
pub use points::{BuiltinPoints, PointOptions, PointScaling, PointShape};
pub use reading::{Conversion, Part, PointUnits, Reading};
pub use report::{BadFile, ReadReport};
pub use set::ImageSet;
pub use summary::{ChannelCount, ClassCount, SizeCount, Summary};
