//! Reading files of `torch.save`. `tools/goldens_files.py` wrote them and documents their contents:
//!
//! ```python
//! torch.save({"state_dict": …, "optimizer": …, "step": 12345, "config": argparse.Namespace(width=128), …}, "zip.pt")
//! ```

use ddpm_weights::pickle::{Item, PickleValue};
use ddpm_weights::{Error, Tensor, Tensors, TorchFile, Values, read_safetensors, write_state_dict};
use std::fs;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)
}

fn all(path: impl AsRef<Path>) -> Result<Tensors, Error> {
    let file = TorchFile::open(path)?;
    file.read(file.tensors().keys())
}

fn expected(name: &str) -> Tensors {
    read_safetensors(file(name)).unwrap().0
}

/// Returns the error of reading a file of these bytes.
fn error(bytes: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    fs::write(&path, bytes).unwrap();
    let error = all(&path).expect_err("should be an error");
    assert!(error.to_string().contains("x.pt"), "does not name the file: {error}");
    error
}

/// Builds a file of the legacy format around the pickle of the object.
fn legacy(object: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    [magic, &b"\x80\x02M\xe9\x03."[..], b"\x80\x02}.", object, b"\x80\x02]."].concat()
}

#[test]
fn every_dtype_and_view_is_read() {
    for name in ["zip.pt", "legacy.pt"] {
        let tensors = all(file(name)).unwrap();
        assert_eq!(tensors, expected("expected.safetensors"), "{name}");
        assert_eq!(tensors["state_dict.halfway"].data, [2f32.powi(-24), -65504.0, 0.33325195]);
    }
}

/// `torch.save({"w": torch.arange(6.0)[2:5]}, …, _use_new_zipfile_serialization=False)`, also with the offset of a matrix
#[test]
fn a_part_of_a_storage_begins_at_its_offset() {
    let views: [(&[u8], &[usize], &[f32]); 3] = [
        (b"K\x02K\x03\x85K\x01\x85", &[3], &[2.0, 3.0, 4.0]),
        (b"K\x01K\x02K\x02\x86K\x02K\x01\x86", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        (b"K\x01K\x02K\x02\x86K\x01K\x03\x86", &[2, 2], &[1.0, 4.0, 2.0, 5.0]),
    ];
    for (view, shape, expected) in views {
        let object = [b"}X\x01\0\0\0w", &view_of_six(view)[..], b"s."].concat();
        let tensor = &all_of_six(&object).unwrap()["w"];
        assert_eq!((&tensor.shape[..], &tensor.data[..]), (shape, expected));
    }
}

/// Returns the pickle of a view of the storage of [`all_of_six`].
fn view_of_six(view: &[u8]) -> Vec<u8> {
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ";
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], view, b"\x89}tR"].concat()
}

