//! Pages of a Parquet column, its smallest readable units. They are located once, and decoded when one of their rows is
//! read. They are decompressed here and not by the parquet crate, which trusts the sizes in a page's header.

use crate::memory::{Meter, most_unpacked, read_expected};
use crate::options::MAX_IMAGE_BYTES;
use bytes::Bytes;
use files::{Charge, Unchanged};
use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Result<T> = std::result::Result<T, String>;

/// Maximum size of the cache of decoded pages.
const CACHE_BYTES: u64 = 64 << 20;

/// Number of rows of a column that are decoded at once.
const BATCH: usize = 4096;

/// A column of a row group.
pub(super) struct ColumnChunk {
    path: PathBuf,
    column: ColumnChunkMetaData,
    compression: Compression,
    pub rows: usize,
    unchanged: Unchanged,
    dictionary: Option<Span>,
    /// Place and first row of each data page.
    pages: Vec<(Span, usize)>,
}

/// The offset of a page in the file, and its length with the header.
type Span = (u64, u64);

/// A file that remembers where it was read last, since the parquet crate does not tell where a page begins.
struct Recorder {
    file: File,
    last: AtomicU64,
}

impl Length for Recorder {
    fn len(&self) -> u64 {
        Length::len(&self.file)
    }
}

impl ChunkReader for Recorder {
    type T = <File as ChunkReader>::T;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.last.store(start, Ordering::Relaxed);
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

impl ColumnChunk {
    /// Reads the page headers of a column in a file of `length` bytes.
    pub fn new(path: &Path, length: u64, column: &ColumnChunkMetaData, rows: usize, meter: &mut Meter) -> Result<Self> {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, bytes) = (u64::try_from(start).ok(), u64::try_from(column.compressed_size()).ok());
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= length) else {
            return Err("is truncated or corrupt: a column is outside the file".to_owned());
        };
        // Declared uncompressed, so that the parquet crate returns pages as they are.
        let compression = column.compression();
        let raw = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED);
        let column = raw.build().map_err(|e| error_message(&e))?;
        let add = |meter: &mut Meter, bytes: usize| meter.add(bytes as u64).map_err(|e| e.to_string());
        add(meter, 2 * size_of::<ColumnChunkMetaData>() + size_of::<ColumnChunk>() + path.as_os_str().len())?;
        let mut chunk = ColumnChunk {
            path: path.to_owned(),
            column,
            compression,
            rows,
            unchanged: Unchanged::default(),
            dictionary: None,
            pages: Vec::new(),
        };

        let file = Arc::new(Recorder { file: chunk.file()?, last: AtomicU64::new(0) });
        let reader = SerializedPageReader::new(Arc::clone(&file), &chunk.column, rows, None);
        let (mut reader, mut first) = (reader.map_err(|e| error_message(&e))?, 0usize);
        // The end of a page is the start of the next one.
        let mut open: Option<(u64, Option<usize>)> = None;
        let close = |chunk: &mut ColumnChunk, open: Option<(u64, Option<usize>)>, end: u64| match open {
            Some((start, Some(first))) => chunk.pages.push(((start, end - start), first)),
            Some((start, None)) => chunk.dictionary = Some((start, end - start)),
            None => {}
        };
        while let Some(page) = reader.peek_next_page().map_err(|e| error_message(&e))? {
            let at = file.last.load(Ordering::Relaxed);
            close(&mut chunk, open.take(), at);
            if page.is_dict {
                open = Some((at, None));
            } else if let Some(count) = page.num_levels.filter(|&count| count > 0) {
                add(meter, 2 * size_of::<(Span, usize)>())?;
                open = Some((at, Some(first)));
                first = first.saturating_add(count);
            }
            reader.skip_next_page().map_err(|e| error_message(&e))?;
        }
        close(&mut chunk, open, end);
        if first != rows {
            return Err(format!("is truncated or corrupt: a column has {first} values for {rows} rows"));
        }
        Ok(chunk)
    }

    pub fn kind(&self) -> Type {
        self.column.column_type()
    }

    fn file(&self) -> Result<File> {
        // Each reader opens the file, because clones of a file share their position.
        self.unchanged.open(&self.path).map(|(file, _)| file).map_err(|e| e.to_string())
    }

    fn reader(&self) -> Result<SerializedPageReader<File>> {
        SerializedPageReader::new(Arc::new(self.file()?), &self.column, self.rows, None).map_err(|e| error_message(&e))
    }

    /// Reads the page at a place.
    fn read_page(&self, (start, length): Span) -> Result<Page> {
        let is_dictionary = self.dictionary == Some((start, length));
        let (start, length) = (start.cast_signed(), length.cast_signed());
        let column = self.column.clone().into_builder().set_total_compressed_size(length).set_data_page_offset(start);
        let column = column.set_dictionary_page_offset(is_dictionary.then_some(start)).build();
        let column = column.map_err(|e| error_message(&e))?;
        let reader = SerializedPageReader::new(Arc::new(self.file()?), &column, self.rows, None);
        let page = reader.and_then(|mut reader| reader.get_next_page()).map_err(|e| error_message(&e))?;
        page.ok_or_else(|| "has changed: it has fewer pages than when it was opened".to_owned())
    }

    /// Returns the number of rows in a page.
    fn page_rows(&self, page: usize) -> usize {
        self.pages.get(page + 1).map_or(self.rows, |next| next.1) - self.pages[page].1
    }

    /// Decodes a page, with the column's dictionary if necessary.
    fn page(&self, page: usize) -> Result<DecodedPage> {
        let place = self.pages[page].0;
        // All that the page and its dictionary may take while they are decoded.
        let unpacked = |(_, length): Span| length + most_decompressed(self.compression, length);
        let rows = self.page_rows(page);
        let row_bytes = (rows * ROW_BYTES) as u64;
        let most = unpacked(place) + self.dictionary.map_or(0, |place| 2 * unpacked(place));
        let _charge = Charge::brief(most + row_bytes).map_err(|e| e.to_string())?;
        let mut pages = VecDeque::from([self.decompressed(self.read_page(place)?)?]);
        if pages[0].encoding() != Encoding::PLAIN
            && let Some(place) = self.dictionary
        {
            pages.push_front(self.decompressed(self.read_page(place)?)?);
        }
        // The values of a dictionary are slices of its buffer, with 32 bytes each.
        let buffers: usize = pages.iter().map(|page| page.buffer().len() + dictionary_bytes(page)).sum();
        let bytes = buffers as u64 + row_bytes;
        let charge = Charge::new(bytes).map_err(|e| e.to_string())?;
        let mut values = Vec::with_capacity(rows);
        read_values::<ByteArrayType>(self, Box::new(PageQueue(pages)), rows, &mut |value| {
            values.push(value);
            Ok(())
        })?;
        Ok(DecodedPage { values, bytes, _charge: charge })
    }

    fn decompressed(&self, page: Page) -> Result<Page> {
        decompress_page(page, self.compression, self.kind())
    }
}

