//! Valid small files of every format, mutated at random: each is read, or rejected by an error that names the file, without
//! a panic and within the bounds of time and memory. A sealed folder is never read as other tensors than were written.
//!
//! The seed is fixed. To try more files, and to see how many were read and rejected:
//!
//! ```text
//! DDPM_MUTATIONS=100000 cargo test --release -p ddpm-weights --test mutated -- --nocapture
//! ```

mod common;

use common::{MIB, alone, legacy, measure, place, table, tensor, zipped};
use ddpm_weights::families::{ImportOptions, import};
use ddpm_weights::pipeline::{latest, locate};
use ddpm_weights::{Error, Metadata, Tensor, Tensors, digest, read_tensors, views, write_safetensors};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use zip::CompressionMethod;

/// The number of mutations of each set of files, unless the environment says another.
const MUTATIONS: u64 = 150;

fn mutations() -> u64 {
    std::env::var("DDPM_MUTATIONS").map_or(MUTATIONS, |count| count.parse().expect("DDPM_MUTATIONS is a number"))
}

/// A generator of random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Changes a file in one to three places.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    const NUMBERS: [&str; 6] = ["0", "-1", "1e400", "4294967296", "18446744073709551615", "9223372036854775808"];
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len());
        let length = 1 + random.below(32).min(bytes.len().saturating_sub(at + 1));
        match random.below(8) {
            // A bit.
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            // A byte, with those that begin and end opcodes, numbers and objects.
            2 if !bytes.is_empty() => bytes[at] = *random.one_of(b"\0\x01\x7f\x80\xff(.RQ\"{}[]:,0"),
            // An integer field.
            3 => {
                let value = *random.one_of(&[0, 1, u64::MAX, i64::MAX as u64, 1 << 32, 1 << 62, 1 << 20]);
                let width = *random.one_of(&[1, 2, 4, 8]);
                for (byte, new) in bytes.iter_mut().skip(at).zip(&value.to_le_bytes()[..width]) {
                    *byte = *new;
                }
            }
            // The end.
            4 => bytes.truncate(at),
            // A part is removed, or copied to another place.
            5 if !bytes.is_empty() => drop(bytes.drain(at..(at + length).min(bytes.len()))),
            6 if !bytes.is_empty() => {
                let part = bytes[at..(at + length).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            // A number in a text.
            7 => {
                let digits: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    let first = *random.one_of(&digits);
                    let last = (first..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
                    bytes.splice(first..last, random.one_of(&NUMBERS).bytes());
                }
            }
            _ => {}
        }
    }
}

/// Files that belong together, and how their weights are opened.
struct Source {
    name: String,
    /// Names and contents. One of them is mutated.
    files: Vec<(String, Vec<u8>)>,
    /// The file to open, or the folder if it is empty.
    open: String,
    /// Turns what is mutated into the file, such as by adding the checksums.
    pack: fn(&[u8]) -> Vec<u8>,
}

impl Source {
    fn file(name: &str, bytes: Vec<u8>) -> Self {
        Self::packed(name, bytes, <[u8]>::to_vec)
    }

    fn packed(name: &str, bytes: Vec<u8>, pack: fn(&[u8]) -> Vec<u8>) -> Self {
        Self { name: name.into(), files: vec![("x.pt".into(), bytes)], open: "x.pt".into(), pack }
    }
}

/// Returns what is opened of a folder or file: its tensors, and whether it was verified by checksums.
fn open(path: &Path) -> Result<Tensors, Error> {
    if !path.is_dir() {
        let _ = locate(path);
        let imported = import(path, &ImportOptions::default());
        let tensors = read_tensors(path)?;
        if let Err(error) = imported {
            names_the_file(path, &error);
        }
        return Ok(tensors);
    }
    if digest::is_sealed(path) {
        digest::verify(path)?;
    }
    let _ = latest(path)?;
    let files = locate(path)?;
    if let Err(error) = import(&files.unet_weights, &ImportOptions::default()) {
        names_the_file(path, &error);
    }
    read_tensors(&files.unet_weights)
}

fn names_the_file(path: &Path, error: &Error) {
    let folder = if path.is_dir() { path } else { path.parent().unwrap() };
    let message = error.to_string();
    assert!(message.contains(folder.to_str().unwrap()), "{message} does not name a file");
    assert!(message.len() < 3000 && !message.chars().any(char::is_control), "{message:?}");
}