/// Reads a file in the format before PyTorch 1.6 of an object with one storage: 0, 1, 2, 3, 4, 5.
fn all_of_six(object: &[u8]) -> Result<Tensors, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    // The list of storages, and the storage: its length and its values.
    let mut bytes = legacy(&[b"\x80\x02", object].concat());
    bytes.truncate(bytes.len() - 4);
    bytes.extend(b"\x80\x02]X\x01\0\0\x000a.");
    bytes.extend(6u64.to_le_bytes());
    bytes.extend((0..6u8).flat_map(|i| f32::from(i).to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    all(&path)
}

/// `{"a.b": x, "a": {"b": y}}`
#[test]
fn two_tensors_of_one_name_are_an_error() {
    let views = [&b"K\0K\x03\x85K\x01\x85"[..], b"K\x03K\x03\x85K\x01\x85"].map(view_of_six);
    let object = |x: &[u8], y: &[u8]| {
        let inner = [b"}X\x01\0\0\0b", y, b"s"].concat();
        [b"}(X\x03\0\0\0a.b", x, b"X\x01\0\0\0a", &inner, b"u."].concat()
    };
    let message = all_of_six(&object(&views[0], &views[1])).unwrap_err().to_string();
    assert!(message.contains("two tensors that are named `a.b`"), "{message}");
    // The same one twice is no question.
    assert_eq!(all_of_six(&object(&views[0], &views[0])).unwrap()["a.b"].data, [0.0, 1.0, 2.0]);
}

#[test]
fn every_protocol_and_container_is_read() {
    let mut floats = expected("more.safetensors");
    let module = floats.split_off("module.");
    for name in [
        "protocol3.pt",
        "protocol4.pt",
        "protocol5.pt",
        "legacy_protocol1.pt",
        "deflated.pt",
        "big_endian.pt",
        "no_crc.pt",
    ] {
        assert_eq!(all(file(name)).unwrap(), floats, "{name}");
    }
    // A pickled module: its classes are only names, but its parameters are found.
    let whole: Tensors = all(file("module.pt")).unwrap().into_iter().map(|(k, v)| (format!("module.{k}"), v)).collect();
    assert_eq!(whole, module);
    // A pickle that torch.save did not write, with both.
    let both: Tensors = floats.into_iter().chain(module).collect();
    assert_eq!(all(file("tensors.pkl")).unwrap(), both);
}

/// Also those of a storage that several tensors share, or whose tensor is transposed.
#[test]
fn a_damaged_storage_is_an_error() {
    let whole = fs::read(file("zip.pt")).unwrap();
    let expected = all(file("zip.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    let mut damaged = 0;
    for (begin, length) in storages(&whole) {
        for at in begin..begin + length {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = all(&path).expect_err("a flipped bit is not noticed").to_string();
            assert!(error.contains("storage `") && error.contains("x.pt"), "{error}");
            damaged += 1;
        }
    }
    assert!(damaged > 100, "{damaged} bytes");
    fs::write(&path, &whole).unwrap();
    assert_eq!(all(&path).unwrap(), expected);
}

/// Finds the first byte and the length of each storage that a tensor uses, in an archive without compression.
fn storages(zip: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize, bytes: usize| zip[at..at + bytes].iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let headers = zip.windows(4).enumerate().filter(|(_, bytes)| *bytes == b"PK\x01\x02").map(|(at, _)| at);
    let storage = |at: usize| {
        let name = &zip[at + 46..][..number(at + 28, 2)];
        let local = number(at + 42, 4);
        let begin = local + 30 + number(local + 26, 2) + number(local + 28, 2);
        let is_storage = name.windows(6).any(|part| part == b"/data/");
        is_storage.then(|| (begin, number(at + 24, 4)))
    };
    headers.filter_map(storage).collect()
}

#[test]
fn plain_values() {
    let file = TorchFile::open(file("zip.pt")).unwrap();
    let pickle = file.pickle();
    let get = |key| pickle.get(pickle.root, key).unwrap();
    assert_eq!(get("step"), Item::Int(12345));
    assert_eq!(get("loss"), Item::Float(0.125));
    assert_eq!(get("nothing"), Item::None);
    assert_eq!(pickle.text(get("name")), Some("ema – 0.9999"));
    assert_eq!(pickle.sequence(get("size")), Some(&[Item::Int(1), Item::Int(2)][..]));
    assert_eq!(pickle.node(get("big")), Some(&PickleValue::Long([0, 0, 0, 0, 0, 0, 0, 0, 64].into())));
    assert_eq!(pickle.node(get("bytes")), Some(&PickleValue::Bytes([0, 255].into())));
    assert_eq!(pickle.node(get("dtype")), Some(&PickleValue::Name("torch.float16".into())));
    assert_eq!(pickle.sequence(get("tags")).unwrap().len(), 1);
    let Some(PickleValue::Object(config)) = pickle.node(get("config")) else { panic!() };
    assert_eq!(&*config.class, "argparse.Namespace");
    assert_eq!(pickle.get(config.state, "width"), Some(Item::Int(128)));
    let Some(PickleValue::Object(device)) = pickle.node(get("device")) else { panic!() };
    assert_eq!((&*device.class, pickle.text(device.elements[0])), ("torch.device", Some("cpu")));
}

#[test]
fn calls_are_shown_and_not_made() {
    let marker = std::env::temp_dir().join("weights-pickle-was-run");
    let command = format!("touch {}", marker.display());
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let calls: [(&str, Vec<u8>); 9] = [
        ("posix.system('touch ", [b"cposix\nsystem\n", &*text(&command), b"\x85R."].concat()),
        ("builtins.eval('1')", [b"cbuiltins\neval\n", &*text("1"), b"\x85R."].concat()),
        ("builtins.exec('1')", [&*text("builtins"), &text("exec"), b"\x93", &text("1"), b"\x85R."].concat()),
        ("torch.hub.load('a/b', 'c')", [b"ctorch.hub\nload\n", &*text("a/b"), &text("c"), b"\x86R."].concat()),
        (
            "builtins.getattr(posix.stat, 'system')",
            [b"cbuiltins\ngetattr\ncposix\nstat\n", &*text("system"), b"\x86R."].concat(),
        ),
        ("subprocess.Popen(['sh'])", [b"csubprocess\nPopen\n]", &*text("sh"), b"a\x85\x81."].concat()),
        ("os.system('x')", b"(S'x'\nios\nsystem\n.".to_vec()),
        ("os.system('x')", b"(cos\nsystem\nS'x'\no.".to_vec()),
        // An allowed function with another function as its argument.
        (
            "torch._tensor._rebuild_from_type_v2(os.system, ",
            [b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nNN", &*text("x"), b"\x85NtR."].concat(),
        ),
    ];
    for (call, pickle) in calls {
        let error = error(&legacy(&pickle));
        assert!(matches!(&error, Error::Call { .. }), "{error}");
        assert!(error.to_string().contains(&format!("this pickle calls `{}", call.trim_end_matches("x"))), "{error}");
        assert!(error.to_string().contains("no code was run"), "{error}");
    }
    assert!(!marker.exists());
}

#[test]
fn malformed_pickles_are_errors() {
    let bad = |object: &[u8]| error(&legacy(object)).to_string();
    for (object, reason) in [
        (&b"\x80\x06."[..], "protocol 6"),
        (b".", "the stack is empty"),
        (b"(.", "the stack is empty"),
        (b"t.", "needs a mark"),
        (b"h\x07.", "the memo has no entry 7"),
        (b"Iseven\n.", "`seven` is not a number"),
        (b"\x82\x01.", "EXT"),
        (b"\x97.", "an out-of-band buffer"),
        (b"\xff.", "opcode 0xff is unknown"),
        (b"P7\n.", "refers to the persistent object `7`"),
        (b"K\x01Q.", "1 is not the id of a storage"),
        (b"K\x01K\x02a.", "fills a container, but a plain value"),
        (b"}K\x02a.", "appended to a value that is not a list"),
        (b"}(K\x01u.", "a key without a value"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "a frame of"),
        (b"X\xff\xff\xff\xffa.", "truncated: 4294967295 bytes"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffa.", "truncated: 18446744073709551615 bytes"),
        (b"cos\nsystem\n}b.", "the state of os.system is set"),
    ] {
        let message = bad(object);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    for (name, reason) in [
        ("script.pt", "a TorchScript program"),
        ("plain.pkl", "without weights"),
        ("expected.safetensors", "neither a zip archive nor a pickle"),
    ] {
        let error = all(file(name)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut tar = vec![b'0'; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(error(&tar).to_string().contains("a tar archive"));
}

/// Also a number, which has no sizes, and nothing; the bytes are the same each time.
#[test]
fn a_state_dictionary_is_read_as_it_was_written() {
    let mut tensors = expected("more.safetensors");
    tensors.insert("a.number".into(), Tensor { shape: vec![], data: vec![-2.5] });
    tensors.insert("nothing".into(), Tensor { shape: vec![0, 3], data: vec![] });
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, values: Values| {
        let path = folder.path().join(name);
        write_state_dict(&path, &tensors, values).unwrap();
        (fs::read(&path).unwrap(), all(path).unwrap())
    };
    let (bytes, read) = write("a.pt", Values::F32);
    assert_eq!(read, tensors);
    assert_eq!(bytes, write("b.pt", Values::F32).0);
    let (_, halves) = write("c.pt", Values::F16);
    let difference = |name: &String| {
        let pairs = tensors[name].data.iter().zip(&halves[name].data);
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0f32, f32::max)
    };
    let worst = tensors.keys().map(difference).fold(0f32, f32::max);
    assert!(worst > 0.0 && worst < 1e-3, "{worst}");
    let large = Tensors::from([("w".into(), Tensor { shape: vec![1], data: vec![1e6] })]);
    let error = write_state_dict(folder.path().join("d.pt"), &large, Values::F16).unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains("too large for f16"), "{error}");
    assert!(!folder.path().join("d.pt").exists());
}

#[test]
fn flipped_bits_are_detected() {
    let whole = fs::read(file("protocol4.pt")).unwrap();
    let value = expected("more.safetensors")["a"].data[0].to_le_bytes();
    let at = whole.windows(4).position(|bytes| bytes == value).unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    assert!(error(&flipped).to_string().contains("tensor `a`"), "{}", error(&flipped));
}
