//! An observer of its own: prints a sparkline of the loss while a run trains, and stops it when the loss is low enough.
//!
//!     cargo run --release -p ddpm --example custom_observer
PENDING