/// Mutates one file at a time, opens each set, and calls `check` with what was read. Returns how many were read.
fn try_all(source: &Source, seed: u64, check: impl Fn(&str, &Path, &Tensors)) -> u64 {
    let place = place();
    let folder = place.path.parent().unwrap();
    let path = |name: &str| if name.is_empty() { folder.to_owned() } else { folder.join(name) };
    for (name, bytes) in &source.files {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), (source.pack)(bytes)).unwrap();
    }
    let whole = open(&path(&source.open)).unwrap_or_else(|error| panic!("{}: {error}", source.name));
    assert!(!whole.is_empty(), "{}", source.name);
    check(&source.name, folder, &whole);

    let (mut read, count) = (0, mutations());
    for number in 0..count {
        let mut random = Random(seed << 32 | number);
        let (name, original) = random.one_of(&source.files);
        let mut bytes = original.clone();
        mutate(&mut random, &mut bytes);
        let bytes = (source.pack)(&bytes);
        fs::write(path(name), &bytes).unwrap();
        let what = format!("{}, mutation {number} of {name}", source.name);
        let size = source.files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + bytes.len();
        let most = 4 * size + MIB;
        let result = measure(&what, most, || catch_unwind(AssertUnwindSafe(|| open(&path(&source.open)))));
        match result.unwrap_or_else(|_| panic!("{what}: panicked")) {
            Ok(tensors) => {
                check(&what, folder, &tensors);
                read += 1;
            }
            Err(error) => names_the_file(&path(&source.open), &error),
        }
        fs::write(path(name), (source.pack)(original)).unwrap();
    }
    println!("{}: {count} mutated, {read} read, {} rejected", source.name, count - read);
    read
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files")
}

/// Returns the tensors of a small network with diffusers' names.
fn network() -> Tensors {
    let names = ["conv_in.weight", "conv_in.bias", "down_blocks.0.resnets.0.norm1.weight"];
    let values = |i: usize| (0..6).map(|j| (6 * i + j) as f32 / 8.0).collect();
    let tensor = |i| Tensor { shape: vec![2, 3], data: values(i) };
    names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), tensor(i))).collect()
}

