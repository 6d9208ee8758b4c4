//! Zip and tar archives and webdataset shards: the same images, splits and classes as in a folder.

use crate::common::*;
use ddpm_data::{Error, ImageSet, ReadOptions, Split, open};
use std::path::Path;
use tempfile::tempdir;
use zip::CompressionMethod::{Deflated, Stored};

fn labels(set: &ImageSet) -> Vec<u32> {
    set.labels().unwrap_or_default().to_vec()
}

/// Writes archives of every kind with the same members, and returns their paths.
fn archives(folder: &Path, members: &[(&str, &[u8])]) -> Vec<std::path::PathBuf> {
    let archive = tar(members);
    vec![
        put(&folder.join("stored.zip"), &zip(members, Stored)),
        put(&folder.join("deflated.zip"), &zip(members, Deflated)),
        put(&folder.join("gz.tar.gz"), &gzip(&archive)),
        put(&folder.join("gz.tgz"), &gzip(&archive)),
        put(&folder.join("plain.tar"), &archive),
    ]
}

#[test]
fn reads_dataset_json_of_edm() {
    let folder = tempdir().unwrap();
    let [a, b, c] = [1, 2, 3].map(dot);
    let json =
        br#"{"labels": [["00000/img00000000.png", 6], ["00001\\img00001000.png", 0], ["00000/img00000001.png", 2]]}"#;
    let members: Vec<(&str, &[u8])> = vec![
        ("00000/img00000000.png", &a),
        ("00000/img00000001.png", &b),
        ("00001/img00001000.png", &c),
        ("dataset.json", json),
    ];
    for path in archives(folder.path(), &members) {
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((dots(&set), labels(&set)), (vec![1, 2, 3], vec![6, 2, 0]), "{}", path.display());
        assert_eq!((set.class_names().len(), set.report().other_files), (7, 0));
        assert!(matches!(open(&path, &test_split()), Err(Error::NoHeldOut { .. })));
    }
    // If dataset.json has no labels, the numbered folders are not classes.
    for json in [&br#"{"labels": null}"#[..], b"{}"] {
        let path =
            put(&folder.path().join("null.zip"), &zip(&[&members[..3], &[("dataset.json", json)]].concat(), Stored));
        assert_eq!(opened(&path, &ReadOptions::default()).labels(), None);
    }
    let refuses = |json: &[u8], words: &[&str]| {
        let path =
            put(&folder.path().join("bad.zip"), &zip(&[&members[..3], &[("dataset.json", json)]].concat(), Stored));
        let message = refused(&path, &ReadOptions::default());
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refuses(
        br#"{"labels": [["00000/img00000000.png", 6]]}"#,
        &["dataset.json", "no label for 2 of 3", "img00000001.png"],
    );
    refuses(br#"{"labels": [["00000/img00000000.png", 0.5]]}"#, &["0.5", "integer"]);
    refuses(br#"{"labels": [["00000/img00000000.png", [1, 0]]]}"#, &["[1,0]", "integer"]);
    refuses(br#"{"labels": 7}"#, &["dataset.json", "expected"]);
    refuses(b"not json", &["dataset.json", "expected"]);
    let many = |label: &str| {
        let one = |(name, _): &(&str, &[u8])| format!("[\"{name}\", {label}]");
        format!("{{\"labels\": [{}]}}", members[..3].iter().map(one).collect::<Vec<_>>().join(",")).into_bytes()
    };
    refuses(&many("-1"), &["\"-1\"", "negative"]);
    refuses(&many("4000000000"), &["4000000000"]);
    refuses(&many("99999999999999999999999"), &["integer"]);
}

#[test]
fn archives_are_read_like_folders() {
    let folder = tempdir().unwrap();
    let [a, b, c, d] = [1, 2, 3, 4].map(dot);
    let members: Vec<(&str, &[u8])> = vec![
        ("set/train/cat/1.png", &a),
        ("set/train/dog/2.PNG", &b),
        ("set/test/cat/3.png", &c),
        ("set/test/dog/4.png", &d),
        ("set/readme.txt", b"ignored"),
        ("__MACOSX/set/train/cat/._1.png", b"hidden"),
        ("set/train/.DS_Store", b"hidden"),
    ];
    for path in archives(folder.path(), &members) {
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((dots(&set), labels(&set)), (vec![1, 2], vec![0, 1]), "{}", path.display());
        assert_eq!(set.class_names(), ["cat", "dog"]);
        let set = opened(&path, &test_split());
        assert_eq!((dots(&set), labels(&set)), (vec![3, 4], vec![0, 1]), "{}", path.display());
    }
    for path in archives(folder.path(), &[("a.txt", b"a"), ("b/c.heic", b"?")]) {
        assert!(refused(&path, &ReadOptions::default()).contains("HEIC"), "{}", path.display());
    }
    for path in archives(folder.path(), &[("a.txt", b"a")]) {
        assert!(refused(&path, &ReadOptions::default()).contains("contains no image files"), "{}", path.display());
    }
}

#[test]
fn names_with_parent_directories_are_harmless() {
    let folder = tempdir().unwrap();
    let (a, b) = (dot(1), dot(2));
    let secret = put(&folder.path().join("secret.png"), &dot(9));
    let members: Vec<(&str, &[u8])> = vec![
        ("../secret.png", &a),
        ("x/../../secret.png", &b),
        ("metadata.csv", b"file_name,label\n../secret.png,3\n"),
    ];
    let path = put(&folder.path().join("in/evil.zip"), &zip(&members[..2], Stored));
    let set = opened(&path, &ReadOptions::default());
    assert_eq!(dots(&set), [1, 2]);
    // An absolute name, which `ZipWriter` would reject.
    let mut bytes = zip(&[("/tmp/secret.png", &a)], Stored);
    for at in 0..bytes.len() - 15 {
        if &bytes[at..at + 15] == b"tmp/secret.png\0" || &bytes[at..at + 14] == b"tmp/secret.png" {
            bytes[at..at + 3].copy_from_slice(b"/t/");
        }
    }
    put(&path, &bytes);
    if let Ok(set) = open(&path, &ReadOptions::default()) {
        assert_eq!(dots(&set), [1]);
    }
    assert!(secret.exists());
}

#[test]
fn bad_members_are_reported_and_skipped() {
    let folder = tempdir().unwrap();
    let good = dot(7);
    let members: Vec<(&str, &[u8])> = vec![("a.png", &good), ("b.png", b"not an image"), ("c.webp", b"")];
    for path in archives(folder.path(), &members) {
        let set = opened(&path, &ReadOptions::default());
        let report = set.report();
        assert_eq!((dots(&set), report.files, report.bad.len()), (vec![7], 3, 2), "{report:?}");
        assert_eq!(report.bad[0].path, path.join("b.png"));
    }

    // One byte of a JPEG's pixels is changed. Only the archive's checksum detects it.
    let jpeg = encode(image::ImageFormat::Jpeg, &noise(400), (20, 20), image::ExtendedColorType::L8);
    let mut bytes = zip(
        &[
            ("a.png", &encode(image::ImageFormat::Jpeg, &noise(400), (20, 20), image::ExtendedColorType::L8)),
            ("b.jpg", &jpeg),
        ],
        Stored,
    );
    let at = bytes.windows(jpeg.len()).rposition(|window| window == jpeg).unwrap();
    bytes[at + jpeg.len() - 40] ^= 1;
    let path = put(&folder.path().join("sum.zip"), &bytes);
    let set = open(&path, &ReadOptions::default()).unwrap();
    assert_eq!(set.len(), 1);
    assert!(set.report().bad[0].reason.contains("checksum"), "{:?}", set.report());
}

#[test]
fn truncated_archives_are_reported() {
    let folder = tempdir().unwrap();
    let pictures: Vec<_> = (0..4).map(dot).collect();
    let names = ["0.png", "1.png", "2.png", "3.png"];
    let members: Vec<(&str, &[u8])> = names.iter().zip(&pictures).map(|(name, bytes)| (*name, &bytes[..])).collect();
    let whole = tar(&members);
    // Each member has one block of header and one of data.
    for cut in 0..4 * 1024 + 511 {
        let path = put(&folder.path().join("cut.tar"), &whole[..cut]);
        match open(&path, &ReadOptions::default()) {
            Ok(set) => {
                let (images, report) = (set.len(), set.report());
                let ends: Vec<usize> = (0..4).map(|i| i * 1024 + 512 + pictures[i].len()).collect();
                assert_eq!(images, ends.iter().filter(|&&end| end <= cut).count(), "{cut}");
                assert_eq!(report.bad.len(), 1, "{cut}: {report:?}");
                assert!(report.bad[0].reason.contains("truncated"), "{report:?}");
            }
            Err(error) => {
                assert!(cut < 512 + pictures[0].len() && error.to_string().contains("truncated"), "{cut}: {error}")
            }
        }
    }
    let packed = gzip(&whole);
    let path = folder.path().join("cut.tar.gz");
    for cut in 2..packed.len() {
        put(&path, &packed[..cut]);
        match open(&path, &ReadOptions::default()) {
            Ok(set) => assert_eq!(set.report().bad.len(), 1, "{cut}"),
            Err(error) => assert!(error.to_string().contains("truncated"), "{cut}: {error}"),
        }
    }
    for method in [Stored, Deflated] {
        let whole = zip(&members, method);
        for cut in 0..whole.len() {
            let path = put(&folder.path().join("cut.zip"), &whole[..cut]);
            assert!(refused(&path, &ReadOptions::default()).contains("truncated"), "{cut}");
        }
    }
}

/// A few hundred kilobytes that unpack to hundreds of megabytes are only unpacked up to the limit.
#[test]
fn decompression_bombs_are_limited() {
    let folder = tempdir().unwrap();
    let limited = ReadOptions { memory_limit_bytes: 1 << 20, ..ReadOptions::default() };
    let zeros = vec![0; 200 << 20];
    let bomb = gzip(&tar(&[("a.png", &zeros)]));
    assert!(bomb.len() < 1 << 20);
    let path = put(&folder.path().join("bomb.tar.gz"), &bomb);
    let error = open(&path, &limited).err().unwrap();
    assert!(matches!(error, Error::TooLarge { .. }) && error.to_string().contains("gunzip"), "{error}");

    // A name of 200 MB.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(zeros.len() as u64);
    header.set_cksum();
    let path = put(&folder.path().join("name.tar.gz"), &gzip(&[header.as_bytes(), &zeros[..]].concat()));
    assert!(refused(&path, &ReadOptions::default()).contains("name.tar.gz"));

    // Zeros after a valid image, in a zip archive with the correct size.
    let behind = [&dot(3)[..], &zeros].concat();
    let path = put(&folder.path().join("bomb.zip"), &zip(&[("a.png", &behind)], Deflated));
    assert_eq!(dots(&open(&path, &limited).unwrap()), [3]);
    let path = put(
        &folder.path().join("json.zip"),
        &zip(&[("a.png", &dot(3)), ("dataset.json", &vec![b' '; 300 << 20])], Deflated),
    );
    assert!(refused(&path, &limited).contains("too much for a label file"));
}

#[test]
fn reads_webdataset_shards() {
    let folder = tempdir().unwrap();
    let pictures: Vec<_> = (0..6).map(dot).collect();
    let shard = |first: usize| {
        tar(&[
            ("000000.png", &pictures[first][..]),
            ("000000.cls", b"4\n"),
            ("sub/000001.v2.jpg", &pictures[first + 1]),
            ("sub/000001.json", br#"{"label": 2, "caption": "x"}"#),
        ])
    };
    put(&folder.path().join("wds/imagenet-train-000000.tar"), &shard(0));
    put(&folder.path().join("wds/imagenet-train-000001.tar.gz"), &gzip(&shard(2)));
    put(&folder.path().join("wds/imagenet-val-000000.tar"), &shard(4));
    put(&folder.path().join("wds/README.md"), b"the shards");
    let set = opened(&folder.path().join("wds"), &ReadOptions::default());
    assert_eq!((dots(&set), labels(&set)), (vec![0, 1, 2, 3], vec![4, 2, 4, 2]));
    let set = opened(&folder.path().join("wds"), &test_split());
    assert_eq!((dots(&set), labels(&set)), (vec![4, 5], vec![4, 2]));

    // Class names instead of numbers, a single shard, and a folder for each split.
    let named = tar(&[("1.png", &pictures[1][..]), ("1.cls", b"dog"), ("2.png", &pictures[2]), ("2.cls", b"cat")]);
    let set = opened(&put(&folder.path().join("named.tar"), &named), &ReadOptions::default());
    assert_eq!((labels(&set), set.class_names()), (vec![1, 0], &["cat".to_owned(), "dog".to_owned()][..]));
    put(&folder.path().join("parts/train/0.tar"), &named);
    put(&folder.path().join("parts/val/0.tar"), &shard(0));
    assert_eq!(dots(&opened(&folder.path().join("parts"), &ReadOptions::default())), [1, 2]);
    assert_eq!(dots(&opened(&folder.path().join("parts"), &test_split())), [0, 1]);

    // A sample without a label is an error. A corrupt shard is not an error; it is reported.
    let missing = tar(&[("1.png", &pictures[1][..]), ("1.cls", b"0"), ("2.png", &pictures[2])]);
    let message = refused(&put(&folder.path().join("missing.tar"), &missing), &ReadOptions::default());
    assert!(message.contains("no label for 1 of 2") && message.contains("2.png"), "{message}");
    put(&folder.path().join("wds/imagenet-train-000002.tar"), &noise(5000));
    let set = open(&folder.path().join("wds"), &ReadOptions::default()).unwrap();
    assert_eq!((set.len(), set.report().bad.len()), (4, 1));
    assert!(set.report().bad[0].path.ends_with("imagenet-train-000002.tar"));
}

#[test]
fn reads_long_names() {
    let folder = tempdir().unwrap();
    let long = format!("{}/{}.png", "deep/".repeat(40), "n".repeat(120));
    let picture = dot(5);
    let gnu = tar(&[(&long, &picture), ("short.png", &picture)]);
    let mut pax = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(picture.len() as u64);
    header.set_path("cut").unwrap();
    header.set_cksum();
    pax.append_pax_extensions([("path", long.as_bytes())]).unwrap();
    pax.append(&header, &picture[..]).unwrap();
    for (name, bytes) in [("gnu.tar", gnu), ("pax.tar", pax.into_inner().unwrap())] {
        let path = put(&folder.path().join(name), &[&bytes[..], b"junk"].concat());
        let set = opened(&path, &ReadOptions { split: Split::Train, ..ReadOptions::default() });
        assert!(dots(&set).iter().all(|&value| value == 5) && set.report().bad.is_empty(), "{:?}", set.report());
    }
}

/// Links within an archive are listed, not left out in silence; contiguous files are files.
#[test]
fn links_in_a_tar_are_bad_files() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("set.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        if content.is_empty() {
            header.set_link_name("1.png").unwrap();
        }
        archive.append_data(&mut header, name, content).unwrap();
    };
    let image = dot(1);
    add("1.png", tar::EntryType::Regular, &image);
    add("2.png", tar::EntryType::Continuous, &image);
    add("3.png", tar::EntryType::Link, b"");
    add("4.png", tar::EntryType::Symlink, b"");
    add("5.txt", tar::EntryType::Link, b"");
    archive.finish().unwrap();
    let set = open(&path, &ReadOptions::default()).unwrap();
    assert_eq!(set.len(), 2);
    let bad: Vec<String> =
        set.report().bad.iter().map(|bad| format!("{}: {}", bad.path.display(), bad.reason)).collect();
    assert_eq!(bad.len(), 2, "{bad:?}");
    assert!(bad[0].contains("3.png: is a link") && bad[1].contains("4.png: is a link"), "{bad:?}");
}

/// `cat a.tar b.tar` has the end of the first archive before the second one.
#[test]
fn archives_that_were_joined_are_reported() {
    let folder = tempdir().unwrap();
    let (one, two) = (tar(&[("1.png", &dot(1))]), tar(&[("2.png", &dot(2))]));
    let joined = [&one[..], &two].concat();
    for (name, bytes) in
        [("a.tar", joined.clone()), ("b.tar.gz", gzip(&joined)), ("c.tar.gz", [gzip(&one), gzip(&two)].concat())]
    {
        let set = opened(&put(&folder.path().join(name), &bytes), &ReadOptions::default());
        let bad = &set.report().bad;
        assert_eq!((dots(&set), bad.len()), (vec![1], 1), "{name}");
        assert!(bad[0].reason.contains("another archive"), "{name}: {}", bad[0].reason);
    }
}

/// A size in the attributes replaces that of the header, which is read here.
#[test]
fn two_sizes_of_a_file_are_refused() {
    let folder = tempdir().unwrap();
    let picture = dot(5);
    for (size, expected) in [(picture.len(), 2), (picture.len() + 512, 1)] {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["1.png", "2.png"] {
            if name == "2.png" {
                archive.append_pax_extensions([("size", size.to_string().as_bytes())]).unwrap();
            }
            let mut header = tar::Header::new_ustar();
            header.set_size(picture.len() as u64);
            header.set_path(name).unwrap();
            header.set_cksum();
            archive.append(&header, &picture[..]).unwrap();
        }
        let set = opened(&put(&folder.path().join("a.tar"), &archive.into_inner().unwrap()), &ReadOptions::default());
        assert_eq!((set.len(), set.report().bad.len()), (expected, 2 - expected), "{:?}", set.report());
        assert!(set.report().bad.iter().all(|bad| bad.reason.contains("two sizes")));
    }
}
