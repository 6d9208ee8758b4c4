//! Writes the built-in set: the first 1,000 training images and the first 100 test images of each class of Fashion-MNIST,
//! in their original order, as gzipped IDX.
//!
//! Run `cargo run --release -p ddpm-data --example make_builtin -- FOLDER`, where FOLDER contains the four files of Fashion-MNIST.

use ddpm_data::{ReadOptions, Split};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::error::Error;
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let source = std::env::args_os().nth(1).ok_or("expected the folder of Fashion-MNIST's IDX files as an argument")?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("builtin");
    for (split, name, each) in [(Split::Train, "train", 1_000), (Split::Test, "t10k", 100)] {
        let set = ddpm_data::open(Path::new(&source), &ReadOptions { split, ..ReadOptions::default() })?;
        let labels = set.labels().ok_or("the labels are missing")?;
        let mut taken = [0; 10];
        let mut chosen = Vec::new();
        for (index, &label) in labels.iter().enumerate() {
            let taken = &mut taken[label as usize];
            if *taken < each {
                *taken += 1;
                chosen.push(index);
            }
        }
        let images = set.read(chosen.iter().copied())?;
        let labels: Vec<u8> = chosen.iter().map(|&index| labels[index] as u8).collect();
        let count = chosen.len() as u32;
        let sizes = [count, set.height() as u32, set.width() as u32];
        write_idx(&out.join(format!("{name}-images-idx3-ubyte.gz")), 3, &sizes, &images)?;
        write_idx(&out.join(format!("{name}-labels-idx1-ubyte.gz")), 1, &[count], &labels)?;
    }
    Ok(())
}

fn write_idx(path: &Path, dimensions: u8, sizes: &[u32], bytes: &[u8]) -> std::io::Result<()> {
    let mut file = GzEncoder::new(std::fs::File::create(path)?, Compression::best());
    file.write_all(&[0, 0, 8, dimensions])?;
    for size in sizes {
        file.write_all(&size.to_be_bytes())?;
    }
    file.write_all(bytes)?;
    file.finish()?.sync_all()
}
