//! The worst cases of time and memory of each reader: small files that share, repeat or expand as much as the format lets
//! them. Each is read or rejected within the bounds that the reader's documentation states.

mod common;

use common::{MIB, assert_rejected, legacy, long, measure, place, read, table, tensor, varint, zipped};
use ddpm_weights::pipeline::{latest, locate};
use ddpm_weights::{digest, read_tensors};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Builds the pickle of a string that is memoized as number 0 and dropped, and then of `rest`.
fn memoized(length: usize, rest: Vec<u8>) -> Vec<u8> {
    [&b"X"[..], &(length as u32).to_le_bytes(), &vec![b'a'; length], b"q\x000", &rest, b"."].concat()
}

/// Builds the pickle of a list of `times` values.
fn list(value: &[u8], times: usize) -> Vec<u8> {
    [b"](", &value.repeat(times)[..], b"e"].concat()
}

#[test]
fn what_is_memoized_is_charged_for_each_use() {
    let place = place();
    let name = |rest| memoized(MIB, rest);
    let storage = |class: &str, key: &str| format!("(X\x07\0\0\0storage{class}{key}X\x03\0\0\0cpuK\x01tQ").into_bytes();
    let many = 50_000;
    let shape = |rest: Vec<u8>| [&b"("[..], &b"K\x01".repeat(20_000), b"tq\x000", &rest, b"."].concat();
    let of_shape = [&tensor(b"K\x01", b"h\0", b"h\0")[..]].concat();
    let cases = [
        ("names of two memoized names", name(list(b"h\0h\0\x93", many)), "allocation budget"),
        (
            "instances of a memoized class",
            name([&b"h\0h\0\x93q\x010"[..], &list(b"h\x01)\x81", many)].concat()),
            "allocation budget",
        ),
        (
            "storages of a memoized class",
            name([&b"h\0h\0\x93q\x010"[..], &list(&storage("h\x01", "h\0"), many)].concat()),
            "allocation budget",
        ),
        (
            "storages of a memoized key",
            name(list(&storage("ctorch\nFloatStorage\n", "h\0"), many)),
            "allocation budget",
        ),
        (
            "encodings of a memoized text",
            name([&b"c_codecs\nencode\nq\x010"[..], &list(b"h\x01h\0\x85R", many)].concat()),
            "allocation budget",
        ),
        ("a memoized shape of 20,000 sizes", shape(list(&of_shape, 5000)), "more than 254 sizes"),
        (
            "copies of a memoized tuple",
            shape([&b"ctorch\nSize\nq\x010"[..], &list(b"h\x01h\0\x85R", many)].concat()),
            "allocation budget",
        ),
        // Nothing is built of these, so only the time matters.
        ("a memoized key of nothings", name([&b"}("[..], &b"h\0N".repeat(8_000), b"u"].concat()), ""),
        (
            "a memoized key of empty lists",
            name([&b"]q\x010}("[..], &b"h\0h\x01".repeat(8_000), b"u"].concat()),
            "its names are too long",
        ),
        (
            "objects with a memoized state",
            [
                b"}(",
                &(0..40_000u32).flat_map(|i| [&b"J"[..], &i.to_le_bytes(), b"N"].concat()).collect::<Vec<_>>()[..],
                b"uq\x000cx\nY\nq\x010",
                &list(b"h\x01)\x81h\0b", 20_000),
                b".",
            ]
            .concat(),
            "allocation budget",
        ),
        ("a call of a long name", name(b"h\0h\0\x93h\0\x85R".to_vec()), "this pickle calls"),
        ("a long text as a storage", name(b"h\0Q".to_vec()), "is not the id of a storage"),
        ("control characters", b"cos\x1b[2J\nsystem\x07\nX\x02\0\0\0\x1bm\x85R.".to_vec(), "\\u{1b}[2J"),
    ];
    for (what, pickle, reason) in &cases {
        for bytes in [legacy(pickle), zipped(CompressionMethod::Stored, &[("data.pkl", pickle)])] {
            if reason.is_empty() {
                fs::write(&place.path, &bytes).unwrap();
                read(what, &place.path, bytes.len());
            } else {
                assert_rejected(&place, what, &bytes, reason);
            }
        }
    }

    // The budget is that of all pickles of a file together.
    let lists = [&b"("[..], &b"]".repeat(100_000), b"l."].concat();
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let all = [&magic[..], &lists, &lists, &lists].concat();
    assert_rejected(&place, "lists in every pickle", &all, "allocation budget");

    // The list of storages of a legacy file.
    let object = name(list(&storage("ctorch\nFloatStorage\n", "h\0"), 1));
    let mut keys = legacy(&object);
    keys.truncate(keys.len() - 4);
    keys.extend(memoized(MIB, list(b"h\0", 30_000)));
    keys.extend(vec![0; 240_000]);
    assert_rejected(&place, "a memoized key of storages", &keys, "is listed twice");
}

