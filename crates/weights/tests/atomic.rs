//! Atomic writes of files and folders, and checksums.

use ddpm_weights::atomic::{Existing, remove_leftovers, remove_leftovers_of_file, write_file, write_folder};
use ddpm_weights::{Error, digest, pipeline};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    for text in ["one", "two"] {
        write_file(&path, |file| file.write_all(text.as_bytes())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn failure_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, "old").unwrap();
    let error = write_file(&path, |file| {
        file.write_all(&vec![7; 3 << 20])?;
        Err(io::Error::other("out of ideas"))
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("cannot write") && error.contains("/f: out of ideas"), "{error}");
    let panic = std::panic::catch_unwind(|| write_file(&path, |_| panic!("in the middle")));
    assert!(panic.is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names(folder.path()), ["f"]);
}

#[test]
fn impossible_targets_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: PathBuf| write_file(path, |_| Ok(())).unwrap_err().to_string();
    let missing = write(folder.path().join("none/f"));
    assert!(missing.contains("none/f") && missing.contains("create its folder first"), "{missing}");
    fs::write(folder.path().join("file"), "").unwrap();
    let below_file = write(folder.path().join("file/f"));
    assert!(below_file.contains("file/f") && below_file.contains("a part of the path is a file"), "{below_file}");
    let a_folder = write(folder.path().to_owned());
    assert!(a_folder.contains("is a folder"), "{a_folder}");
    let no_name = write(folder.path().join("none/.."));
    assert!(no_name.contains("does not end in the name of a file"), "{no_name}");
    assert_eq!(names(folder.path()), ["file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_an_error() {
    for bytes in [10, 10 << 20] {
        let error = write_file("/dev/full", |file| file.write_all(&vec![0; bytes])).unwrap_err();
        let Error::Io { error: ref cause, .. } = error else { panic!("{error}") };
        assert_eq!(cause.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("cannot write /dev/full"), "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
    }
    // A device is not replaced by a file.
    write_file("/dev/null", |file| file.write_all(b"x")).unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[cfg(unix)]
#[test]
fn symbolic_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    write_file(&link, |file| file.write_all(b"new")).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    assert!(link.symlink_metadata().unwrap().is_symlink());
}

fn fill(folder: &Path, text: &str) -> Result<(), Error> {
    fs::create_dir(folder.join("unet")).unwrap();
    fs::write(folder.join("unet/config.json"), text).unwrap();
    fs::write(folder.join("unet/diffusion_pytorch_model.safetensors"), text).unwrap();
    Ok(())
}

#[test]
fn folder_is_kept_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("000000100");
    let text = || fs::read_to_string(path.join("unet/config.json")).unwrap();
    write_folder(&path, Existing::Refuse, |new| fill(new, "one")).unwrap();
    assert_eq!(text(), "one");
    let error = write_folder(&path, Existing::Refuse, |_| -> Result<(), Error> { panic!("not even tried") });
    assert!(matches!(error, Err(Error::Exists { .. })));
    write_folder(&path, Existing::Replace, |new| fill(new, "two")).unwrap();
    assert_eq!(text(), "two");
    let error = write_folder(&path, Existing::Replace, |new| {
        fill(new, "three")?;
        Err(Error::File { path: new.to_owned(), reason: "no".into() })
    });
    assert!(error.is_err());
    assert_eq!(text(), "two");
    assert_eq!(names(folder.path()), ["000000100"]);

    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(write_folder(&file, Existing::Replace, |new| fill(new, "x")).is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn folder_that_appears_during_the_write_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let error = write_folder(&path, Existing::Refuse, |new| {
        fs::create_dir(&path).unwrap();
        fill(new, "late")
    });
    assert!(matches!(error, Err(Error::Exists { .. })));
    assert_eq!(names(folder.path()), ["x"]);
    assert!(names(&path).is_empty());
}

/// The child process of `killed_write_leaves_only_temporaries`, which aborts during a write. It does nothing as a test.
#[test]
fn killed_child() {
    let Some(checkpoints) = std::env::var_os("WEIGHTS_TEST_CHECKPOINTS").map(PathBuf::from) else {
        return;
    };
    write_folder(checkpoints.join("000000200"), Existing::Refuse, |new| -> Result<(), Error> {
        fill(new, "half")?;
        write_file(new.join("half"), |file| {
            file.write_all(b"wri")?;
            std::process::abort()
        })
    })
    .unwrap();
}

#[test]
fn killed_write_leaves_only_temporaries() {
    let run = tempfile::tempdir().unwrap();
    let checkpoints = run.path().join("checkpoints");
    fs::create_dir(&checkpoints).unwrap();
    let child = || {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_child"])
            .env("WEIGHTS_TEST_CHECKPOINTS", &checkpoints)
            .output()
            .unwrap()
            .status;
        assert!(!status.success());
    };
    child();
    assert_eq!(names(&checkpoints).len(), 1, "the child left its temporary folder");
    assert!(matches!(pipeline::locate(run.path()), Err(Error::NoModel { .. })));
    assert!(pipeline::checkpoints(&checkpoints).unwrap().is_empty());

    // With an earlier checkpoint, that one is found.
    write_folder(checkpoints.join("000000100"), Existing::Refuse, |new| fill(new, "whole")).unwrap();
    child();
    assert_eq!(pipeline::locate(run.path()).unwrap().root, checkpoints.join("000000100"));

    assert_eq!(remove_leftovers(&checkpoints, Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(remove_leftovers(&checkpoints, Duration::ZERO).unwrap(), 2);
    assert_eq!(names(&checkpoints), ["000000100"]);
}

#[test]
fn leftovers_are_recognized_by_name() {
    let folder = tempfile::tempdir().unwrap();
    // This process numbers its names from the time at which it began.
    let own = format!(".x.tmp-{}-{}", std::process::id(), u64::MAX);
    let others =
        [".x.tmp-", ".x.tmp-1", ".x.tmp-a-1", "x.tmp-1-1", ".tmp-1-1", ".x.tmp-1-", ".git", ".x.tmp-1-2.png", &own];
    for name in others {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let before = names(folder.path());
    fs::write(folder.path().join(".x.png.tmp-1-2"), "").unwrap();
    fs::create_dir(folder.path().join(".x.tmp-4294967295-2")).unwrap();
    assert_eq!(remove_leftovers(folder.path(), Duration::ZERO).unwrap(), 2);
    assert_eq!(names(folder.path()), before);
}

fn sealed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "contents").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    assert!(!digest::is_sealed(folder.path()));
    digest::seal(folder.path()).unwrap();
    assert!(digest::is_sealed(folder.path()));
    digest::verify(folder.path()).unwrap();
    folder
}

#[test]
fn manifest_lists_all_files() {
    let folder = sealed();
    // CRC-32 of "contents", from Python's zlib.crc32.
    let expected = r#"{
  "files": {
    "empty": {
      "bytes": 0,
      "crc32": "00000000"
    },
    "unet/config.json": {
      "bytes": 8,
      "crc32": "b4fa1177"
    },
    "unet/diffusion_pytorch_model.safetensors": {
      "bytes": 8,
      "crc32": "b4fa1177"
    }
  }
}
"#;
    assert_eq!(fs::read_to_string(folder.path().join(digest::MANIFEST)).unwrap(), expected);
    // Sealing again gives the same manifest, and files that are added later are ignored.
    digest::seal(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join(digest::MANIFEST)).unwrap(), expected);
    fs::write(folder.path().join("README.md"), "hello").unwrap();
    digest::verify(folder.path()).unwrap();
}

/// Returns the name of the first damaged file, and the reason.
fn bad(folder: &Path) -> String {
    let error = digest::verify(folder).unwrap_err();
    assert!(error.to_string().contains(&format!("delete its {}", digest::MANIFEST)), "{error}");
    match error {
        Error::Damaged { path, reason } => format!("{} {reason}", path.strip_prefix(folder).unwrap().display()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_detected() {
    let folder = sealed();
    let weights = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    for byte in 0..8 {
        for bit in 0..8 {
            let mut bytes = b"contents".to_vec();
            bytes[byte] ^= 1 << bit;
            fs::write(&weights, bytes).unwrap();
            assert!(bad(folder.path()).starts_with("unet/diffusion_pytorch_model.safetensors has CRC-32"));
        }
    }
    fs::write(&weights, "content").unwrap();
    assert_eq!(bad(folder.path()), "unet/diffusion_pytorch_model.safetensors has 7 bytes instead of 8");
    fs::remove_file(folder.path().join("unet/config.json")).unwrap();
    assert_eq!(bad(folder.path()), "unet/config.json is missing");
    fs::write(folder.path().join("empty"), "x").unwrap();
    assert!(bad(folder.path()).starts_with("empty has 1 bytes"));
}

/// A change of any byte of the manifest is an error, except for equivalent whitespace.
#[test]
fn damaged_manifest_is_an_error() {
    let folder = sealed();
    let path = folder.path().join(digest::MANIFEST);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        fs::write(&path, &bytes).unwrap();
        if whole[at].is_ascii_whitespace() && digest::verify(folder.path()).is_ok() {
            continue;
        }
        assert!(matches!(digest::verify(folder.path()), Err(Error::Damaged { .. })), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(at + 1 == whole.len() || digest::verify(folder.path()).is_err(), "cut at {at}");
    }
    for name in ["../x", "/etc/passwd", "unet/../unet/config.json"] {
        fs::write(&path, format!(r#"{{"files":{{"{name}":{{"bytes":8,"crc32":"b4fa1177"}}}}}}"#)).unwrap();
        assert!(bad(folder.path()).contains("outside the folder"));
    }
}

/// In a container, a process that was killed can have had the id of this one.
#[test]
fn what_a_process_of_the_same_id_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("x.json");
    for number in 0..8 {
        let left = folder.path().join(format!(".x.json.tmp-{}-{number}", std::process::id()));
        std::fs::write(left, "half").unwrap();
    }
    std::fs::write(folder.path().join(".y.json.tmp-1-1"), "half").unwrap();
    write_file(&target, |file| file.write_all(b"whole")).unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "whole");
    assert_eq!(remove_leftovers_of_file(&target, Duration::ZERO).unwrap(), 8);
    assert_eq!(remove_leftovers(folder.path(), Duration::ZERO).unwrap(), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
