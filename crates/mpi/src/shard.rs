//! Files of shards: the items that one of several independent processes has computed.
//!
//! A file is a sequence of records, each of a kind, a number, a length, a body and the CRC-32 of all of these. The first
//! record names the command and the shard; a section names what is computed and has its items. Records are appended as they
//! are computed, so that a shard that was killed continues.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{Error, tree};

const MAGIC: &[u8; 8] = b"ddpmshrd";
/// Kind, number and length of a record.
const HEAD: usize = 1 + 8 + 8;
/// The longest first record or section: command lines are shorter.
const MAX_TEXT: u64 = 1 << 20;

/// More computations than any command has.
const MAX_SECTIONS: usize = 1000;

/// The kinds of records.
const TITLE: u8 = 0;
const SECTION: u8 = 1;
const ITEM: u8 = 2;

/// The first record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Title {
    version: String,
    /// A JSON value of the program's.
    command: String,
    /// Anything else that decides the last bits.
    machine: String,
    shard: usize,
    of: usize,
}

/// The record before the items of a computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SectionTitle {
    key: String,
    count: usize,
}

/// The place of an item's bytes in a file.
#[derive(Clone, Debug)]
struct Place {
    start: u64,
    length: usize,
}

/// The contents of a file up to its last whole record.
struct Contents {
    title: Title,
    sections: Vec<(SectionTitle, BTreeMap<usize, Place>)>,
    /// The section of the last item.
    last: Option<SectionTitle>,
    /// The bytes of whole records.
    length: u64,
}

/// The shard that a process computes.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The command, as a JSON value that all shards have in common.
    pub command: String,
    /// Anything else that decides the last bits, such as the device. All shards must have the same.
    pub machine: String,
    /// The number of the shard, from 0.
    pub index: usize,
    /// The number of shards.
    pub of: usize,
}

/// A file of items that is being written. It is created when the first computation begins.
pub struct Recording {
    path: PathBuf,
    title: Title,
    state: Mutex<Option<State>>,
}

struct State {
    /// Locked until the process ends.
    file: File,
    contents: Contents,
    /// The section that is last in the file.
    last: Option<SectionTitle>,
}

impl Recording {
    /// Records the items of a shard in a file, or continues with what is there.
    pub fn new(path: &Path, shard: Shard) -> Self {
        let Shard { command, machine, index, of } = shard;
        let title = Title { version: env!("CARGO_PKG_VERSION").into(), command, machine, shard: index, of };
        Self { path: path.to_owned(), title, state: Mutex::new(None) }
    }

    /// Returns the items of this shard.
    pub(crate) fn share(&self, count: usize) -> Range<usize> {
        tree::share(count, self.title.shard, self.title.of)
    }

    fn open(&self) -> Result<State, Error> {
        let (path, title) = (&self.path, &self.title);
        let (fail, bad) = (|source| self.failed(source), |message: &str| self.bad(message));
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(bad("is not a regular file"));
        }
        file.try_lock().map_err(|_| bad("another process computes this shard"))?;
        let text = serde_json::to_vec(title).map_err(|error| Error::Encoding(error.to_string()))?;
        let head = [&MAGIC[..], &record(TITLE, 0, &text)].concat();
        let mut begin = vec![0; head.len().min(file.metadata().map_err(fail)?.len() as usize)];
        file.read_exact(&mut begin).map_err(fail)?;
        let contents = if begin.len() < head.len() && head.starts_with(&begin) {
            // New, or killed before its first record was complete.
            file.set_len(0).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            file.write_all(&head).map_err(fail)?;
            Contents { title: title.clone(), sections: Vec::new(), last: None, length: head.len() as u64 }
        } else {
            let contents = Contents::read(&mut file, path)?;
            if contents.title != *title {
                return Err(bad("is a shard of another command or machine; remove it, or choose another --shard-file"));
            }
            file.set_len(contents.length).map_err(fail)?;
            contents
        };
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        let last = contents.last.clone();
        Ok(State { file, contents, last })
    }

    /// Begins or continues a computation.
    pub(crate) fn section(&self, key: &str, count: usize) -> Result<Section<'_>, Error> {
        let title = SectionTitle { key: key.to_owned(), count };
        let mut state = self.lock();
        if state.is_none() {
            *state = Some(self.open()?);
        }
        let sections = state.iter().flat_map(|state| &state.contents.sections);
        let known = sections.into_iter().find(|(section, _)| *section == title);
        let items = known.map(|(_, items)| items.keys().copied().collect()).unwrap_or_default();
        Ok(Section { recording: self, title, items, share: self.share(count).len() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { path: self.path.clone(), source }
    }

    fn bad(&self, message: &str) -> Error {
        Error::Shard { path: self.path.clone(), message: message.to_owned() }
    }
}

