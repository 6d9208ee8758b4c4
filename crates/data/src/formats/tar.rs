//! Tar archives of images and webdataset shards. Labels come from folders and label files, as in a folder of images, or
//! from webdataset's `.cls` and `.json` files. Plain archives are read without unpacking; compressed ones are unpacked in
//! memory.
//!
//! A `.tar.gz` may expand to 256 times its size and 64 MiB, and to the memory limit. Otherwise the memory is in proportion to
//! the number of files, about 256 bytes for each block of 512. Names have at most 4096 bytes, labels 1024, and the `.json`
//! file of an image 1 MiB.

use super::files::{extension, file_not_downloaded, is_gzip, is_hidden, normalized_bytes, open_decompressed};
use super::tree::{self, IMAGE_EXTENSIONS};
use super::{labels, shards};
use crate::encoded::ImageBytes;
use crate::error::{Error, Result};
use crate::memory::{Meter, check_unpacked, entry_bytes};
use crate::options::{LabelFrom, ReadOptions, Split};
use crate::report::BadFile;
use crate::source::{Discovered, Format};
use ::files::{Unchanged, without_shortage};
use flate2::read::MultiGzDecoder;
use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const FORMAT: Format = Format {
    expected: "a .tar or .tar.gz of images, or a folder of such shards (webdataset: labels from .cls or .json files)",
    detect: |path| shards::detect(path, &EXTENSIONS),
    open,
};

const EXTENSIONS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// Block size of tar: headers have this size, and data is padded to a multiple of it.
const BLOCK: u64 = 512;

/// Maximum length of a member's name, and of the attributes that can contain it. Linux allows paths of 4096 bytes.
pub(crate) const MAX_NAME: usize = 4096;
const MAX_ATTRIBUTES: u64 = 64 << 10;

/// Maximum size of the `.cls` or `.json` file of an image.
const MAX_SIDECAR_BYTES: u64 = 1 << 20;

/// Maximum number of bytes read after the end of an archive. tar pads archives to 10 KiB.
const MAX_TRAILER: u64 = 1 << 20;

/// Maximum number of unpacked bytes in which [`first_names`] looks for names.
const MAX_DETECTED: u64 = 64 << 20;

pub(crate) fn is_archive(path: &Path) -> bool {
    shards::has_extension(path, &EXTENSIONS)
}

/// A file in a shard.
#[derive(Clone, Copy)]
struct Member {
    shard: usize,
    /// Whether the shard was compressed, so that its images are in [`Index::unpacked`].
    in_memory: bool,
    /// Offset of the data in the shard, or in [`Index::unpacked`].
    start: u64,
    length: u64,
}

/// The files of all shards.
#[derive(Default)]
struct Index {
    names: Vec<String>,
    members: Vec<Member>,
    /// Labels in webdataset's format, by shard and sample key.
    labels: HashMap<(usize, String), String>,
    /// The key of `.json` files that has the labels. Defaults to any of the usual ones.
    column: Option<String>,
    bad: Vec<BadFile>,
    /// Concatenated images of compressed shards.
    unpacked: Vec<u8>,
    /// The memory of all of the above.
    meter: Meter,
}

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    // Names of shards determine the split. A single archive can also have a folder for each split.
    let (shards, split) = match shards::find(path, &EXTENSIONS, options) {
        Err(Error::NoHeldOut { .. }) if path.is_file() => (vec![path.to_owned()], Split::Test),
        shards => (shards?, Split::Train),
    };
    let column = match &options.label_from {
        LabelFrom::Column(column) => Some(column.clone()),
        _ => None,
    };
    let mut index = Index { column, ..Index::default() };
    for (number, shard) in shards.iter().enumerate() {
        let _reading = ::files::Reading::new(shard);
        index.add(number, shard, options.memory_limit_bytes)?;
    }
    let Index { names, members, labels, mut bad, unpacked, meter, .. } = index;
    let unpacked = Arc::new(unpacked);
    let states: Arc<[Unchanged]> = shards.iter().map(|_| Unchanged::default()).collect();
    let path_of = |index: usize| shards[members[index].shard].join(&names[index]);
    let read = |index: usize| {
        let member =
            members[index].open(&shards, &states, &unpacked).map_err(|e| Error::reading(&path_of(index), e))?;
        labels::read_bytes(&path_of(index), member.source, member.length)
    };
    // Labels of webdataset precede those of folders and tables.
    let is_labeled = !labels.is_empty() && options.label_from != LabelFrom::FileName;
    let label_from = if is_labeled { &LabelFrom::Folder } else { &options.label_from };
    let mut part = tree::select(path, &names, split, label_from, &read)?;
    let sidecar_labels =
        |&image: &usize| labels.get(&(members[image].shard, sample_key(&names[image]).to_owned())).map(String::as_str);
    let sidecar_labels: Vec<_> = part.images.iter().map(sidecar_labels).collect();
    if is_labeled && sidecar_labels.iter().any(Option::is_some) {
        let first = |missing: usize| names[part.images[missing]].clone();
        (part.labels, part.class_names) = labels::to_indices(path, &sidecar_labels, first)?;
    }
    for bad in &mut bad {
        if let Some(cause) = file_not_downloaded(&bad.path) {
            bad.reason = format!("{cause} ({})", bad.reason);
        }
    }
    part.bad = bad;
    part.charge = meter.into_charge();
    part.into_discovered("tar", path, path_of, |images| {
        let members: Vec<Member> = images.iter().map(|&index| members[index]).collect();
        let (shards, states, unpacked) = (shards.clone(), Arc::clone(&states), Arc::clone(&unpacked));
        Box::new(move |index| members[index].open(&shards, &states, &unpacked))
    })
}

