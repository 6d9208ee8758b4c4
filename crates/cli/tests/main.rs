//! The program's tests. They are one test program, since linking each file of them would take longer than running it.

mod common;

mod bad_input;
mod bits;
mod data;
mod edm;
mod evaluate;
mod faults;
mod fine_tune;
mod fingerprints;
mod first_use;
mod import;
mod inspect;
mod instructions;
mod lucidrains;
mod memory;
mod models;
mod mpi;
mod output_streams;
mod own_sampler;
mod points;
mod predict;
mod quality;
mod resume;
mod sample;
mod schedulers;
mod shards;
mod train;
mod which_data;
