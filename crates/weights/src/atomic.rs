//! Atomic writes: files and folders appear completely or not at all, even if the program or the machine crashes.
//!
//! Everything is written under a temporary name in the folder of its target, synchronized to the disk, and then
//! renamed. A rename alone is not enough: without the synchronization, a file system may keep the new name and lose the
//! contents (Pillai et al., "All file systems are not created equal", OSDI 2014).

use crate::{Error, Result};
use files::parent;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The treatment of a folder that already exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep it, and fail with [`Error::Exists`].
    Refuse,
    /// Replace it with the new one.
    Replace,
}

/// Writes the file `path` with the bytes that `write` writes, and replaces an existing file.
///
/// A symbolic link is followed. A device or pipe (`/dev/stdout`) is written to directly.
///
/// # Errors
/// If `write` or the system fails (disk full, no permission, no such folder). An existing file is then unchanged.
pub fn write_file(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let fail = || Error::write(path);
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => return Err(Error::file(path, "is a folder, not a file")),
        Ok(metadata) if !metadata.is_file() => {
            let mut file = OpenOptions::new().write(true).open(&target).map_err(fail())?;
            return write(&mut file).and_then(|()| file.flush()).map_err(fail());
        }
        _ => {}
    }
    replace(path, &target, |file| write(file))
}

/// Writes the file `path` as [`write_file`] does, and replaces whatever is there, a link, a device or a pipe too. It is for
/// files of this program's own: writing to a pipe waits for a reader.
///
/// # Errors
/// As [`write_file`].
pub fn replace_file(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    replace(path, path, |file| write(file))
}

/// Writes the file `path` as [`write_file`] does, for formats whose writers seek. What goes to a device or pipe is put
/// together in a temporary file first.
///
/// # Errors
/// As [`write_file`].
pub fn write_seekable_file(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => Err(Error::file(path, "is a folder, not a file")),
        Ok(metadata) if !metadata.is_file() => {
            let folder = std::env::temp_dir();
            let temporary = Temporary::sibling(&folder.join("ddpm"))?;
            replace(path, &temporary.path, write)?;
            let fail = || Error::write(path);
            let mut from = File::open(&temporary.path).map_err(fail())?;
            let mut to = OpenOptions::new().write(true).open(&target).map_err(fail())?;
            io::copy(&mut from, &mut to).map(drop).map_err(fail())
        }
        _ => replace(path, &target, write),
    }
}

/// Writes a temporary file beside `target` and renames it to that; errors name `path`.
fn replace(path: &Path, target: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let fail = || Error::write(path);
    let temporary = Temporary::sibling(target)?;
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary.path).map_err(fail())?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    write(&mut file).map_err(fail())?;
    let file = file.into_inner().map_err(|error| fail()(error.into_error()))?;
    file.sync_all().map_err(fail())?;
    drop(file);
    fs::rename(&temporary.path, target).map_err(fail())?;
    temporary.keep();
    sync_folder(parent(target)).map_err(fail())
}

/// Writes the folder `path`: `build` fills a temporary folder in the same parent, which is then renamed.
///
/// Replacing a folder takes two renames. Between them, for microseconds, nothing is at `path`; the old folder is then
/// complete under its temporary name `.NAME.tmp-…`.
///
/// # Errors
/// If the folder exists and must not be replaced, or `build` or the system fails. An existing folder is then unchanged.
pub fn write_folder<E: From<Error>>(
    path: impl AsRef<Path>,
    existing: Existing,
    build: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let fail = || Error::write(path);
    check_target(path, existing)?;
    let new = Temporary::sibling(path)?;
    fs::create_dir(&new.path).map_err(fail())?;
    build(&new.path)?;
    sync_all(&new.path)?;

    // Checked again, since `build` may have taken minutes.
    if check_target(path, existing)? == Target::Free {
        fs::rename(&new.path, path).map_err(fail())?;
        new.keep();
        sync_folder(parent(path)).map_err(fail())?;
    } else {
        let old = Temporary::sibling(path)?;
        fs::rename(path, &old.path).map_err(fail())?;
        if let Err(error) = fs::rename(&new.path, path) {
            // If this fails too, the old folder remains under its temporary name.
            let _ = fs::rename(&old.path, path);
            old.keep();
            return Err(fail()(error).into());
        }
        new.keep();
        // `old` is dropped, which removes the old folder, only after the new one is on the disk.
        sync_folder(parent(path)).map_err(fail())?;
    }
    Ok(())
}

/// Removes the folder `path` so that it never exists in part: it gets a temporary name first.
///
/// # Errors
/// If it cannot be renamed or removed.
pub fn remove_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let fail = || Error::write(path);
    let old = Temporary::sibling(path)?;
    fs::rename(path, &old.path).map_err(fail())?;
    fs::remove_dir_all(&old.path).map_err(fail())
}

