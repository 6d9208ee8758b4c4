//! Tar archives of images and webdataset's shards: read like a folder, or with the labels that webdataset keeps in
//! files beside each image. A plain archive is read in place; a compressed one can only be unpacked whole.

use super::tree::{self, READ, extension, is_hidden, normal};
use super::{Format, file_name, is_gzip, labels};
use crate::error::{Error, Result};
use crate::options::{Options, Split};
use crate::set::Found;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const FORMAT: Format = Format {
    expected: "a .tar or .tar.gz of images, or a folder of such shards (webdataset: labels from .cls or .json files)",
    recognise: |path| {
        if path.is_file() {
            return is_archive(path);
        }
        tree::are_shards(path, &ENDS)
    },
    open,
};

const ENDS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// What sizes in an archive are rounded up to, in bytes.
const BLOCK: u64 = 512;

/// The longest name of a member.
const MAX_NAME: u64 = 64 << 10;

/// The most that a `.cls` or `.json` beside an image may have.
const MAX_SIDE_BYTES: u64 = 1 << 20;

/// The longest label, in bytes.
const MAX_LABEL: usize = 1 << 10;

/// How many bytes of empty blocks are read behind an archive; tar rounds it up to 10 KiB.
const MAX_END: u64 = 1 << 20;

pub(crate) fn is_archive(path: &Path) -> bool {
    let name = file_name(path);
    ENDS.iter().any(|end| name.ends_with(end))
}

/// A file inside a shard.
#[derive(Clone, Copy)]
struct Member {
    shard: usize,
    /// Whether the shard is compressed, and its images are in memory.
    is_unpacked: bool,
    /// Where it begins, in the shard or in what was unpacked.
    start: u64,
    length: u64,
}

/// What is found while the shards are gone through.
#[derive(Default)]
struct Index {
    names: Vec<String>,
    members: Vec<Member>,
    /// Webdataset's labels, by shard and key.
    labels: HashMap<(usize, String), String>,
    bad: Vec<(PathBuf, String)>,
    /// The images of compressed shards, one after another.
    unpacked: Vec<u8>,
}

fn open(path: &Path, options: &Options) -> Result<Found> {
    // The part of several shards is in their names, that of one archive may be in the folders inside.
    let (shards, split) = match tree::shards(path, &ENDS, options) {
        Err(Error::NoHeldOut { .. }) if path.is_file() => (vec![path.to_owned()], Split::Test),
        shards => (shards?, Split::Train),
    };
    let mut index = Index::default();
    for (number, shard) in shards.iter().enumerate() {
        index.add(number, shard, options.memory_limit_bytes)?;
    }
    let Index { names, members, labels, bad, unpacked } = index;
    let unpacked = Arc::new(unpacked);
    let place = |index: usize| shards[members[index].shard].join(&names[index]);
    let read = |index: usize| {
        let source = members[index].open(&shards, &unpacked).map_err(|e| Error::reading(&place(index), e))?;
        labels::bytes(&place(index), source)
    };
    let mut part = tree::part(path, &names, split, &read)?;
    let beside = |&image: &usize| labels.get(&(members[image].shard, key(&names[image]).to_owned()));
    let beside: Vec<_> = part.images.iter().map(beside).collect();
    if beside.iter().any(Option::is_some) {
        let first = |missing: usize| names[part.images[missing]].clone();
        (part.labels, part.class_names) = labels::classes(path, &beside, first)?;
    }
    part.found("tar", path, place, bad, |images| {
        let members: Vec<Member> = images.iter().map(|&index| members[index]).collect();
        let (shards, unpacked) = (shards.clone(), Arc::clone(&unpacked));
        Box::new(move |index| members[index].open(&shards, &unpacked))
    })
}

impl Member {
    fn open(&self, shards: &[PathBuf], unpacked: &[u8]) -> io::Result<Box<dyn Read>> {
        if self.is_unpacked {
            let (start, length) = (self.start as usize, self.length as usize);
            return Ok(Box::new(Cursor::new(unpacked[start..][..length].to_vec())));
        }
        let mut file = File::open(&shards[self.shard])?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(Box::new(file.take(self.length)))
    }
}