/// A computation that is recorded.
pub(crate) struct Section<'a> {
    recording: &'a Recording,
    title: SectionTitle,
    /// The items that the file had before.
    items: BTreeSet<usize>,
    share: usize,
}

impl Section<'_> {
    /// Returns whether an item is in the file already.
    pub fn has(&self, item: usize) -> bool {
        self.items.contains(&item)
    }

    pub fn write(&mut self, item: usize, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.recording.lock();
        let Some(State { file, last, .. }) = &mut *state else { return Ok(()) };
        let mut records = Vec::new();
        if last.as_ref() != Some(&self.title) {
            let text = serde_json::to_vec(&self.title).map_err(|error| Error::Encoding(error.to_string()))?;
            records.extend(record(SECTION, 0, &text));
            *last = Some(self.title.clone());
        }
        records.extend(record(ITEM, item as u64, bytes));
        file.write_all(&records).map_err(|source| self.recording.failed(source))
    }

    /// Ends the computation. Its result is known when the shards are merged, so that this returns the error that says so.
    pub fn finish(self) -> Result<Error, Error> {
        if let Some(state) = &*self.recording.lock() {
            state.file.sync_all().map_err(|source| self.recording.failed(source))?;
        }
        Ok(Error::Recorded { path: self.recording.path.clone(), items: self.share })
    }
}

/// The files of all shards of a command.
pub struct Shards {
    files: Vec<(PathBuf, Mutex<File>, Contents)>,
}

