//! The variables of a MAT-file of level 5, as MATLAB's `save -v6` and `-v7` and SciPy's `savemat` write it: a header of 128
//! bytes, then an element for each variable, packed with zlib or not (MathWorks, "MAT-File Format", chapter 1).

use crate::error::{Error, Result};
use crate::memory::{check_unpacked, read_expected};
use files::Charge;
use flate2::bufread::ZlibDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Length of the header in bytes.
const HEADER: u64 = 128;

/// Maximum number of variables in a file.
const MAX_VARIABLES: usize = 1024;

/// Maximum length of a name in bytes. MATLAB's limit is 63.
const MAX_NAME: u32 = 255;

/// Maximum number of dimensions of an array.
const MAX_DIMENSIONS: u32 = 32;

// Types of elements.
const UINT32: u32 = 6;
const INT32: u32 = 5;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const NAMES: [u32; 3] = [1, 2, 16];

/// The types of numbers by their numbers in the format, with NumPy's names.
const NUMBERS: [(u32, &str); 10] =
    [(1, "i1"), (2, "u1"), (3, "i2"), (4, "u2"), (5, "i4"), (6, "u4"), (7, "f4"), (9, "f8"), (12, "i8"), (13, "u8")];

/// The classes of variables by their numbers in the format. Those from `double` on are arrays of numbers.
const CLASSES: [&str; 16] = [
    "", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8", "int16", "uint16", "int32",
    "uint32", "int64", "uint64",
];
const DOUBLE: usize = 6;

/// An open file and its variables.
pub(crate) struct MatFile {
    path: PathBuf,
    file: File,
    pub variables: Vec<Variable>,
}

/// A variable of a file. Its numbers are not read yet.
pub(crate) struct Variable {
    pub name: String,
    /// MATLAB's name of the class, such as `uint8`.
    pub class: &'static str,
    pub shape: Vec<u64>,
    /// The numbers, unless it is a variable of another class.
    pub numbers: Option<Numbers>,
}

/// The location of the numbers of an array, in column-major order.
pub(crate) struct Numbers {
    /// NumPy's name of their type, such as `<f8`. It may be shorter than that of the class.
    pub dtype: String,
    /// Their length in bytes.
    pub bytes: u64,
    /// The element in the file.
    element: Element,
    /// The position in the element, unpacked.
    start: u64,
}

/// An element of the file, without its tag.
#[derive(Clone, Copy)]
struct Element {
    offset: u64,
    length: u64,
    is_packed: bool,
}

impl Numbers {
    /// Returns the position in the file, unless they are packed.
    pub fn offset(&self) -> Option<u64> {
        (!self.element.is_packed).then(|| self.element.offset + self.start)
    }
}

impl MatFile {
    /// Opens a file and lists its variables.
    pub fn open(path: &Path) -> Result<MatFile> {
        let (mut file, length) = files::open_regular(path).map_err(|e| Error::io(path, e))?;
        let mut header = Vec::new();
        file.by_ref().take(HEADER).read_to_end(&mut header).map_err(|e| Error::reading(path, e))?;
        let is_big = is_big_endian(&header, path)?;
        let (mut at, mut variables) = (HEADER, Vec::new());
        while at < length {
            let mut tag = Fields::new(&file, at, is_big).map_err(|e| Error::io(path, e))?;
            let (kind, bytes) = tag.tag().map_err(|e| Error::reading(path, e))?;
            let element = Element { offset: at + tag.at, length: bytes.into(), is_packed: kind == COMPRESSED };
            if !matches!(kind, MATRIX | COMPRESSED) {
                let message = format!("is corrupt: byte {at} begins an element of type {kind}, expected a variable");
                return Err(Error::malformed(path, message));
            }
            at = element.offset + element.length;
            if at > length {
                let message = format!("is truncated: it has {length} bytes, expected {at} or more; download it again");
                return Err(Error::malformed(path, message));
            }
            if variables.len() == MAX_VARIABLES {
                let message = format!("has more than {MAX_VARIABLES} variables; save X and y alone");
                return Err(Error::malformed(path, message));
            }
            variables.push(read_variable(&file, element, is_big).map_err(|e| Error::reading(path, e))?);
        }
        Ok(MatFile { path: path.to_owned(), file, variables })
    }

    /// Returns the variable of a name.
    pub fn find(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().find(|variable| variable.name == name)
    }

    /// Returns the file.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads the numbers of an array as they are stored.
    pub fn read(&self, name: &str, numbers: &Numbers, charge: &mut Charge) -> Result<Vec<u8>> {
        let &Numbers { bytes, element, start, .. } = numbers;
        check_unpacked(&self.path, element.length, bytes, "save it with `save -v6`")?;
        let mut read = || -> io::Result<(Vec<u8>, u64)> {
            let mut source = element.open(&self.file)?;
            io::copy(&mut source.by_ref().take(start), &mut io::sink())?;
            let numbers = read_expected(source.by_ref().take(bytes), bytes, charge)?;
            // At the end, zlib's checksum is compared. An element is padded to multiples of 8 bytes.
            let rest = if element.is_packed { io::copy(&mut source.take(8), &mut io::sink())? } else { 0 };
            Ok((numbers, rest))
        };
        let (numbers, rest) = read().map_err(|e| Error::reading(&self.path, e))?;
        if numbers.len() as u64 == bytes && rest < 8 {
            return Ok(numbers);
        }
        let found = numbers.len();
        let message = match rest {
            8 => format!("is corrupt: {name} has more than the {bytes} bytes that its header claims"),
            _ => format!("is truncated: {name} has {found} bytes, but its header claims {bytes}; download it again"),
        };
        Err(Error::malformed(&self.path, message))
    }
}