impl Index {
    /// Goes through a shard. One that is damaged is reported, and has the files before the damage.
    fn add(&mut self, shard: usize, path: &Path, limit: u64) -> Result<()> {
        let gone = if is_gzip(path) { self.add_packed(shard, path, limit) } else { self.add_plain(shard, path) };
        match gone {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(error)) => return Err(error),
            Err(e) => self.bad.push((path.to_owned(), reason(&e))),
        }
        Ok(())
    }

    fn add_plain(&mut self, shard: usize, path: &Path) -> io::Result<ControlFlow<Error>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut archive = tar::Archive::new(file);
        let mut end = 0;
        let gone = each(archive.entries_with_seek()?, |name, entry| {
            let (start, size) = (entry.raw_file_position(), entry.size());
            end = start.saturating_add(size).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            if start.saturating_add(size) <= length {
                self.label(shard, &name, entry)?;
                self.names.push(name);
                self.members.push(Member { shard, is_unpacked: false, start, length: size });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // What was cut off between two files looks whole but for the empty block at the end.
        if end.saturating_add(BLOCK) > length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(gone)
    }

    fn add_packed(&mut self, shard: usize, path: &Path, limit: u64) -> io::Result<ControlFlow<Error>> {
        let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::new(File::open(path)?)));
        let gone = each(archive.entries()?, |name, entry| {
            self.label(shard, &name, entry)?;
            let start = self.unpacked.len() as u64;
            let is_kept = READ.contains(&extension(&name).as_str()) || labels::FILES.iter().any(|f| name.ends_with(f));
            // The heads count too: nothing packs better than a million empty files.
            let heads = self.members.len() as u64 * BLOCK;
            let bytes = start.saturating_add(if is_kept { entry.size() } else { 0 }).saturating_add(heads);
            if bytes > limit {
                let fix = "unpack it with gunzip to have it read in place, or raise the memory limit";
                return Ok(ControlFlow::Break(Error::TooLarge { path: path.to_owned(), bytes, limit, fix }));
            }
            if is_kept && entry.read_to_end(&mut self.unpacked)? as u64 != entry.size() {
                self.unpacked.truncate(start as usize);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = self.unpacked.len() as u64 - start;
            self.names.push(name);
            self.members.push(Member { shard, is_unpacked: true, start, length });
            Ok(ControlFlow::Continue(()))
        })?;
        // Behind the archive are empty blocks, and the checksum of the compressed file.
        io::copy(&mut archive.into_inner().take(MAX_END), &mut io::sink())?;
        Ok(gone)
    }

    /// Takes the label that webdataset keeps beside an image: a number in a `.cls`, or a key of a `.json`.
    fn label(&mut self, shard: usize, name: &str, entry: &mut impl Read) -> io::Result<()> {
        let end = extension(name);
        if (end != "cls" && end != "json") || labels::FILES.iter().any(|file| name.ends_with(file)) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        entry.take(MAX_SIDE_BYTES).read_to_end(&mut bytes)?;
        let label = match end.as_str() {
            "cls" => Some(String::from_utf8_lossy(&bytes).trim().to_owned()),
            _ => serde_json::from_slice::<Map<String, Value>>(&bytes).ok().and_then(|object| {
                labels::COLUMNS.iter().chain(&["cls"]).find_map(|key| labels::text(object.get(*key)?))
            }),
        };
        if let Some(label) = label.filter(|label| label.len() <= MAX_LABEL) {
            let key = (shard, key(name).to_owned());
            // A sample that has both tells it by the .cls.
            if end == "cls" {
                self.labels.insert(key, label);
            } else {
                self.labels.entry(key).or_insert(label);
            }
        }
        Ok(())
    }
}

/// What the files of a webdataset's sample have in common: the name up to the first dot of its last part.
fn key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// Shows the files of an archive with their [`normal`] names, hidden ones left out, until told to stop. Long names are
/// put together here and not by the reader, which would unpack a "name" of any length.
pub(crate) fn each<'a, R: Read, B>(
    entries: tar::Entries<'a, R>,
    mut visit: impl FnMut(String, &mut tar::Entry<'a, R>) -> io::Result<ControlFlow<B>>,
) -> io::Result<ControlFlow<B>> {
    let mut long = None;
    for entry in entries.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            let name = describes(&mut entry)?;
            long = Some(name.strip_suffix(b"\0").unwrap_or(&name).to_vec());
        } else if kind.is_pax_local_extensions() {
            let extensions = describes(&mut entry)?;
            let path =
                tar::PaxExtensions::new(&extensions).flatten().find(|extension| extension.key_bytes() == b"path");
            long = path.map(|path| path.value_bytes().to_vec()).or(long);
        } else if !kind.is_gnu_longlink() && !kind.is_pax_global_extensions() {
            let name = long.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            let name = normal(&String::from_utf8_lossy(&name));
            if kind.is_file() && !is_hidden(&name) {
                let flow = visit(name, &mut entry)?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads a member that describes the next one.
fn describes(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_NAME + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_NAME { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
}

/// The first names in an archive, as many as can be read of `count`.
pub(crate) fn first_names(path: &Path, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut first = || {
        let file = BufReader::new(File::open(path)?);
        let source: Box<dyn Read> = if is_gzip(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        each(tar::Archive::new(source).entries()?, |name, _| {
            names.push(name);
            Ok(if names.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
    };
    // What is wrong with the archive is told when it is opened.
    let _ = first();
    names
}

/// The reader's own messages quote what it took for numbers, which in a file that is no archive is noise.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.to_string(),
        None => "is truncated or not a tar archive; fetch it again".to_owned(),
    }
}