impl Shards {
    /// Opens the files of all shards, in any order.
    ///
    /// # Errors
    /// Names the file that is damaged, of another command or there twice, or the shard that is missing.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            let fail = |source| Error::File { path: path.clone(), source };
            // A pipe would wait for a writer.
            if !std::fs::metadata(path).map_err(fail)?.is_file() {
                return Err(Error::Shard { path: path.clone(), message: "is not a regular file".into() });
            }
            let mut file = File::open(path).map_err(fail)?;
            let contents = Contents::read(&mut file, path)?;
            files.push((path.clone(), Mutex::new(file), contents));
        }
        files.sort_by_key(|(_, _, contents)| contents.title.shard);
        let fail = |path: &Path, message: String| Err(Error::Shard { path: path.to_owned(), message });
        let Some((first, _, Contents { title, .. })) = files.first() else {
            return Err(Error::Encoding("there are no shards to merge".into()));
        };
        for (expected, (path, _, contents)) in files.iter().enumerate() {
            let found = &contents.title;
            if found.version != title.version {
                return fail(
                    path,
                    format!("was written by ddpm {}, {} by {}", found.version, first.display(), title.version),
                );
            }
            if (&found.command, found.of) != (&title.command, title.of) {
                return fail(
                    path,
                    format!(
                        "is a shard of another command than {}: {} of {}, not {} of {}",
                        first.display(),
                        found.command,
                        found.of,
                        title.command,
                        title.of
                    ),
                );
            }
            if found.machine != title.machine {
                let (here, there) = (&found.machine, &title.machine);
                return fail(
                    path,
                    format!("was computed with {here}, {} with {there}, which round differently", first.display()),
                );
            }
            match found.shard {
                shard if shard < expected => {
                    return fail(path, format!("is the second file of shard {} of {}", shard + 1, found.of));
                }
                shard if shard > expected => {
                    return fail(path, format!("shard {} of {} is missing", expected + 1, found.of));
                }
                _ => {}
            }
        }
        if files.len() < title.of {
            return fail(first, format!("shard {} of {} is missing", files.len() + 1, title.of));
        }
        Ok(Self { files })
    }

    /// Returns the command of the shards.
    pub fn command(&self) -> &str {
        &self.files[0].2.title.command
    }

    /// Returns the number of shards.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Reads an item.
    pub(crate) fn read(&self, key: &str, count: usize, item: usize) -> Result<Vec<u8>, Error> {
        let shard = (0..self.files.len()).find(|&shard| tree::share(count, shard, self.files.len()).contains(&item));
        let (path, file, contents) = &self.files[shard.unwrap_or(0)];
        let fail = |message: String| Error::Shard { path: path.clone(), message };
        let title = SectionTitle { key: key.to_owned(), count };
        let section = contents.sections.iter().find(|(section, _)| *section == title);
        let Some((_, items)) = section else {
            return Err(fail(match contents.sections.is_empty() {
                true => "is not finished: run the same shard again".to_owned(),
                false => "has results of another model, other images or other options".to_owned(),
            }));
        };
        let Some(place) = items.get(&item) else {
            return Err(fail("is not finished: run the same shard again, and it continues".into()));
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; place.length];
        file.seek(SeekFrom::Start(place.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(bytes)
    }
}

impl Contents {
    /// Reads a file up to its end, or to the first record that is not whole.
    fn read(file: &mut File, path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::File { path: path.to_owned(), source };
        let bad = |message: &str| Error::Shard { path: path.to_owned(), message: message.to_owned() };
        let size = file.metadata().map_err(fail)?.len();
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut reader = io::BufReader::new(file);
        let mut magic = [0; MAGIC.len()];
        if reader.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Err(bad("is not the file of a shard"));
        }
        let mut at = MAGIC.len() as u64;
        let mut contents: Option<Self> = None;
        // The section of the items that follow.
        let mut current = None;
        loop {
            let mut head = [0; HEAD];
            if reader.read_exact(&mut head).is_err() {
                break;
            }
            let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
            let (kind, index, length) = (head[0], number(1), number(9));
            let start = at + HEAD as u64;
            let Some(end) = start.checked_add(length).and_then(|end| end.checked_add(4)).filter(|&end| end <= size)
            else {
                break;
            };
            let mut digest = crc32fast::Hasher::new();
            digest.update(&head);
            let mut text = Vec::new();
            match kind {
                // Items are large, and are read when they are needed.
                ITEM => {
                    let mut body = reader.by_ref().take(length);
                    let mut buffer = [0; 1 << 14];
                    loop {
                        match body.read(&mut buffer).map_err(fail)? {
                            0 => break,
                            read => digest.update(&buffer[..read]),
                        }
                    }
                }
                _ if length > MAX_TEXT => break,
                _ => {
                    reader.by_ref().take(length).read_to_end(&mut text).map_err(fail)?;
                    digest.update(&text);
                }
            }
            let mut sum = [0; 4];
            if reader.read_exact(&mut sum).is_err() || sum != digest.finalize().to_le_bytes() {
                break;
            }
            match (kind, &mut contents) {
                (TITLE, None) => {
                    let title: Title = serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?;
                    if title.of == 0 || title.shard >= title.of {
                        return Err(bad("has a number that is not below the number of shards"));
                    }
                    contents = Some(Self { title, sections: Vec::new(), last: None, length: end });
                }
                (SECTION, Some(contents)) if contents.sections.len() < MAX_SECTIONS => {
                    let title: SectionTitle = serde_json::from_slice(&text).map_err(|error| bad(&error.to_string()))?;
                    // A shard that was interrupted may have returned to an earlier section.
                    let known = contents.sections.iter().position(|(section, _)| *section == title);
                    current = Some(known.unwrap_or(contents.sections.len()));
                    if known.is_none() {
                        contents.sections.push((title.clone(), BTreeMap::new()));
                    }
                    contents.last = Some(title);
                    contents.length = end;
                }
                (ITEM, Some(Self { sections, length: whole, .. })) => {
                    let Some(current) = current else { return Err(bad("has items before a section")) };
                    let (_, items) = &mut sections[current];
                    items.insert(index as usize, Place { start, length: length as usize });
                    *whole = end;
                }
                _ => return Err(bad("has records in another order")),
            }
            at = end;
        }
        contents.ok_or_else(|| bad("is a damaged shard; remove it and compute it again"))
    }
}

/// Returns the bytes of a record.
fn record(kind: u8, number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + body.len() + 4);
    bytes.push(kind);
    bytes.extend(number.to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    let mut digest = crc32fast::Hasher::new();
    digest.update(&bytes);
    bytes.extend(digest.finalize().to_le_bytes());
    bytes
}
