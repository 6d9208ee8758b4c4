//! Pages of a Parquet column, its smallest readable units. They are located once, and decoded when one of their rows is
//! read. They are decompressed here and not by the parquet crate, which trusts the sizes in a page's header.

use crate::options::MAX_IMAGE_BYTES;
use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

type Result<T> = std::result::Result<T, String>;

/// Maximum size of the cache of decoded pages.
const CACHE_BYTES: usize = 64 << 20;

/// A column of a row group.
pub(super) struct ColumnChunk {
    path: PathBuf,
    column: ColumnChunkMetaData,
    compression: Compression,
    pub rows: usize,
    /// Position and first row of each data page.
    pages: Vec<(usize, usize)>,
}

impl ColumnChunk {
    /// Reads the page headers of a column in a file of `length` bytes.
    pub fn new(path: &Path, length: u64, column: &ColumnChunkMetaData, rows: usize) -> Result<ColumnChunk> {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, bytes) = (u64::try_from(start).ok(), u64::try_from(column.compressed_size()).ok());
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        if end.is_none_or(|end| end > length) {
            return Err("is truncated or corrupt: a column is outside the file".to_owned());
        }
        // Repeated values take almost no space, so a small file could claim any number of rows.
        if rows as u64 > length {
            return Err(format!("claims {rows} rows in {length} bytes"));
        }
        // Declared uncompressed, so that the parquet crate returns pages as they are.
        let compression = column.compression();
        let raw = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED);
        let column = raw.build().map_err(|e| error_message(&e))?;
        let mut chunk = ColumnChunk { path: path.to_owned(), column, compression, rows, pages: Vec::new() };

        let (mut reader, mut position, mut first) = (chunk.reader()?, 0, 0usize);
        while let Some(page) = reader.peek_next_page().map_err(|e| error_message(&e))? {
            if let Some(count) = page.num_levels.filter(|&count| count > 0 && !page.is_dict) {
                chunk.pages.push((position, first));
                first = first.saturating_add(count);
            }
            reader.skip_next_page().map_err(|e| error_message(&e))?;
            position += 1;
        }
        if first != rows {
            return Err(format!("is truncated or corrupt: a column has {first} values for {rows} rows"));
        }
        Ok(chunk)
    }

    pub fn kind(&self) -> Type {
        self.column.column_type()
    }

    fn reader(&self) -> Result<SerializedPageReader<File>> {
        // Each reader opens the file, because clones of a file share their position.
        let file = File::open(&self.path).map_err(|e| e.to_string())?;
        SerializedPageReader::new(Arc::new(file), &self.column, self.rows, None).map_err(|e| error_message(&e))
    }

    /// Returns the number of rows in a page.
    fn page_rows(&self, page: usize) -> usize {
        self.pages.get(page + 1).map_or(self.rows, |next| next.1) - self.pages[page].1
    }

    /// Decodes a page, with the column's dictionary if necessary.
    fn page(&self, page: usize) -> Result<Vec<Option<ByteArray>>> {
        let mut reader = self.reader()?;
        for _ in 0..self.pages[page].0 {
            reader.skip_next_page().map_err(|e| error_message(&e))?;
        }
        let data = reader
            .get_next_page()
            .map_err(|e| error_message(&e))?
            .ok_or("has changed: it has fewer pages than when it was opened")?;
        let mut pages = VecDeque::from([data]);
        if pages[0].encoding() != Encoding::PLAIN
            && let Some(dictionary) = reader.take_deferred_dictionary().map_err(|e| error_message(&e))?
        {
            pages.push_front(dictionary);
        }
        decode_values::<ByteArrayType>(self, pages, self.page_rows(page))
    }
}

/// Reads all values of a column, such as the labels.
pub(super) fn read_column<T: DataType>(chunk: &ColumnChunk) -> Result<Vec<Option<T::T>>> {
    let pages = chunk.reader()?.collect::<std::result::Result<VecDeque<Page>, _>>().map_err(|e| error_message(&e))?;
    decode_values::<T>(chunk, pages, chunk.rows)
}

