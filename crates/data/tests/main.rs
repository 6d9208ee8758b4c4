//! Tests of the readers of image sets, as one test program; only `hostile` is another, since it has an allocator that counts.

mod common;

mod archives;
mod arrays;
mod builtin;
mod crop;
mod damaged;
mod decoding;
mod duplicates;
mod failures;
mod formats;
mod generated;
mod grid;
mod labels;
mod mat;
mod npz_arrays;
mod parquet;
mod parts;
mod points;
mod resize;
