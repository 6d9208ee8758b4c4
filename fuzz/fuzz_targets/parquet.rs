//! A Parquet file of images; begin with crates/data/tests/hub.parquet.
#![no_main]

mod set;

use std::panic;
use std::sync::Once;

/// The crate `parquet` panics on some damaged headers, which our reader catches and reports. The fuzzer ends at every panic
/// unless it is told which ones are known.
fn pass_over_panics_that_are_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let all = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|place| place.file().contains("/parquet-")) {
                all(panic);
            }
        }));
    });
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pass_over_panics_that_are_caught();
    set::read("images.parquet", bytes);
});
