//! Reads a batch file of CIFAR-10.
#![no_main]

mod set;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| set::read("cifar-10-batches-bin/test_batch.bin", bytes));