/// Builds a file of the zip format as `torch.save` does, with values at multiples of 64 bytes and what is known only after
/// them in a descriptor.
fn aligned(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    for (name, bytes) in entries {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(&[bytes, &[0; 24][..]].concat()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// As `torch.save` writes them, with every string and tuple in the memo. Their names and shapes take more than their values.
#[test]
fn files_of_many_small_tensors_are_within_the_budget() {
    let place = place();
    let memoize = |pickle: &mut Vec<u8>, next: &mut u32| {
        pickle.push(b'r');
        pickle.extend(next.to_le_bytes());
        *next += 1;
    };
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let count = 1000;
    for class in ["FloatStorage", "ByteStorage"] {
        let mut next = 6;
        let globals = [
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x000".to_vec(),
            [text("storage"), b"q\x010".to_vec()].concat(),
            format!("ctorch\n{class}\nq\x020").into_bytes(),
            [text("cpu"), b"q\x030".to_vec()].concat(),
            b"ccollections\nOrderedDict\nq\x040}q\x05(".to_vec(),
        ];
        let mut pickle = globals.concat();
        let mut parts: Vec<(&[u8], bool)> = Vec::new();
        let keys: Vec<Vec<u8>> = (0..count).map(|i| text(&i.to_string())).collect();
        let names: Vec<Vec<u8>> = (0..count).map(|i| text(&format!("down_blocks.0.resnets.{i}.norm1.bias"))).collect();
        for (name, key) in names.iter().zip(&keys) {
            parts.extend([(&name[..], true), (b"h\0((h\x01h\x02", false), (key, true), (b"h\x03K\x10t", true)]);
            parts.extend([
                (&b"QK\0K\x10\x85"[..], true),
                (b"K\x01\x85", true),
                (b"\x89h\x04)R", true),
                (b"t", true),
                (b"R", true),
            ]);
        }
        for (part, memoized) in parts {
            pickle.extend(part);
            if memoized {
                memoize(&mut pickle, &mut next);
            }
        }
        pickle.extend(b"u.");
        let storages: Vec<String> = (0..count).map(|i| format!("data/{i}")).collect();
        let values = vec![1; if class == "FloatStorage" { 64 } else { 16 }];
        let mut entries: Vec<(&str, &[u8])> = vec![("data.pkl", &pickle)];
        entries.extend(storages.iter().map(|name| (&**name, &values[..])));
        let bytes = aligned(&entries);
        fs::write(&place.path, &bytes).unwrap();
        assert_eq!(read(class, &place.path, bytes.len()), None);
    }
}

#[test]
fn shared_and_overlapping_storages_are_read_once() {
    let place = place();
    let dims = |sizes: &[u64]| [&b"("[..], &sizes.iter().flat_map(|&n| long(n)).collect::<Vec<_>>(), b"t"].concat();
    let zeros = vec![0; MIB];
    let one = tensor(&long(MIB as u64 / 4), &dims(&[2]), &dims(&[1]));
    let mut pickle = [list(&one, 2000), b".".into()].concat();
    let shared =
        zipped(CompressionMethod::Deflated, &[("data.pkl", &pickle), ("data/0", &zeros), ("pad", &noise(MIB))]);
    fs::write(&place.path, &shared).unwrap();
    assert_eq!(read("a deflated storage of 2000 tensors", &place.path, shared.len()), None);

    // Storages that are one entry of the archive, under many names.
    let deflated = |size| {
        let zip = zipped(CompressionMethod::Deflated, &[("data/0", &vec![0; size])]);
        let end = zip.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
        (zip[..end].to_vec(), zip[end..].to_vec())
    };
    let (local, central) = deflated(16 * MIB);
    let key = |i: usize| format!("{i:04}");
    pickle = Vec::new();
    for i in 0..500 {
        let storage = format!(
            "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x04\0\0\0{}X\x03\0\0\0cpu",
            key(i)
        );
        pickle.extend([storage.as_bytes(), &long(4 << 20), b"tQK\0", &dims(&[1]), &dims(&[1]), b"\x89}tR"].concat());
    }
    let pickle = [b"](", &pickle[..], b"e."].concat();
    let padding = noise(100_000);
    let first = zipped(CompressionMethod::Stored, &[("data.pkl", &pickle), ("pad", &padding)]);
    let end = first.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let eocd = first.len() - 22;
    let mut overlapping = [&first[..end], &local].concat();
    let directory = overlapping.len();
    overlapping.extend(&first[end..eocd]);
    for i in 0..500 {
        // The name `x/data/0` becomes `x/data/0000` and so on, and the offset is that of the local header.
        let mut entry = central[..46].to_vec();
        entry[28] = 11;
        entry[30..34].fill(0);
        entry[42..46].copy_from_slice(&(end as u32).to_le_bytes());
        overlapping.extend([&entry[..], b"x/data/", key(i).as_bytes()].concat());
    }
    let size = (overlapping.len() - directory) as u32;
    let mut last = first[eocd..].to_vec();
    last[8..10].copy_from_slice(&502u16.to_le_bytes());
    last[10..12].copy_from_slice(&502u16.to_le_bytes());
    last[12..16].copy_from_slice(&size.to_le_bytes());
    last[16..20].copy_from_slice(&(directory as u32).to_le_bytes());
    overlapping.extend(last);
    assert_rejected(&place, "overlapping entries", &overlapping, "larger than 16 × the file");

    // Dimensions of size 1 around those that are walked through.
    let (mut sizes, mut strides) = (vec![1; 254], vec![u64::MAX >> 1; 254]);
    (sizes[0], sizes[1], strides[0], strides[1]) = (500, 500, 1, 500);
    let transposed = [tensor(&long(MIB as u64 / 4), &dims(&sizes), &dims(&strides)), b".".into()].concat();
    let bytes = zipped(CompressionMethod::Stored, &[("data.pkl", &transposed), ("data/0", &zeros)]);
    fs::write(&place.path, &bytes).unwrap();
    assert_eq!(read("254 dimensions", &place.path, bytes.len()), None);

    // As many entries as a file of this size may have.
    let names: Vec<String> = (0..10_000).map(|i| format!("{i:04}")).collect();
    let content = [0; 70];
    let mut entries: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &content[..])).collect();
    entries.push(("data.pkl", b"]."));
    let bytes = zipped(CompressionMethod::Stored, &entries);
    fs::write(&place.path, &bytes).unwrap();
    assert_eq!(read("as many entries as fit", &place.path, bytes.len()), None);
}

/// Returns bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Builds a safetensors file of a header and `values` bytes of zeros.
fn safetensors(header: &str, values: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; values]].concat()
}