/// Memory of the value of a row, and of its levels and parts while it is decoded.
const ROW_BYTES: usize = 3 * size_of::<Option<ByteArray>>();

fn dictionary_bytes(page: &Page) -> usize {
    if page.is_dictionary_page() { page.num_values() as usize * 2 * size_of::<ByteArray>() } else { 0 }
}

/// Calls `each` with every value of a column, such as the labels.
pub(super) fn for_each_value<T: DataType>(
    chunk: &ColumnChunk,
    each: &mut dyn FnMut(Option<T::T>) -> Result<()>,
) -> Result<()> {
    let pages = Decompressed {
        reader: chunk.reader()?,
        compression: chunk.compression,
        kind: chunk.kind(),
        dictionary: Charge::default(),
        page: Charge::default(),
    };
    read_values::<T>(chunk, Box::new(pages), chunk.rows, each)
}

/// Decodes `rows` values of pages, and calls `each` with every one.
fn read_values<T: DataType>(
    chunk: &ColumnChunk,
    pages: Box<dyn PageReader>,
    rows: usize,
    each: &mut dyn FnMut(Option<T::T>) -> Result<()>,
) -> Result<()> {
    let column = chunk.column.column_descr_ptr();
    let present = column.max_def_level();
    let mut reader = ColumnReaderImpl::<T>::new(column, pages);
    let mut left = rows;
    while left > 0 {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let wanted = left.min(BATCH);
        let read = reader.read_records(wanted, Some(&mut levels), None, &mut values);
        let (count, ..) = read.map_err(|e| error_message(&e))?;
        if present == 0 {
            levels = vec![0; count];
        }
        let found = levels.iter().filter(|&&level| level == present).count();
        if count == 0 || count > wanted || levels.len() != count || values.len() != found {
            return Err(format!("is corrupt: expected {rows} values, found {}", rows - left + found.min(left)));
        }
        let mut values = values.into_iter();
        for level in levels {
            each(if level == present { values.next() } else { None })?;
        }
        left -= count;
    }
    Ok(())
}

