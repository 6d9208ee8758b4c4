//! `ddpm devices`.

use clap::Args;
use ddpm::kernels::instruction_set;
use serde::Serialize;

use crate::Global;

/// List the devices that compute: which are compiled in, which are found, and the default.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm devices\n  ddpm sample fashion --device cpu")]
pub struct DevicesArgs {}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    /// What `--device` takes; a kind if no device of the kind is found.
    device: String,
    is_found: bool,
    is_default: bool,
    /// What the device is, or what is missing.
    description: String,
}

pub fn run(_arguments: DevicesArgs, global: &Global) -> anyhow::Result<()> {
    let lines: Vec<_> = ddpm::device_kinds().into_iter().flat_map(lines).collect();
    if global.json {
        println!("{}", serde_json::json!({ "devices": lines }));
        return Ok(());
    }
    let width = lines.iter().map(|line| line.device.len()).max().unwrap_or(0);
    for Line { device, is_default, description, .. } in lines {
        println!("{device:width$}  {description}{}", if is_default { " (the default)" } else { "" });
    }
    Ok(())
}

/// Returns the lines of a kind: one for each device, or one that says what is missing.
fn lines(kind: &'static str) -> Vec<Line> {
    let found = ddpm::find_devices(kind);
    // What the back end needs beside a card is asked for where the device is named.
    let problem = match found.is_empty() {
        true => Some(ddpm::no_driver(kind)),
        false => ddpm::device(Some(kind)).err().map(|error| error.to_string()),
    };
    if let Some(description) = problem {
        return vec![Line { device: kind.into(), is_found: false, is_default: false, description }];
    }
    let first = found.iter().position(|found| !found.is_software);
    let line = |(place, found): (usize, ddpm::FoundDevice)| Line {
        is_found: true,
        is_default: ddpm::default_device() == kind && Some(place) == first,
        description: if kind == "cpu" { processor() } else { found.description() },
        device: found.name,
    };
    found.into_iter().enumerate().map(line).collect()
}

/// Describes the processor: threads, vector instructions, memory.
fn processor() -> String {
    let instructions = match instruction_set() {
        ddpm::kernels::InstructionSet::Portable => "no vector instructions that the kernels use",
        ddpm::kernels::InstructionSet::Avx2 => "AVX2",
        ddpm::kernels::InstructionSet::Avx512 => "AVX-512",
    };
    let memory = ddpm::files::memory_limit()
        .map_or(String::new(), |limit| format!(", {:.1} GiB of memory", limit.bytes as f64 / (1u64 << 30) as f64));
    format!("{} threads, {instructions}{memory}", rayon::current_num_threads())
}