#[derive(PartialEq)]
enum Target {
    /// Nothing is there.
    Free,
    /// A folder is there that may be replaced.
    Folder,
}

/// Checks that a folder may be written to `path`.
fn check_target(path: &Path, existing: Existing) -> Result<Target> {
    match (path.symlink_metadata(), existing) {
        (Err(_), _) => Ok(Target::Free),
        (Ok(_), Existing::Refuse) => Err(Error::Exists { path: path.to_owned() }),
        (Ok(_), Existing::Replace) if path.is_dir() => Ok(Target::Folder),
        (Ok(_), Existing::Replace) => Err(Error::file(path, "is not a folder, and only a folder can be replaced")),
    }
}

/// Removes the temporary files and folders in `folder` that killed processes left behind, and returns their number.
///
/// Only names of the form `.NAME.tmp-PROCESS-NUMBER` are removed, and only those of other processes that were last
/// modified at least `age` ago. With an age of zero, no other process may be writing to the folder.
///
/// # Errors
/// If the folder cannot be read. If an entry cannot be removed, the error is returned after all others are.
pub fn remove_leftovers(folder: impl AsRef<Path>, age: Duration) -> Result<usize> {
    remove_leftovers_of(folder.as_ref(), None, age)
}

/// Removes what killed processes left of writing `target`, as [`remove_leftovers`] does.
///
/// # Errors
/// As [`remove_leftovers`].
pub fn remove_leftovers_of_file(target: impl AsRef<Path>, age: Duration) -> Result<usize> {
    let target = target.as_ref();
    match target.file_name().and_then(OsStr::to_str) {
        Some(name) => remove_leftovers_of(parent(target), Some(name), age),
        None => Ok(0),
    }
}

fn remove_leftovers_of(folder: &Path, target: Option<&str>, age: Duration) -> Result<usize> {
    let (mut removed, mut failure) = (0, None);
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let name = entry.file_name();
        let Some((of, process, number)) = name.to_str().and_then(writer) else { continue };
        if target.is_some_and(|target| of != target) {
            continue;
        }
        let metadata = entry.metadata().map_err(Error::read(&path))?;
        let idle = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        // In a container, a process that was killed can have had the same id.
        let is_own = process == std::process::id() && number >= first_number();
        if is_own || idle < age {
            continue;
        }
        match if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) } {
            Ok(()) => removed += 1,
            Err(error) => failure = failure.or(Some(Error::write(&path)(error))),
        }
    }
    failure.map_or(Ok(removed), Err)
}

/// Returns the name that a temporary name is for, the id of the process that made it, and its number; `None` for any other
/// name.
fn writer(name: &str) -> Option<(&str, u32, u64)> {
    let (name, suffix) = name.strip_prefix('.')?.rsplit_once(".tmp-")?;
    let (process, number) = suffix.split_once('-')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let is_temporary = !name.is_empty() && digits(process) && digits(number);
    is_temporary.then(|| Some((name, process.parse().ok()?, number.parse().ok()?)))?
}

/// Returns the first number of this process's temporary names. It is the time of its first one, since the id of a process
/// alone is that of another one later, and in containers of most.
fn first_number() -> u64 {
    static FIRST: LazyLock<u64> = LazyLock::new(|| {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        time.as_nanos() as u64
    });
    *FIRST
}

/// A temporary path. The file or folder there is removed on drop, also after an error or a panic, unless
/// [`keep`](Self::keep) was called.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// Makes a new name in the folder of `target`, so that a rename never crosses file systems.
    fn sibling(target: &Path) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name() else {
            return Err(Error::file(target, "does not end in the name of a file or folder to write"));
        };
        let number = first_number() + COUNT.fetch_add(1, Ordering::Relaxed);
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".tmp-{}-{number}", std::process::id()));
        Ok(Temporary { path: target.with_file_name(temporary), kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // A failure is ignored: `remove_leftovers` can remove the rest later.
            let _ = match self.path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&self.path),
                Ok(_) => fs::remove_file(&self.path),
                Err(_) => Ok(()),
            };
        }
    }
}

/// Synchronizes everything under `folder`, and the folder itself, to the disk.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::read(&path))?;
        if kind.is_dir() {
            sync_all(&path)?;
        } else if kind.is_file() {
            // Windows can only synchronize a file that is open for writing.
            let file = OpenOptions::new().write(true).open(&path).map_err(Error::write(&path))?;
            file.sync_all().map_err(Error::write(&path))?;
        }
    }
    sync_folder(folder).map_err(Error::write(folder))
}

/// Synchronizes the names in `folder` to the disk, where the system supports it: not on Windows, nor on some network
/// file systems.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        match File::open(folder)?.sync_all() {
            Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                Err(error)
            }
            _ => Ok(()),
        }
    } else {
        Ok(())
    }
}