/// Decompresses a page, and checks that its header claims no more values than it contains.
fn decompress_page(page: Page, compression: Compression, kind: Type) -> Result<Page> {
    let supported = |encoding| match encoding {
        Encoding::PLAIN | Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY => Ok(encoding),
        other => Err(format!("has values in the unsupported encoding {other}; write them plain or with a dictionary")),
    };
    let decompress = |bytes: &[u8]| decompress(compression, bytes);
    Ok(match page {
        Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => Page::DataPage {
            buf: decompress(&buf)?.into(),
            num_values,
            encoding: supported(encoding)?,
            def_level_encoding,
            rep_level_encoding,
            statistics: None,
        },
        Page::DataPageV2 {
            buf,
            num_values,
            encoding,
            num_nulls,
            num_rows,
            def_levels_byte_len,
            rep_levels_byte_len,
            is_compressed,
            ..
        } => {
            // The levels that precede the values are never compressed.
            let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
            let (levels, values) = buf.split_at_checked(levels).ok_or("is corrupt: a page ends within its levels")?;
            let values = if is_compressed { decompress(values)? } else { values.to_vec() };
            Page::DataPageV2 {
                buf: [levels, &values].concat().into(),
                num_values,
                encoding: supported(encoding)?,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed: false,
                statistics: None,
            }
        }
        Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
            let buf = decompress(&buf)?;
            // An integer takes 8 bytes; byte arrays have a 4-byte length prefix.
            let min_size = if kind == Type::INT64 { 8 } else { 4 };
            if num_values as usize > buf.len() / min_size {
                return Err(format!("is corrupt: a dictionary of {num_values} values in {} bytes", buf.len()));
            }
            Page::DictionaryPage { buf: buf.into(), num_values, encoding: supported(encoding)?, is_sorted }
        }
    })
}

/// Returns the size to which `length` bytes may be decompressed.
fn most_decompressed(compression: Compression, length: u64) -> u64 {
    match compression {
        Compression::UNCOMPRESSED => length,
        // Snappy's densest code copies 64 bytes with three.
        Compression::SNAPPY => length.saturating_mul(22).min(MAX_IMAGE_BYTES),
        _ => most_unpacked(length).min(MAX_IMAGE_BYTES),
    }
}

fn decompress(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
    let most = most_decompressed(compression, bytes.len() as u64);
    let too_large = || format!("has a page of {} bytes that expands to more than {most}", bytes.len());
    // The caller has charged for the most.
    let all = |source: &mut dyn Read| {
        let out = read_expected(source, most, &mut Charge::default()).map_err(|e| format!("is corrupt: {e}"))?;
        if out.len() as u64 > most { Err(too_large()) } else { Ok(out) }
    };
    match compression {
        Compression::UNCOMPRESSED => Ok(bytes.to_vec()),
        Compression::SNAPPY => {
            let size = snap::raw::decompress_len(bytes).map_err(|e| format!("is corrupt: {e}"))?;
            if size as u64 > most {
                return Err(format!("has a page that claims {size} bytes, compressed to {}", bytes.len()));
            }
            snap::raw::Decoder::new().decompress_vec(bytes).map_err(|e| format!("is corrupt: {e}"))
        }
        Compression::GZIP(_) => all(&mut MultiGzDecoder::new(bytes)),
        Compression::ZSTD(_) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| format!("is corrupt: {e}"))?;
            all(&mut { decoder })
        }
        other => Err(format!(
            "is compressed with {other}, which is not supported; write it with snappy, zstd, gzip or no compression"
        )),
    }
}

/// The pages of a column, each decompressed when the one before has been decoded.
struct Decompressed {
    reader: SerializedPageReader<File>,
    compression: Compression,
    kind: Type,
    dictionary: Charge,
    page: Charge,
}

impl Decompressed {
    fn decompress(&mut self, page: Page) -> Result<Page> {
        // The page before is decoded, but the dictionary stays in memory.
        self.page = Charge::default();
        let length = page.buffer().len() as u64;
        self.page = Charge::new(length + most_decompressed(self.compression, length)).map_err(|e| e.to_string())?;
        let page = decompress_page(page, self.compression, self.kind)?;
        if page.is_dictionary_page() {
            let bytes = (page.buffer().len() + dictionary_bytes(&page)) as u64;
            self.dictionary.grow(bytes).map_err(|e| e.to_string())?;
        }
        Ok(page)
    }
}

impl Iterator for Decompressed {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Decompressed {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        let Some(page) = self.reader.get_next_page()? else { return Ok(None) };
        self.decompress(page).map(Some).map_err(ParquetError::General)
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        self.reader.peek_next_page()
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.reader.skip_next_page()
    }
}

/// Decompressed pages of one column.
struct PageQueue(VecDeque<Page>);

impl Iterator for PageQueue {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(Ok)
    }
}