/// Decompresses and decodes pages with `rows` values in total.
fn decode_values<T: DataType>(chunk: &ColumnChunk, pages: VecDeque<Page>, rows: usize) -> Result<Vec<Option<T::T>>> {
    let pages = pages.into_iter().map(|page| decompress_page(page, chunk)).collect::<Result<VecDeque<Page>>>()?;
    let column = chunk.column.column_descr_ptr();
    let present = column.max_def_level();
    let mut reader = ColumnReaderImpl::<T>::new(column, Box::new(PageQueue(pages)));
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (count, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values).map_err(|e| error_message(&e))?;
    if present == 0 {
        levels = vec![0; count];
    }
    let found = levels.iter().filter(|&&level| level == present).count();
    if count != rows || levels.len() != rows || values.len() != found {
        return Err(format!("is corrupt: expected {rows} values, found {count}"));
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect())
}

/// Decompresses a page, and checks that its header claims no more values than it contains.
fn decompress_page(page: Page, chunk: &ColumnChunk) -> Result<Page> {
    let supported = |encoding| match encoding {
        Encoding::PLAIN | Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY => Ok(encoding),
        other => Err(format!("has values in the unsupported encoding {other}; write them plain or with a dictionary")),
    };
    let decompress = |bytes: &[u8]| decompress(chunk.compression, bytes);
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
            let min_size = if chunk.kind() == Type::INT64 { 8 } else { 4 };
            if num_values as usize > buf.len() / min_size {
                return Err(format!("is corrupt: a dictionary of {num_values} values in {} bytes", buf.len()));
            }
            Page::DictionaryPage { buf: buf.into(), num_values, encoding: supported(encoding)?, is_sorted }
        }
    })
}

fn decompress(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
    let all = |source: &mut dyn Read| {
        let mut out = Vec::new();
        source.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut out).map_err(|e| format!("is corrupt: {e}"))?;
        if out.len() as u64 > MAX_IMAGE_BYTES {
            return Err(format!("has a page of more than {} MiB", MAX_IMAGE_BYTES >> 20));
        }
        Ok(out)
    };
    match compression {
        Compression::UNCOMPRESSED => Ok(bytes.to_vec()),
        Compression::SNAPPY => {
            // Snappy's densest code copies 64 bytes with three.
            let size = snap::raw::decompress_len(bytes).map_err(|e| format!("is corrupt: {e}"))?;
            if size as u64 > MAX_IMAGE_BYTES || size / 22 > bytes.len() {
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

/// Decompressed pages as input of the parquet crate's column reader.
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
}

struct CachedPage {
    /// Indices of the chunk and the page.
    at: (usize, usize),
    values: Arc<Vec<Option<ByteArray>>>,
    bytes: usize,
}

impl PagedColumn {
    pub fn add(&mut self, chunk: ColumnChunk) {
        self.firsts.push(self.rows);
        self.rows += chunk.rows;
        self.chunks.push(chunk);
    }

    /// Returns the bytes in a row.
    pub fn value(&self, row: usize) -> io::Result<ByteArray> {
        // The last chunk that starts at or before the row, because an empty chunk starts at the same row as the next one.
        let chunk = self.firsts.partition_point(|&first| first <= row) - 1;
        let row = row - self.firsts[chunk];
        let page = self.chunks[chunk].pages.partition_point(|page| page.1 <= row) - 1;
        let values = self.page((chunk, page)).map_err(io::Error::other)?;
        let value = values[row - self.chunks[chunk].pages[page].1].clone();
        value.ok_or_else(|| io::Error::other("has no bytes: the row is null or has only a path"))
    }

    fn page(&self, at: (usize, usize)) -> Result<Arc<Vec<Option<ByteArray>>>> {
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = cache().iter().find(|page| page.at == at) {
            return Ok(Arc::clone(&page.values));
        }
        // Decode without holding the lock, so that other threads can decode other pages.
        let values = Arc::new(catch_panic(|| self.chunks[at.0].page(at.1))?);
        let bytes = values.iter().flatten().map(|value| value.len() + size_of::<ByteArray>()).sum();
        let mut cache = cache();
        cache.push_back(CachedPage { at, values: Arc::clone(&values), bytes });
        let mut total: usize = cache.iter().map(|page| page.bytes).sum();
        while total > CACHE_BYTES && cache.len() > 1 {
            total -= cache.pop_front().map_or(0, |page| page.bytes);
        }
        Ok(values)
    }
}

/// Turns a panic into an error, because the parquet crate panics on some corrupt files.
pub(super) fn catch_panic<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("is corrupt: its pages cannot be read".to_owned()))
}

/// Formats an error of the parquet crate on one line.
pub(super) fn error_message(error: &ParquetError) -> String {
    let text = match error {
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