impl Member {
    fn open(&self, shards: &[PathBuf], states: &[Unchanged], unpacked: &Arc<Vec<u8>>) -> io::Result<ImageBytes> {
        let (start, length) = (self.start, self.length);
        if self.in_memory {
            let mut bytes = Cursor::new(SharedBytes(Arc::clone(unpacked)));
            bytes.set_position(start);
            return Ok(ImageBytes { source: Box::new(bytes.take(length)), length });
        }
        let (mut file, _) = states[self.shard].open(&shards[self.shard])?;
        file.seek(SeekFrom::Start(start))?;
        Ok(ImageBytes { source: Box::new(file.take(length)), length })
    }
}

/// Bytes that all images of compressed shards share.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Index {
    /// Adds a member, and the memory of it.
    fn push(&mut self, name: String, member: Member) -> io::Result<()> {
        self.meter.add(entry_bytes(name.len()))?;
        self.names.push(name);
        self.members.push(member);
        Ok(())
    }

    /// Adds the files of a shard. A corrupt shard is reported, and the files before the damage are added.
    fn add(&mut self, shard: usize, path: &Path, limit: u64) -> Result<()> {
        let outcome = without_shortage(|| match is_gzip(path) {
            true => self.add_compressed(shard, path, limit),
            false => self.add_plain(shard, path),
        });
        match outcome.map_err(|e| Error::io(path, e))? {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(error)) => return Err(error),
            Err(e) => self.bad.push(BadFile { path: path.to_owned(), reason: error_message(&e) }),
        }
        Ok(())
    }

    /// Lists images that are links or sparse files as bad.
    fn report_skipped(&mut self, path: &Path, skipped: Vec<String>) {
        let reason = "is a link or a sparse file, which is not read; pack the archive with `tar --dereference \
                      --hard-dereference`";
        self.bad.extend(skipped.into_iter().map(|name| BadFile { path: path.join(name), reason: reason.to_owned() }));
    }

    fn add_plain(&mut self, shard: usize, path: &Path) -> io::Result<ControlFlow<Error>> {
        let (file, length) = ::files::open_regular(path)?;
        let mut archive = tar::Archive::new(file);
        let (mut end, mut skipped) = (0, Vec::new());
        let outcome = for_each_file(archive.entries_with_seek()?, &mut skipped, |name, entry| {
            let (start, size) = (entry.raw_file_position(), entry.size());
            end = start.saturating_add(size).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            if start.saturating_add(size) <= length {
                self.read_label(shard, &name, entry)?;
                self.push(name, Member { shard, in_memory: false, start, length: size })?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.report_skipped(path, skipped);
        self.check_trailer(path, archive.into_inner())?;
        // An archive that was truncated between two files only lacks the empty block at its end.
        if end.saturating_add(BLOCK) > length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(outcome)
    }

    fn add_compressed(&mut self, shard: usize, path: &Path, limit: u64) -> io::Result<ControlFlow<Error>> {
        let (file, length) = ::files::open_regular(path)?;
        let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::new(file)));
        let before = self.unpacked.len() as u64 + self.members.len() as u64 * BLOCK;
        let mut skipped = Vec::new();
        let outcome = for_each_file(archive.entries()?, &mut skipped, |name, entry| {
            self.read_label(shard, &name, entry)?;
            let start = self.unpacked.len() as u64;
            let is_kept = IMAGE_EXTENSIONS.contains(&extension(&name).as_str())
                || labels::LABEL_FILES.iter().any(|f| name.ends_with(f));
            // Headers count too, because a small archive can have millions of empty files.
            let headers = self.members.len() as u64 * BLOCK;
            let bytes = start.saturating_add(if is_kept { entry.size() } else { 0 }).saturating_add(headers);
            if bytes > limit {
                let fix = "unpack it with gunzip so that it can be streamed, or raise the memory limit";
                return Ok(ControlFlow::Break(Error::TooLarge { path: path.to_owned(), bytes, limit, fix }));
            }
            if let Err(error) = check_unpacked(path, length, bytes - before, "unpack it with gunzip") {
                return Ok(ControlFlow::Break(error));
            }
            if is_kept && self.unpack(entry)? != entry.size() {
                self.unpacked.truncate(start as usize);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let length = self.unpacked.len() as u64 - start;
            self.push(name, Member { shard, in_memory: true, start, length })?;
            Ok(ControlFlow::Continue(()))
        })?;
        self.report_skipped(path, skipped);
        // Reading to the end verifies gzip's checksum.
        self.check_trailer(path, archive.into_inner())?;
        Ok(outcome)
    }

    /// Reads what follows the end of an archive, and reports another archive there: `cat` can have joined them.
    fn check_trailer(&mut self, path: &Path, rest: impl Read) -> io::Result<()> {
        let mut trailer = Vec::new();
        rest.take(MAX_TRAILER).read_to_end(&mut trailer)?;
        let is_header = |block: &[u8]| {
            let header = tar::Header::from_byte_slice(block);
            let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
            // The checksum itself counts as spaces.
            header.cksum().is_ok_and(|found| found == sum(&block[..148]) + 8 * 32 + sum(&block[156..]))
        };
        if trailer.chunks_exact(BLOCK as usize).any(is_header) {
            let reason = "has another archive after its end, which is not read; put each into a file of its own";
            self.bad.push(BadFile { path: path.to_owned(), reason: reason.to_owned() });
        }
        Ok(())
    }

    /// Appends the content of a member to the unpacked images, and returns its length. The buffer is at most doubled, and only
    /// as the member's bytes are there, since its header can claim any size.
    fn unpack(&mut self, entry: &mut impl Read) -> io::Result<u64> {
        const STEP: u64 = 1 << 20;
        let start = self.unpacked.len();
        loop {
            let room = (self.unpacked.capacity() - self.unpacked.len()) as u64;
            if room < STEP {
                let more = STEP.max(self.unpacked.capacity() as u64);
                self.meter.add(more)?;
                self.unpacked.reserve_exact((room + more) as usize);
            }
            if entry.by_ref().take(STEP).read_to_end(&mut self.unpacked)? < STEP as usize {
                return Ok((self.unpacked.len() - start) as u64);
            }
        }
    }

    /// Reads a label in webdataset's format: the text of a `.cls` file, or a key of a `.json` file.
    fn read_label(&mut self, shard: usize, name: &str, entry: &mut impl Read) -> io::Result<()> {
        let end = extension(name);
        if (end != "cls" && end != "json") || labels::LABEL_FILES.iter().any(|file| name.ends_with(file)) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        entry.take(MAX_SIDECAR_BYTES).read_to_end(&mut bytes)?;
        let label = match end.as_str() {
            "cls" if self.column.is_some() => None,
            "cls" => String::from_utf8(bytes).ok().map(|text| text.trim().to_owned()).filter(|label| is_text(label)),
            _ => {
                let usual = labels::LABEL_COLUMNS.iter().chain(&["cls"]).copied();
                let keys: Vec<&str> = self.column.as_deref().map_or_else(|| usual.collect(), |column| vec![column]);
                labels::Row::parse(&bytes, &keys).ok().and_then(|row| {
                    let value = |key: &&str| row.first(Path::new(name), &[*key]).ok().flatten();
                    keys.iter().find_map(|key| labels::label_text(&value(key)?))
                })
            }
        };
        if let Some(label) = label.filter(|label| label.len() <= labels::MAX_LABEL) {
            let key = (shard, sample_key(name).to_owned());
            self.meter.add(entry_bytes(key.1.len() + label.len()))?;
            // `.cls` takes precedence.
            if end == "cls" {
                self.labels.insert(key, label);
            } else {
                self.labels.entry(key).or_insert(label);
            }
        }
        Ok(())
    }
}

/// Returns whether a label is text, and not a number in binary form.
fn is_text(label: &str) -> bool {
    !label.is_empty() && !label.contains(char::is_control)
}

/// Returns webdataset's sample key: the name up to the first dot of its last component.
fn sample_key(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// Calls `visit` with the [normalized](normalized_bytes) name of each file that is not hidden, until it breaks. Long names are read here
/// and not by the tar crate, which does not limit their length.
pub(crate) fn for_each_file<'a, R: Read, B>(
    entries: tar::Entries<'a, R>,
    skipped: &mut Vec<String>,
    mut visit: impl FnMut(String, &mut tar::Entry<'a, R>) -> io::Result<ControlFlow<B>>,
) -> io::Result<ControlFlow<B>> {
    let (mut long, mut size) = (None, None);
    for entry in entries.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            let name = read_extension(&mut entry)?;
            long = Some(name.strip_suffix(b"\0").unwrap_or(&name).to_vec());
        } else if kind.is_pax_local_extensions() {
            let extensions = read_extension(&mut entry)?;
            for extension in tar::PaxExtensions::new(&extensions).flatten() {
                match extension.key_bytes() {
                    b"path" => long = Some(extension.value_bytes().to_vec()),
                    b"size" => size = Some(extension.value_bytes().to_vec()),
                    _ => {}
                }
            }
        } else if !kind.is_gnu_longlink() && !kind.is_pax_global_extensions() {
            let name = long.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            if name.len() > MAX_NAME {
                return Err(refused(format!("has a name of {} bytes; expected {MAX_NAME} or fewer", name.len())));
            }
            // Files of 8 GiB and more have their size in an attribute only.
            if let Some(size) = size.take()
                && std::str::from_utf8(&size).ok().and_then(|size| size.parse().ok()) != Some(entry.size())
            {
                return Err(refused("has a file with two sizes, as files of 8 GiB and more; leave it out".to_owned()));
            }
            let name = normalized_bytes(&name);
            if !(kind.is_file() || kind.is_contiguous()) {
                if !kind.is_dir() && tree::is_image(&name) && !is_hidden(&name) {
                    skipped.push(name);
                }
            } else if !is_hidden(&name) {
                let flow = visit(name, &mut entry)?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads a member that contains the name or attributes of the next one.
fn read_extension(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_ATTRIBUTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_ATTRIBUTES {
        return Err(refused(format!("has a name or attributes of more than {MAX_ATTRIBUTES} bytes")));
    }
    Ok(bytes)
}

/// Something that an archive may have, and that is not read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Refused(message))
}

/// Returns the first `count` names in an archive, or fewer if the archive has fewer or is corrupt.
pub(crate) fn first_names(path: &Path, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut first = || {
        for_each_file(
            tar::Archive::new(open_decompressed(path)?.0.take(MAX_DETECTED)).entries()?,
            &mut Vec::new(),
            |name, _| {
                names.push(name);
                Ok(if names.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            },
        )
    };
    // Errors are reported when the archive is opened.
    let _ = first();
    names
}

/// Returns an error message. Those of the tar crate quote the content of numeric fields, which is noise in a file that is
/// not an archive.
pub(crate) fn error_message(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.to_string(),
        None if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) => error.to_string(),
        None if error.kind() == io::ErrorKind::OutOfMemory => error.to_string(),
        None => "is truncated or not a tar archive; download it again".to_owned(),
    }
}