impl PageReader for PageQueue {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.0.pop_front();
        Ok(())
    }
}

/// A column of all row groups and files, with a cache of decoded pages.
#[derive(Default)]
pub(super) struct PagedColumn {
    chunks: Vec<ColumnChunk>,
    /// First row of each chunk.
    firsts: Vec<usize>,
    rows: usize,
    cache: Mutex<VecDeque<CachedPage>>,
    /// The errors of pages that cannot be decoded, so that it is not tried again for each row.
    failed: Mutex<BTreeMap<(usize, usize), String>>,
}

struct CachedPage {
    /// Indices of the chunk and the page.
    at: (usize, usize),
    page: Arc<DecodedPage>,
}

/// The values of a page.
struct DecodedPage {
    values: Vec<Option<ByteArray>>,
    /// The memory of the values, and of the buffers of the page and the dictionary, in which they are.
    bytes: u64,
    _charge: Charge,
}

/// The bytes in a row. They keep the memory of their page.
pub(super) struct RowBytes {
    page: Arc<DecodedPage>,
    row: usize,
}

impl AsRef<[u8]> for RowBytes {
    fn as_ref(&self) -> &[u8] {
        self.page.values[self.row].as_ref().map_or(&[], |value| value.data())
    }
}

impl PagedColumn {
    pub fn add(&mut self, chunk: ColumnChunk) {
        self.firsts.push(self.rows);
        self.rows += chunk.rows;
        self.chunks.push(chunk);
    }

    /// Returns the bytes in a row.
    pub fn value(&self, row: usize) -> io::Result<RowBytes> {
        // The last chunk that starts at or before the row, because an empty chunk starts at the same row as the next one.
        let chunk = self.firsts.partition_point(|&first| first <= row) - 1;
        let row = row - self.firsts[chunk];
        let number = self.chunks[chunk].pages.partition_point(|page| page.1 <= row) - 1;
        let page = self.page((chunk, number)).map_err(io::Error::other)?;
        let row = row - self.chunks[chunk].pages[number].1;
        if page.values.get(row).is_none_or(Option::is_none) {
            return Err(io::Error::other("has no bytes: the row is null or has only a path"));
        }
        Ok(RowBytes { page, row })
    }

    fn page(&self, at: (usize, usize)) -> Result<Arc<DecodedPage>> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache().iter().find(|cached| cached.at == at) {
            return Ok(Arc::clone(&cached.page));
        }
        let failed = || self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed().get(&at) {
            return Err(error.clone());
        }
        // Decode without holding the lock, so that other threads can decode other pages.
        let page = self.chunks[at.0].page(at.1).inspect_err(|error| {
            // Not those of the system, which may pass.
            if error.starts_with("is ") || error.starts_with("has a page") {
                failed().insert(at, error.clone());
            }
        })?;
        let page = Arc::new(page);
        let mut cache = cache();
        cache.push_back(CachedPage { at, page: Arc::clone(&page) });
        let mut total: u64 = cache.iter().map(|cached| cached.page.bytes).sum();
        while total > CACHE_BYTES && cache.len() > 1 {
            total -= cache.pop_front().map_or(0, |cached| cached.page.bytes);
        }
        Ok(page)
    }
}

/// Formats an error of the parquet crate on one line.
pub(super) fn error_message(error: &ParquetError) -> String {
    let text = match error {
        // Those of this file, and of the parquet crate.
        ParquetError::General(text) if ["is ", "has "].iter().any(|verb| text.starts_with(verb)) => {
            return text.clone();
        }
        ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::NYI(text) => text.clone(),
        other => other.to_string(),
    };
    let text: String = text.chars().take(300).collect();
    format!("is truncated or not Parquet: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn decompresses_every_codec() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&bytes[..], ruzstd::encoding::CompressionLevel::Fastest);
        let packed = [
            (Compression::UNCOMPRESSED, bytes.clone()),
            (Compression::SNAPPY, snap::raw::Encoder::new().compress_vec(&bytes).unwrap()),
            (Compression::GZIP(Default::default()), gzip.finish().unwrap()),
            (Compression::ZSTD(Default::default()), zstd),
        ];
        for (compression, packed) in packed {
            assert!(decompress(compression, &packed).unwrap() == bytes, "{compression}");
            if compression != Compression::UNCOMPRESSED {
                assert!(decompress(compression, &packed[..packed.len() / 2]).is_err(), "{compression}");
            }
        }
        assert!(decompress(Compression::LZ4_RAW, &bytes).unwrap_err().contains("snappy"));
        // Five bytes that claim to decompress to 4 GiB.
        assert!(decompress(Compression::SNAPPY, &[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().contains("claims"));
    }
}