/// Returns the bytes of a safetensors file of these tensors.
fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let metadata = Metadata::from([("note".to_owned(), "a \"note\"".to_owned())]);
    write_safetensors(&path, views(tensors), &metadata).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn weights_files() {
    let building = alone();
    let mut sources: Vec<Source> = Vec::new();
    let mut names: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Not weights, and those that are rejected as they are.
        if path.is_file() && !["plain.pkl", "script.pt"].contains(&name) {
            sources.push(Source::file(name, fs::read(&path).unwrap()));
        }
    }
    let tensorflow = fixtures().join("tensorflow");
    sources.push(Source::file("old.ckpt", fs::read(tensorflow.join("old.ckpt")).unwrap()));
    let parts = ["index", "data-00000-of-00002", "data-00001-of-00002"].map(|end| format!("model.ckpt-790000.{end}"));
    sources.push(Source {
        name: "a TensorFlow checkpoint".into(),
        files: parts.iter().map(|name| (name.clone(), fs::read(tensorflow.join(name)).unwrap())).collect(),
        open: parts[0].clone(),
        pack: <[u8]>::to_vec,
    });

    // What checksums would reject is mutated before they are computed.
    let list = |number: u64| [&b"\x8a\x09"[..], &number.to_le_bytes(), b"\0"].concat();
    let dims = |sizes: &[u64]| [b"(", &sizes.iter().flat_map(|&n| list(n)).collect::<Vec<_>>()[..], b"t"].concat();
    let matrix = tensor(&list(16), &dims(&[4, 4]), &dims(&[1, 4]));
    let vector = tensor(&list(16), &dims(&[16]), &dims(&[1]));
    let object = [b"}(X\x01\0\0\0a", &matrix[..], b"X\x01\0\0\0b", &vector, b"u."].concat();
    sources.push(Source::packed("the pickle of an archive", object.clone(), |pickle| {
        zipped(CompressionMethod::Deflated, &[("data.pkl", pickle), ("data/0", &[1; 64])])
    }));
    sources.push(Source::packed("the pickle of a legacy file", object, |pickle| {
        let mut file = legacy(pickle);
        // In place of the empty list at the end: the keys of the storages, and the only one's length and values.
        file.truncate(file.len() - 4);
        file.extend(b"\x80\x02]X\x01\0\0\x000a.");
        file.extend(16u64.to_le_bytes());
        file.extend([1; 64]);
        file
    }));
    let entry = |key: &[u8], value: &[u8]| [&[0, key.len() as u8, value.len() as u8], key, value].concat();
    // Version 1, so that the values are in the block too: `w` has shape [2] and is of floats.
    let saved = [&[0x0a, 1, b'w', 0x12, 4, 0x12, 2, 8, 2, 0x18, 1][..]].concat();
    let meta = [&[0x0a, saved.len() as u8 + 2, 0x0a, saved.len() as u8], &saved[..]].concat();
    let values = [&[8, 1, 0x2a, 8][..], &1.5f32.to_le_bytes(), &2.5f32.to_le_bytes()].concat();
    let slice = [&[0x0a, 1, b'w', 0x1a, values.len() as u8], &values[..]].concat();
    let data = [&[0x12, slice.len() as u8], &slice[..]].concat();
    let block = [entry(b"", &meta), entry(b"w", &data), vec![0, 0, 0, 0, 1, 0, 0, 0]].concat();
    sources.push(Source::packed("the block of a table", block, |block| table(&[(block, 1)])));

    let (mut first, mut second) = (network(), network());
    first.retain(|name, _| name.starts_with("conv_in"));
    second.retain(|name, _| !name.starts_with("conv_in"));
    let map = r#"{"metadata":{"total_size":72},"weight_map":{"conv_in.weight":"a.safetensors","conv_in.bias":"a.safetensors",
        "down_blocks.0.resnets.0.norm1.weight":"b.safetensors"}}"#;
    sources.push(Source {
        name: "shards".into(),
        files: vec![
            ("x.safetensors.index.json".into(), map.into()),
            ("a.safetensors".into(), safetensors(&first)),
            ("b.safetensors".into(), safetensors(&second)),
        ],
        open: "x.safetensors.index.json".into(),
        pack: <[u8]>::to_vec,
    });

    drop(building);
    let read: u64 = sources.iter().zip(1..).map(|(source, seed)| try_all(source, seed, |_, _, _| ())).sum();
    let all = sources.len() as u64 * mutations();
    println!("{all} mutated files of weights: {read} read, {} rejected", all - read);
    assert!(read > 0 && read < all);
}

#[test]
fn folders_of_pipelines() {
    let building = alone();
    let scheduler =
        br#"{"_class_name":"DDPMScheduler","num_train_timesteps":1000,"beta_start":0.0001,"beta_end":0.02}"#;
    let index = br#"{"_class_name":"DDPMPipeline","scheduler":["diffusers","DDPMScheduler"],"unet":["diffusers","UNet2DModel"]}"#;
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("model_index.json".into(), index.to_vec()),
        ("scheduler/scheduler_config.json".into(), scheduler.to_vec()),
        (
            "unet/config.json".into(),
            br#"{"_class_name":"UNet2DModel","in_channels":3,"block_out_channels":[32]}"#.to_vec(),
        ),
        ("unet/diffusion_pytorch_model.safetensors".into(), safetensors(&network())),
    ];
    let source = |files: &[(String, Vec<u8>)], name: &str| Source {
        name: name.into(),
        files: files.to_vec(),
        open: String::new(),
        pack: <[u8]>::to_vec,
    };
    let unsealed = source(&files, "a folder without checksums");
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    digest::seal(folder.path()).unwrap();
    files.push((digest::MANIFEST.into(), fs::read(folder.path().join(digest::MANIFEST)).unwrap()));
    let sealed = source(&files, "a folder with checksums");
    let expected = network();
    drop(building);
    try_all(&unsealed, 100, |_, _, _| ());
    try_all(&sealed, 101, |what, folder, tensors| {
        assert!(digest::is_sealed(folder), "{what}");
        assert_eq!(*tensors, expected, "{what}: other tensors than were written");
    });
}