#[test]
fn safetensors_headers() {
    let place = place();
    let joined = |count: usize, entry: &dyn Fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(",");
    let empty = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let byte = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
    let long_name = "a".repeat(2 * MIB);
    let escaped = "\\u001b".repeat(MIB / 2);
    let cases: [(&str, String, usize, Option<&str>); 12] = [
        ("many empty tensors", format!("{{{}}}", joined(40_000, &empty)), 0, None),
        ("many tensors of a byte", format!("{{{}}}", joined(40_000, &byte)), 40_000, None),
        (
            "dense metadata",
            format!(r#"{{"__metadata__":{{{}}}}}"#, joined(400_000, &|i| format!(r#""{i:x}":"""#))),
            0,
            Some("allocation budget"),
        ),
        ("metadata of one key", format!(r#"{{"__metadata__":{{{}}}}}"#, joined(400_000, &|_| r#""":"""#.into())), 0, Some("allocation budget")),
        (
            "a name of 2 MiB",
            format!(r#"{{"{long_name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}}}"#),
            4,
            Some("aaa…`: shape [2] of F32 does not match bytes 0..4"),
        ),
        (
            "an escaped name",
            format!(r#"{{"{escaped}":{{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}}}"#),
            4,
            Some("does not match bytes 0..4"),
        ),
        ("an escaped dtype", format!(r#"{{"w":{{"dtype":"{escaped}"}}}}"#), 0, Some("unknown variant")),
        ("an escaped shape", format!(r#"{{"w":{{"shape":"{escaped}"}}}}"#), 0, Some("invalid type")),
        ("an escaped key", format!(r#"{{"w":{{"{escaped}":0}}}}"#), 0, Some("missing field")),
        (
            "a shape of a million sizes",
            format!(r#"{{"w":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(1_000_000)),
            4,
            Some("at most 254 sizes"),
        ),
        ("lists in lists", format!(r#"{{"w":{}"#, "[".repeat(MIB)), 0, Some("bad safetensors header")),
        (
            "a tensor over another",
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#
                .into(),
            4,
            Some("begin at byte 0"),
        ),
    ];
    for (what, header, values, reason) in cases {
        let bytes = safetensors(&header, values);
        drop(header);
        match reason {
            Some(reason) => assert_rejected(&place, what, &bytes, reason),
            None => {
                fs::write(&place.path, &bytes).unwrap();
                assert_eq!(read(what, &place.path, bytes.len()), None, "{what}");
            }
        }
    }
}

#[test]
fn indices_of_shards() {
    let place = place();
    let folder = place.path.parent().unwrap();
    fs::write(folder.join("a"), safetensors(r#"{"w":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}"#, 4000))
        .unwrap();
    let index = |entries: Vec<String>| format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(",")).into_bytes();
    let dense = index((0..100_000).map(|i| format!(r#""{i:x}":"""#)).collect());
    assert_rejected(&place, "a dense index", &dense, "allocation budget");
    let entry = |i: usize| format!(r#""down_blocks.0.resnets.0.time_emb_proj.weight.{i:06}":"a""#);
    let one = index((0..30_000).map(entry).collect());
    assert_rejected(&place, "one shard of all", &one, "which the index names for it");
    let long = "b".repeat(MIB);
    for (what, shard) in
        [("a long shard", &*long), ("a folder's shard", "a/"), ("the folder", "."), ("a bell", "\\u0007")]
    {
        let bytes = index(vec![format!(r#""w":"{shard}""#)]);
        assert_rejected(&place, what, &bytes, "is not the name of a file in the same folder");
    }
    let escapes = format!(r#"{{"weight_map":{{"{}":"a"}}}}"#, "\\u001b".repeat(MIB / 2));
    assert_rejected(&place, "an escaped name", escapes.as_bytes(), "which the index names for it");
}

/// Encodes a field of a protocol buffer that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len() as u64), bytes].concat()
}

#[test]
fn tensorflow_tables() {
    let place = place();
    let restarts = [0, 0, 0, 0, 1, 0, 0, 0];
    let item = |shared: usize, key: &[u8], value: &[u8]| {
        [varint(shared as u64), varint(key.len() as u64), varint(value.len() as u64), key.to_vec(), value.to_vec()]
            .concat()
    };
    let header = item(0, b"", &[8, 1]);
    // A scalar of four bytes, and an empty tensor of huge sizes.
    let scalar = [8, 1, 40, 4];
    let dimension = |size: u64| field(2, &[&[8][..], &varint(size)].concat());
    let shape = |sizes: &[u64]| field(2, &sizes.iter().flat_map(|&size| dimension(size)).collect::<Vec<_>>());

    let name = vec![b'a'; 500_000];
    let long = [&header[..], &item(0, &name, &scalar), &restarts].concat();
    assert_rejected(&place, "a long name", &table(&[(&long, 1)]), "a name of 500000 bytes");
    let name = vec![b'a'; 4000];
    let longer: Vec<u8> = (0..20_000u32).flat_map(|i| item(name.len(), format!("{i:x}").as_bytes(), &scalar)).collect();
    let prefixes = [&header[..], &item(0, &name, &scalar), &longer, &restarts].concat();
    assert_rejected(&place, "keys that share a prefix", &table(&[(&prefixes, 1)]), "too many variables");
    let tiny: Vec<u8> = (0..100_000u32).flat_map(|i| item(0, format!("{i:x}").as_bytes(), &scalar)).collect();
    let tiny = [&header[..], &tiny, &restarts].concat();
    assert_rejected(&place, "a hundred thousand scalars", &table(&[(&tiny, 1)]), "too many variables");
    let nothing = [0; 4];
    let blocks = table(&[(&[&header[..], &restarts].concat(), 1), (&nothing, 100_000)]);
    fs::write(&place.path, &blocks).unwrap();
    read("an empty block, a hundred thousand times", &place.path, blocks.len());
    let large = [&header[..], &item(0, b"x", &field(9, &vec![0; MIB])), &restarts].concat();
    assert_rejected(&place, "a block of a mebibyte, a hundred times", &table(&[(&large, 100)]), "larger than the file");

    // Empty tensors of huge sizes, which a transposition would walk through.
    let huge = [&[8, 1][..], &shape(&[0, 1 << 40, 1 << 40]), &[0x35, 0xd8, 0xea, 0x82, 0xa2]].concat();
    let marker = item(0, b"down_0/block_0/norm1/gamma", &huge);
    let bytes = table(&[(&[&header[..], &item(0, b"conv_in/W", &huge), &marker, &restarts].concat(), 1)]);
    fs::write(&place.path, &bytes).unwrap();
    fs::write(place.path.with_extension("data-00000-of-00001"), []).unwrap();
    assert_eq!(read("empty tensors", &place.path, bytes.len()), None);

    // Version 1: more values than the shape has, a byte each, and values that are as many as bytes.
    let slices = |shape: Vec<u8>, values: usize| {
        let saved = [&field(1, b"w")[..], &shape, &[24, 9]].concat();
        let meta = item(0, b"", &field(1, &field(1, &saved)));
        let tensor = [&[8, 9][..], &field(10, &vec![1; values])].concat();
        let data = item(0, b"w", &field(2, &[field(1, b"w"), field(3, &tensor)].concat()));
        table(&[(&[&meta[..], &data, &restarts].concat(), 1)])
    };
    assert_rejected(&place, "more values than the shape has", &slices(shape(&[1]), 2 * MIB), "more than its shape");
    let bytes = slices(shape(&[2 << 20]), 2 * MIB);
    fs::write(&place.path, &bytes).unwrap();
    let tensors = measure("a byte for each value", 6 * bytes.len() + MIB, || read_tensors(&place.path).unwrap());
    assert_eq!(tensors["w"].data.len(), 2 << 20);
}

#[test]
fn networks_in_networks() {
    let place = place();
    // Each of these names is that of a network's first block.
    let marker = |prefix: String| {
        format!(r#""{prefix}down.0.block.0.norm1.weight":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)
    };
    let many: Vec<String> = (0..20_000).map(|i| marker(format!("{i:x}."))).collect();
    let bytes = safetensors(&format!("{{{},{}}}", marker(String::new()), many.join(",")), 0);
    fs::write(&place.path, &bytes).unwrap();
    assert_eq!(read("twenty thousand networks", &place.path, bytes.len()), None);
    let bytes = safetensors(&format!("{{{}}}", marker("a.".repeat(MIB / 2))), 0);
    fs::write(&place.path, &bytes).unwrap();
    assert_eq!(read("half a million modules around a network", &place.path, bytes.len()), None);
}

#[test]
fn folders_of_pipelines() {
    let place = place();
    let folder = place.path.parent().unwrap();
    fs::create_dir(folder.join("unet")).unwrap();
    fs::write(folder.join("unet/config.json"), "{}").unwrap();
    fs::write(folder.join("unet/diffusion_pytorch_model.safetensors"), vec![0; MIB]).unwrap();
    let located = |what: &str, index: String| {
        fs::write(folder.join("model_index.json"), index).unwrap();
        let result = measure(what, 130 * MIB, || locate(folder));
        let text = match result {
            Ok(files) => files.notes.join(" "),
            Err(error) => error.to_string(),
        };
        assert!(text.len() < 10_000, "{what}: a message of {} bytes", text.len());
        assert!(!text.chars().any(char::is_control), "{what}: {text:?}");
        text
    };
    let keys = |count: usize, entry: &dyn Fn(usize) -> String| {
        format!(r#"{{"_class_name":"DDPMPipeline",{}}}"#, (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    let unused = |i: usize| format!(r#""{i:x}":1"#);
    assert!(located("many keys", keys(200_000, &unused)).contains("more keys are not used"));
    assert!(located("too many keys", keys(600_000, &unused)).contains("or fewer"));
    assert!(located("a list", format!("[{}1]", "1,".repeat(4_000_000))).contains("or fewer"));
    assert!(located("a long text", " ".repeat(33 << 20)).contains("or fewer"));
    let long = "\\u001b".repeat(MIB / 4);
    assert!(located("a long class", format!(r#"{{"_class_name":"{long}"}}"#)).contains("is not known"));
    assert!(located("a long key", keys(1, &|_| format!(r#""{long}":["{long}",1]"#))).contains("has a component"));
    fs::remove_file(folder.join("model_index.json")).unwrap();

    // A list of checksums that would read one file again and again.
    let entry = |name: String| format!(r#""{name}":{{"bytes":{MIB},"crc32":"a738ea1c"}}"#);
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let aliases: Vec<String> = (1..2000).map(|i| entry(weights.replace('/', &"/.".repeat(i)) + "/")).collect();
    let manifest = |entries: &[String]| {
        fs::write(folder.join(digest::MANIFEST), format!(r#"{{"files":{{{}}}}}"#, entries.join(","))).unwrap();
        measure("checksums", 130 * MIB, || digest::verify(folder)).map_err(|error| error.to_string())
    };
    let error = manifest(&aliases).unwrap_err();
    assert!(error.contains("outside the folder or not the plain path of a file") && error.len() < 1000, "{error}");
    assert_eq!(manifest(&[entry(weights.into())]), Ok(()));
    #[cfg(unix)]
    {
        let links: Vec<String> = (0..1000).map(|i| format!("link{i}")).collect();
        for link in &links {
            std::os::unix::fs::symlink(weights, folder.join(link)).unwrap();
        }
        let links: Vec<String> = links.into_iter().map(entry).collect();
        assert_eq!(manifest(&links), Ok(()), "a thousand links to one file");
    }
    for name in [&*"a/".repeat(MIB), "../x", "/etc/passwd", "a\\u0007", ""] {
        let error = manifest(&[entry(name.into())]).unwrap_err();
        assert!(error.contains("outside the folder or not the plain path of a file") && error.len() < 1000, "{error}");
    }
}

/// Returns what `read` returns, or none if it does not end.
#[cfg(unix)]
fn in_time<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(read()));
    receive.recv_timeout(Duration::from_secs(20)).ok()
}

/// Makes a named pipe in place of a file, which opening would wait for.
#[cfg(unix)]
fn pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
#[cfg(unix)]
fn named_pipes_and_missing_targets_are_errors_of_their_file() {
    let place = place();
    let root = place.path.parent().unwrap().to_owned();
    let pipeline = |name: &str| {
        let folder = root.join(name);
        fs::create_dir_all(folder.join("unet")).unwrap();
        fs::create_dir_all(folder.join("scheduler")).unwrap();
        ddpm_weights::pipeline::write_model_index(&folder, "UNet2DModel", "DDPMScheduler").unwrap();
        fs::write(folder.join("scheduler/scheduler_config.json"), "{}").unwrap();
        fs::write(folder.join("unet/config.json"), "{}").unwrap();
        fs::write(folder.join("unet/diffusion_pytorch_model.safetensors"), safetensors("{}", 0)).unwrap();
        folder
    };
    let files = [
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    for (i, file) in files.iter().enumerate() {
        let folder = pipeline(&i.to_string());
        assert!(locate(&folder).is_ok());
        for make in [pipe as fn(&Path), dangling] {
            make(&folder.join(file));
            let named = folder.clone();
            let error =
                in_time(move || locate(named)).unwrap_or_else(|| panic!("{file} hangs")).unwrap_err().to_string();
            assert!(error.contains(file.rsplit('/').next().unwrap()), "{file}: {error}");
            fs::remove_file(folder.join(file)).unwrap();
        }
    }

    for make in [pipe as fn(&Path), dangling] {
        let folder = pipeline("sealed");
        digest::seal(&folder).unwrap();
        fs::remove_file(folder.join(digest::MANIFEST)).unwrap();
        make(&folder.join(digest::MANIFEST));
        assert!(digest::is_sealed(&folder), "a folder is not taken for one without checksums");
        let named = folder.clone();
        let error = in_time(move || digest::verify(named)).expect("checksums.json hangs").unwrap_err().to_string();
        assert!(error.contains("checksums.json"), "{error}");
        fs::remove_dir_all(folder).unwrap();

        let folder = pipeline("sealed");
        digest::seal(&folder).unwrap();
        fs::remove_file(folder.join("unet/config.json")).unwrap();
        make(&folder.join("unet/config.json"));
        let error = in_time(move || digest::verify(folder)).expect("a listed file hangs").unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
        fs::remove_dir_all(root.join("sealed")).unwrap();

        for name in ["latest", "best"] {
            let run = root.join("run");
            make(&run.join("checkpoints").join(name));
            let path = run.join("checkpoints").join(name);
            let error = in_time(move || locate(path)).expect("a pointer hangs").unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let run = root.join("run/checkpoints");
        let error = in_time(move || latest(run)).expect("latest hangs").unwrap_err().to_string();
        assert!(error.contains("latest"), "{error}");
        fs::remove_dir_all(root.join("run")).unwrap();

        let model = root.join("models--owner--name");
        fs::create_dir_all(model.join("snapshots/0123")).unwrap();
        make(&model.join("refs/main"));
        let error = in_time(move || locate(model)).expect("refs/main hangs").unwrap_err().to_string();
        assert!(error.contains("main"), "{error}");
        fs::remove_dir_all(root.join("models--owner--name")).unwrap();

        // Files of weights, and those that they refer to.
        let index = root.join("x.safetensors.index.json");
        fs::write(&index, r#"{"weight_map":{"w":"shard"}}"#).unwrap();
        make(&root.join("shard"));
        let data = root.join("y.data-00000-of-00001");
        let entry = [&[0, 0, 2, 8, 1, 0, 1, 4, b'w', 8, 1, 40, 4][..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat();
        fs::write(root.join("y.index"), table(&[(&entry, 1)])).unwrap();
        make(&data);
        make(&root.join("z.pt"));
        for (path, named) in
            [("x.safetensors.index.json", "shard"), ("y.index", "y.data-00000-of-00001"), ("y", "y"), ("z.pt", "z.pt")]
        {
            let path = root.join(path);
            let error = in_time(move || read_tensors(path)).unwrap_or_else(|| panic!("{named} hangs")).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        for file in ["shard", "y.data-00000-of-00001", "z.pt"] {
            fs::remove_file(root.join(file)).unwrap();
        }
    }
    let error = read_tensors("/dev/zero").unwrap_err().to_string();
    assert!(error.contains("/dev/zero: is not a regular file, but a device"), "{error}");
}

/// Makes a link to a file that is missing.
#[cfg(unix)]
fn dangling(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    std::os::unix::fs::symlink("missing", path).unwrap();
}

/// `torch._neg_view(x)` has the values of x, and an attribute that says that they are to be negated.
#[test]
fn tensors_that_are_still_to_be_negated_are_refused() {
    let place = place();
    let plain = tensor(b"K\x02", b"K\x02\x85", b"K\x01\x85");
    let end = plain.len() - 2;
    for (attributes, reason) in [(&b"}X\x03\0\0\0neg\x88s"[..], "resolve_neg"), (b"K\x01", "resolve_neg")] {
        let negated = [&plain[..end], attributes, &plain[end..]].concat();
        let object = [&b"\x80\x02}X\x01\0\0\0a"[..], &negated, b"s."].concat();
        assert_rejected(&place, "attributes", &legacy(&object), reason);
    }
}
