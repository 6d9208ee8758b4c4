//! Malicious and damaged files. Each is read or rejected within a second, without a panic, and with at most four times
//! its size and a mebibyte of memory. These tests are alone in their file because they count all allocations of the
//! process.

mod common;

use common::{MIB, assert_rejected, legacy, long, place, read, table, tensor, zipped};
use ddpm_weights::{read_tensors, write_safetensors};
use std::fs;
use std::path::{Path, PathBuf};
use zip::CompressionMethod;

#[test]
fn malicious_torch_files_are_rejected() {
    let place = place();
    // Makes the one-time allocations of the allocator and the library.
    write_safetensors(&place.path, [("w", &[1][..], &[1.0][..])], &Default::default()).unwrap();
    read_tensors(&place.path).unwrap();

    let many = 1_000_000;
    let repeated = |part: &[u8], times: usize| part.repeat(times);
    let pickles: Vec<(&str, Vec<u8>, &str)> = vec![
        ("os.system", b"cos\nsystem\nX\x02\0\0\0rm\x85R.".to_vec(), "calls `os.system('rm')`"),
        ("eval", b"cbuiltins\neval\nX\x01\0\0\x001\x85R.".to_vec(), "calls `builtins.eval('1')`"),
        ("torch.hub", b"ctorch.hub\nload\nX\x01\0\0\0a\x85R.".to_vec(), "calls `torch.hub.load('a')`"),
        ("marks", repeated(b"(", many), "allocation budget"),
        ("nothings", [repeated(b"N", many), b".".into()].concat(), "allocation budget"),
        ("lists", repeated(b"]", many), "allocation budget"),
        ("a deep list", [repeated(b"]", 1500), repeated(b"a", 1499), b".".into()].concat(), "nested more than 64"),
        ("a tuple in itself", [b"]q\0(h\0te".to_vec(), repeated(b"h\0a", 3), b".".into()].concat(), ""),
        ("a list in itself", b"]q\0h\0a.".to_vec(), "nested more than 64"),
        (
            "a list of twice the list before",
            [
                b"]q\0".to_vec(),
                (0..60u8).flat_map(|i| [b']', b'q', i + 1, b'(', b'h', i, b'h', i, b'e']).collect(),
                b".".into(),
            ]
            .concat(),
            "too ",
        ),
        (
            "a memo of a million",
            [
                b"N".to_vec(),
                (0..1 << 20u32)
                    .flat_map(|i: u32| [&b"r"[..], &(i.wrapping_mul(4000)).to_le_bytes()].concat())
                    .collect(),
                b".".into(),
            ]
            .concat(),
            "allocation budget",
        ),
        (
            "copies of a dictionary",
            [
                b"ccollections\nOrderedDict\nq\x010](".to_vec(),
                repeated(b"K\x01K\x02\x86", 10_000),
                b"eq\x000".to_vec(),
                repeated(b"h\x01h\0\x85R0", 10_000),
                b"N.".to_vec(),
            ]
            .concat(),
            "allocation budget",
        ),
        ("a string of 4 GB", b"X\xff\xff\xff\xffa.".to_vec(), "truncated"),
        ("bytes of 16 EB", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.".to_vec(), "truncated"),
        ("an integer of 4 GB", b"\x8b\xff\xff\xff\xff.".to_vec(), "truncated"),
        ("a frame of 8 EB", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.".to_vec(), "a frame"),
        ("a line without end", [b"I".to_vec(), repeated(b"1", many)].concat(), "a line of more"),
        (
            "a call with everything",
            [b"cos\nsystem\n(".to_vec(), repeated(b"]", 2000), b"tR.".into()].concat(),
            "this pickle calls",
        ),
        (
            "more elements than there is memory",
            [tensor(&long(u64::MAX), b"(t", b"(t").as_slice(), b"."].concat(),
            "is not the id of a storage",
        ),
    ];
    for (what, pickle, reason) in &pickles {
        if reason.is_empty() {
            fs::write(&place.path, legacy(pickle)).unwrap();
            read(what, &place.path, pickle.len());
        } else {
            assert_rejected(&place, what, &legacy(pickle), reason);
            assert_rejected(&place, what, &zipped(CompressionMethod::Stored, &[("data.pkl", pickle)]), reason);
        }
    }

    // Storages in the pickle itself.
    let nested = |file: &[u8]| {
        let length = (file.len() as u32).to_le_bytes();
        [&b"\x80\x03ctorch.storage\n_load_from_bytes\nq\0B"[..], &length, file, b"q\x01\x85R"].concat()
    };
    let of_tensor = |storage: &[u8]| {
        [&b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n("[..], storage, b"K\0K\x04\x85K\x01\x85\x89}tR."].concat()
    };
    let stored = |elements: u64, values: &[u8]| {
        let id = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ.";
        [&legacy(id)[..], &elements.to_le_bytes(), values].concat()
    };
    let within = |file: &[u8]| of_tensor(&nested(file)[2..]);
    fs::write(&place.path, within(&stored(4, &[0; 16]))).unwrap();
    assert_eq!(read("a storage in a pickle", &place.path, 400), None);
    let twice = nested(&stored(4, &[0; 16]));
    for (what, bytes, reason) in [
        (
            "a nested storage of 4 EB",
            within(&stored(1 << 60, &[0; 16])),
            "a storage of 4 elements has 1152921504606846976",
        ),
        ("a nested storage that ends early", within(&stored(4, &[0; 15])), "a storage of 4 elements has 4 in 15 bytes"),
        ("a nested storage without bytes", within(b""), "truncated"),
        ("a nested pickle that is no storage", within(&legacy(b"N.")), "hold something else"),
        ("a nested file of nothing", within(b"N."), "are not a file of torch.save"),
        ("a storage in a nested one", within(&legacy(&[&twice[..], b"."].concat())), "in the bytes of another one"),
        ("a call in a nested pickle", within(&legacy(b"cos\nsystem\nX\x01\0\0\0a\x85R.")), "calls `os.system('a')`"),
        (
            "bytes that are read fifty thousand times",
            [&twice[..], &repeated(b"0h\0h\x01\x85R", 50_000), b"."].concat(),
            "allocation budget",
        ),
        (
            "a large dictionary that is searched often",
            [
                &b"\x80\x03ctorch_utils.persistence\n_reconstruct_persistent_obj\nq\0}q\x01("[..],
                &(0..2000u16).flat_map(|i| [b'M', i as u8, (i >> 8) as u8, b'N']).collect::<Vec<u8>>(),
                b"u",
                &repeated(b"0h\0h\x01\x85R", 50_000),
                b".",
            ]
            .concat(),
            "calls `torch_utils.persistence._reconstruct_persistent_obj(",
        ),
        (
            "text for bytes",
            b"\x80\x03ctorch.storage\n_load_from_bytes\nX\x01\0\0\0a\x85R.".to_vec(),
            "calls `torch.storage",
        ),
        (
            "source code without a class",
            b"\x80\x03ctorch_utils.persistence\n_reconstruct_persistent_obj\n}X\x0a\0\0\0module_srcX\x01\0\0\0as\x85R."
                .to_vec(),
            "calls `torch_utils.persistence._reconstruct_persistent_obj(",
        ),
    ] {
        assert_rejected(&place, what, &bytes, reason);
    }

    // Storages of another length than the pickle says, and tensors that exceed their storage.
    let bytes = [0; 64];
    let zip = |pickle: Vec<u8>| {
        zipped(CompressionMethod::Stored, &[("data.pkl", &[pickle, b".".into()].concat()), ("data/0", &bytes)])
    };
    let dims = |sizes: &[u64]| [&b"("[..], &sizes.iter().flat_map(|&n| long(n)).collect::<Vec<_>>(), b"t"].concat();
    for (what, pickle, reason) in [
        ("a short storage", tensor(&long(32), &dims(&[32]), &dims(&[1])), "has 64 bytes, but 128 from byte 0"),
        ("a short storage, gathered", tensor(&long(32), &dims(&[16]), &dims(&[2])), "has 64 bytes, too few"),
        ("a tensor past the end", tensor(&long(16), &dims(&[4, 5]), &dims(&[4, 1])), "exceeds its storage"),
        ("strides past the end", tensor(&long(16), &dims(&[2]), &dims(&[1 << 62])), "exceeds its storage"),
        (
            "one value a billion times",
            tensor(&long(16), &dims(&[1 << 30]), &dims(&[0])),
            "exceeds the allocation budget",
        ),
        (
            "a shape that overflows",
            tensor(&long(16), &dims(&[1 << 33, 1 << 33]), &dims(&[0, 0])),
            "exceeds the allocation budget",
        ),
        ("a stride that overflows", tensor(&long(16), &dims(&[3]), &dims(&[u64::MAX / 2])), "exceeds its storage"),
        ("a negative size", tensor(&long(16), &dims(&[u64::MAX / 2 + 2]), &dims(&[1])), ""),
        ("more strides than sizes", tensor(&long(16), &dims(&[1]), &dims(&[1, 1])), "shape [1] and strides [1, 1]"),
    ] {
        assert_rejected(&place, what, &zip(pickle), reason);
    }
    let window = tensor(&long(16), &dims(&[1 << 14]), &dims(&[0]));
    let windows = [b"](".to_vec(), repeated(&window, 60), b"e".into()].concat();
    assert_rejected(&place, "many windows on one value", &zip(windows), "exceeds the allocation budget");

    // Zip archives.
    let zeros = vec![0; 64 * MIB];
    let pickle =
        [tensor(&long(zeros.len() as u64 / 4), &dims(&[zeros.len() as u64 / 4]), &dims(&[1])), b".".into()].concat();
    let bomb = zipped(CompressionMethod::Deflated, &[("data.pkl", &pickle), ("data/0", &zeros)]);
    let nothings = zipped(CompressionMethod::Deflated, &[("data.pkl", &zeros)]);
    drop(zeros);
    assert_rejected(&place, "zeros, deflated", &bomb, "exceeds the allocation budget");
    assert_rejected(&place, "a pickle of zeros, deflated", &nothings, "exceed the allocation budget");
    let names: Vec<String> = (0..20_000).map(|i| format!("{i}")).collect();
    let empty: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    assert_rejected(
        &place,
        "twenty thousand empty entries",
        &zipped(CompressionMethod::Stored, &empty),
        "too few for its 20000",
    );
    let whole = zip(tensor(&long(16), &dims(&[16]), &dims(&[1])));
    fs::write(&place.path, &whole).unwrap();
    assert_eq!(read("a valid file", &place.path, whole.len()), None);
    for (what, at, value) in
        [("a directory of 4 GB", 10, 0xffu8), ("a directory elsewhere", 6, 0xff), ("entries", 12, 0xff)]
    {
        let mut claim = whole.clone();
        let at = claim.len() - at;
        claim[at..at + 4].fill(value);
        fs::write(&place.path, &claim).unwrap();
        read(what, &place.path, claim.len());
    }
}

#[test]
fn malicious_tensorflow_tables_are_rejected() {
    let place = place();
    let restarts = [0, 0, 0, 0, 1, 0, 0, 0];
    let header = [0, 0, 2, 8, 1];
    let entry = |value: &[u8]| [&header[..], &[0, 1, value.len() as u8, b'w'], value, &restarts].concat();
    for (what, block, reason) in [
        ("no restarts", vec![1, 0], "a block is damaged"),
        ("restarts past the start", vec![0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "a block is damaged"),
        ("a key of the key before", [&[9, 0, 0][..], &restarts].concat(), "a block is damaged"),
        ("a value of 2^63", [&[0, 0][..], &[0xff; 9], &[0], &restarts].concat(), "a block is damaged"),
        ("a number without end", [&[0xff; 12][..], &restarts].concat(), "a block is damaged"),
        ("no header", [&[0, 1, 0, b'w'][..], &restarts].concat(), "no header"),
        ("a big-endian header", [&[0, 0, 4, 8, 1, 16, 1][..], &restarts].concat(), "big-endian"),
        ("a field that is none", entry(&[0x0f]), "its entry is damaged"),
        ("a message of 2^35", entry(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f]), "its entry is damaged"),
        // float, shape [2^40], 8 bytes
        (
            "a shape of 2^40",
            entry(&[8, 1, 0x12, 9, 0x12, 7, 8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 40, 8]),
            "its entry is damaged",
        ),
        (
            "a shape below 0",
            entry(&[8, 1, 0x12, 13, 0x12, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            "its entry is damaged",
        ),
        ("slices", entry(&[8, 1, 0x3a, 0]), "is partitioned"),
    ] {
        let bytes = table(&[(&block, 1)]);
        assert_rejected(&place, what, &bytes, reason);
    }
    // Four bytes at 2^40 of a data file that does not exist.
    let bytes = table(&[(&entry(&[8, 1, 0x12, 4, 0x12, 2, 8, 1, 32, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 40, 4]), 1)]);
    assert_rejected(&place, "no data file", &bytes, "cannot read");
    fs::write(place.path.with_extension("data-00000-of-00001"), [0; 8]).unwrap();
    assert_rejected(&place, "values past the end", &bytes, "truncated");
}

#[test]
fn damaged_files_do_not_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let place = place();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.push(folder.join("tensorflow/old.ckpt"));
    files.push(folder.join("tensorflow/model.ckpt-790000.index"));
    files.sort();
    for path in files {
        let whole = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        for at in (0..whole.len()).step_by(97) {
            let what = format!("{name} cut at {at}");
            fs::write(&place.path, &whole[..at]).unwrap();
            assert!(read(&what, &place.path, at).is_some(), "{what} is read");
        }
        for at in (0..whole.len()).step_by(61) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&place.path, &flipped).unwrap();
            read(&format!("{name} flipped at {at}"), &place.path, flipped.len());
        }
    }
}