impl Element {
    /// Reads the element from its start, unpacked.
    fn open(self, mut file: &File) -> io::Result<Box<dyn Read + '_>> {
        file.seek(SeekFrom::Start(self.offset))?;
        let source = BufReader::new(file.take(self.length));
        Ok(if self.is_packed { Box::new(ZlibDecoder::new(source)) } else { Box::new(source) })
    }
}

/// Checks the header, and returns whether numbers begin with the highest byte.
fn is_big_endian(header: &[u8], path: &Path) -> Result<bool> {
    let unsupported = |message: &str| Error::Unsupported { path: path.to_owned(), message: message.to_owned() };
    let is_big = match header.get(126..) {
        Some(b"IM") => false,
        Some(b"MI") => true,
        // The first number of a file of level 4, 4·1000 at most.
        _ if header.len() >= 20 && header[..4].contains(&0) => {
            let message = "is a MAT-file of level 4, or none; expected level 5: load it in MATLAB and `save -v7`";
            return Err(unsupported(message));
        }
        _ => {
            let message = "is not a MAT-file of level 5, which begins with 126 bytes of header and `IM` or `MI`";
            return Err(Error::malformed(path, message));
        }
    };
    if header.starts_with(b"MATLAB 7.3") || header[if is_big { 124 } else { 125 }] == 2 {
        return Err(unsupported(
            "is a MAT-file of version 7.3, which is HDF5 and not read; load it and `save -v7` in MATLAB, or read it with \
             h5py and write it with `scipy.io.savemat`",
        ));
    }
    Ok(is_big)
}

/// Reads the header of a variable.
fn read_variable(file: &File, element: Element, is_big: bool) -> io::Result<Variable> {
    let mut fields = Fields { source: element.open(file)?, at: 0, is_big };
    let mut end = element.length;
    if element.is_packed {
        let (kind, bytes) = fields.tag()?;
        if kind != MATRIX {
            return Err(corrupt(format!("a packed element is of type {kind}, expected a variable")));
        }
        end = fields.at + u64::from(bytes);
    }
    // MATLAB's tables, strings and function handles have a layout of their own.
    let other = |class| Variable { name: String::new(), class, shape: Vec::new(), numbers: None };
    let flags = fields.value("array flags", &[UINT32], 8..=8)?;
    let flags = fields.number([flags[0], flags[1], flags[2], flags[3]]);
    let (class, is_logical, is_complex) = (flags as usize & 0xff, flags & 0x200 != 0, flags & 0x800 != 0);
    let Some(&name_of_class) = CLASSES.get(class).filter(|_| class > 0) else { return Ok(other("object")) };
    let sizes = fields.value("dimensions", &[INT32, UINT32], 8..=4 * MAX_DIMENSIONS)?;
    let sizes = sizes.chunks_exact(4).map(|size| fields.number([size[0], size[1], size[2], size[3]]) as i32);
    let shape: Option<Vec<u64>> = sizes.map(|size| u64::try_from(size).ok()).collect();
    let shape = shape.ok_or_else(|| corrupt("a dimension is negative".into()))?;
    let name = fields.value("a name", &NAMES, 0..=MAX_NAME)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    let class_name = match () {
        () if is_complex => "complex",
        () if is_logical => "logical",
        () => name_of_class,
    };
    if class < DOUBLE || is_complex {
        return Ok(Variable { name, class: class_name, shape, numbers: None });
    }
    let (kind, bytes) = fields.tag()?;
    let Some((_, dtype)) = NUMBERS.iter().find(|(known, _)| *known == kind) else {
        return Err(corrupt(format!("its numbers are of type {kind}")));
    };
    if fields.at.saturating_add(bytes.into()) > end {
        return Err(corrupt(format!("an array has {bytes} bytes, more than its element of {end}")));
    }
    let dtype = format!("{}{dtype}", if is_big { '>' } else { '<' });
    let numbers = Some(Numbers { dtype, bytes: bytes.into(), element, start: fields.at });
    Ok(Variable { name, class: class_name, shape, numbers })
}

fn corrupt(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A reader of tagged values.
struct Fields<R> {
    source: R,
    /// Number of bytes that were read.
    at: u64,
    is_big: bool,
}

impl<'a> Fields<&'a File> {
    fn new(mut file: &'a File, at: u64, is_big: bool) -> io::Result<Self> {
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { source: file, at: 0, is_big })
    }
}

impl<R: Read> Fields<R> {
    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn word(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.source.read_exact(&mut bytes)?;
        self.at += 4;
        Ok(self.number(bytes))
    }

    /// Reads the type and the length of a value. That of up to four bytes is in one word.
    fn tag(&mut self) -> io::Result<(u32, u32)> {
        let word = self.word()?;
        match word >> 16 {
            0 => Ok((word, self.word()?)),
            bytes @ 1..=4 => Ok((word & 0xffff, bytes)),
            bytes => Err(corrupt(format!("a value of {bytes} bytes where 4 fit"))),
        }
    }

    /// Reads a value and its padding to multiples of 8 bytes. It must be of one of these types and lengths.
    fn value(&mut self, what: &str, kinds: &[u32], lengths: RangeInclusive<u32>) -> io::Result<Vec<u8>> {
        let start = self.at;
        let (kind, bytes) = self.tag()?;
        if !kinds.contains(&kind) || !lengths.contains(&bytes) {
            let most = lengths.end();
            return Err(corrupt(format!("expected {what}, at most {most} bytes, found {bytes} bytes of type {kind}")));
        }
        let tag = self.at - start;
        let padded = (tag + u64::from(bytes)).next_multiple_of(8) - tag;
        let mut value = vec![0; padded as usize];
        self.source.read_exact(&mut value)?;
        self.at += padded;
        value.truncate(bytes as usize);
        Ok(value)
    }
}
