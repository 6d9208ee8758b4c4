//! Pages of a Parquet column, the least that can be read of one: found once, then decoded when a row of theirs is
//! asked for. Unpacked here and not by the reader, which believes the sizes that a page's head claims.

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

/// The most bytes of decoded pages that are kept for the next rows.
const KEPT_BYTES: usize = 64 << 20;

/// One column in one group of rows.
pub(super) struct Chunk {
    path: PathBuf,
    column: ColumnChunkMetaData,
    compression: Compression,
    pub rows: usize,
    /// Of each page with rows: its place among the pages, and its first row.
    pages: Vec<(usize, usize)>,
}

impl Chunk {
    /// Looks at the heads of a column's pages in a file of `length` bytes.
    pub fn new(path: &Path, length: u64, column: &ColumnChunkMetaData, rows: usize) -> Result<Chunk> {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, bytes) = (u64::try_from(start).ok(), u64::try_from(column.compressed_size()).ok());
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        if end.is_none_or(|end| end > length) {
            return Err("is truncated or corrupt: a column lies outside the file".to_owned());
        }
        // Repeated values take next to nothing: without this, a small file could have rows without end.
        if rows as u64 > length {
            return Err(format!("claims {rows} rows in {length} bytes"));
        }
        // To the reader it is uncompressed, so that it hands out the pages as they are.
        let compression = column.compression();
        let raw = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED);
        let column = raw.build().map_err(|e| reason(&e))?;
        let mut chunk = Chunk { path: path.to_owned(), column, compression, rows, pages: Vec::new() };

        let (mut reader, mut place, mut first) = (chunk.reader()?, 0, 0usize);
        while let Some(page) = reader.peek_next_page().map_err(|e| reason(&e))? {
            if let Some(count) = page.num_levels.filter(|&count| count > 0 && !page.is_dict) {
                chunk.pages.push((place, first));
                first = first.saturating_add(count);
            }
            reader.skip_next_page().map_err(|e| reason(&e))?;
            place += 1;
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
        // Opened anew: readers of one file would share the place at which they are.
        let file = File::open(&self.path).map_err(|e| e.to_string())?;
        SerializedPageReader::new(Arc::new(file), &self.column, self.rows, None).map_err(|e| reason(&e))
    }

    /// The rows of the page with this number.
    fn rows_of(&self, page: usize) -> usize {
        self.pages.get(page + 1).map_or(self.rows, |next| next.1) - self.pages[page].1
    }

    /// Decodes the page with this number, with the column's dictionary if it needs that.
    fn page(&self, page: usize) -> Result<Vec<Option<ByteArray>>> {
        let mut reader = self.reader()?;
        for _ in 0..self.pages[page].0 {
            reader.skip_next_page().map_err(|e| reason(&e))?;
        }
        let data = reader.get_next_page().map_err(|e| reason(&e))?.ok_or("has fewer pages than it had")?;
        let mut pages = VecDeque::from([data]);
        if pages[0].encoding() != Encoding::PLAIN
            && let Some(dictionary) = reader.take_deferred_dictionary().map_err(|e| reason(&e))?
        {
            pages.push_front(dictionary);
        }
        values::<ByteArrayType>(self, pages, self.rows_of(page))
    }
}

/// All values of a column, such as the labels.
pub(super) fn read_whole<T: DataType>(chunk: &Chunk) -> Result<Vec<Option<T::T>>> {
    let pages = chunk.reader()?.collect::<std::result::Result<VecDeque<Page>, _>>().map_err(|e| reason(&e))?;
    values::<T>(chunk, pages, chunk.rows)
}

/// Decodes the `rows` values of pages as they are in the file.
fn values<T: DataType>(chunk: &Chunk, pages: VecDeque<Page>, rows: usize) -> Result<Vec<Option<T::T>>> {
    let pages = pages.into_iter().map(|page| unpacked(page, chunk)).collect::<Result<VecDeque<Page>>>()?;
    let column = chunk.column.column_descr_ptr();
    let present = column.max_def_level();
    let mut reader = ColumnReaderImpl::<T>::new(column, Box::new(Fed(pages)));
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (count, ..) = reader.read_records(rows, Some(&mut levels), None, &mut values).map_err(|e| reason(&e))?;
    if present == 0 {
        levels = vec![0; count];
    }
    let found = levels.iter().filter(|&&level| level == present).count();
    if count != rows || levels.len() != rows || values.len() != found {
        return Err(format!("is corrupt: {rows} values are promised, {count} are there"));
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect())
}

/// A page without its compression, once its head is seen to promise no more than it holds.
fn unpacked(page: Page, chunk: &Chunk) -> Result<Page> {
    let known = |encoding| match encoding {
        Encoding::PLAIN | Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY => Ok(encoding),
        other => Err(format!("has values in the encoding {other}; write them plain or with a dictionary")),
    };
    let unpack = |bytes: &[u8]| unpack(chunk.compression, bytes);
    Ok(match page {
        Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, .. } => Page::DataPage {
            buf: unpack(&buf)?.into(),
            num_values,
            encoding: known(encoding)?,
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
            // The levels before the values are never compressed.
            let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
            let (levels, values) = buf.split_at_checked(levels).ok_or("is corrupt: a page ends in its levels")?;
            let values = if is_compressed { unpack(values)? } else { values.to_vec() };
            Page::DataPageV2 {
                buf: [levels, &values].concat().into(),
                num_values,
                encoding: known(encoding)?,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed: false,
                statistics: None,
            }
        }
        Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
            let buf = unpack(&buf)?;
            // A number takes its size, bytes their length before them.
            let least = if chunk.kind() == Type::INT64 { 8 } else { 4 };
            if num_values as usize > buf.len() / least {
                return Err(format!("is corrupt: a dictionary of {num_values} values in {} bytes", buf.len()));
            }
            Page::DictionaryPage { buf: buf.into(), num_values, encoding: known(encoding)?, is_sorted }
        }
    })
}

fn unpack(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
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
            // Its densest code repeats 64 bytes in three.
            let size = snap::raw::decompress_len(bytes).map_err(|e| format!("is corrupt: {e}"))?;
            if size as u64 > MAX_IMAGE_BYTES || size / 22 > bytes.len() {
                return Err(format!("has a page that claims {size} bytes, packed in {}", bytes.len()));
            }
            snap::raw::Decoder::new().decompress_vec(bytes).map_err(|e| format!("is corrupt: {e}"))
        }
        Compression::GZIP(_) => all(&mut MultiGzDecoder::new(bytes)),
        Compression::ZSTD(_) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| format!("is corrupt: {e}"))?;
            all(&mut { decoder })
        }
        other => Err(format!("is compressed with {other}; write it with snappy, zstd, gzip or nothing")),
    }
}

/// Pages that are handed to a column's reader.
struct Fed(VecDeque<Page>);

impl Iterator for Fed {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(Ok)
    }
}

impl PageReader for Fed {
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

/// The rows of a column through many groups and files, and the pages that were read last.
#[derive(Default)]
pub(super) struct Pages {
    chunks: Vec<Chunk>,
    /// The first row of each.
    firsts: Vec<usize>,
    rows: usize,
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    /// Chunk and page.
    at: (usize, usize),
    values: Arc<Vec<Option<ByteArray>>>,
    bytes: usize,
}

impl Pages {
    pub fn add(&mut self, chunk: Chunk) {
        self.firsts.push(self.rows);
        self.rows += chunk.rows;
        self.chunks.push(chunk);
    }

    /// The bytes in a row.
    pub fn value(&self, row: usize) -> io::Result<ByteArray> {
        // The last that begins at or before the row: a group without rows begins where the next one does.
        let chunk = self.firsts.partition_point(|&first| first <= row) - 1;
        let row = row - self.firsts[chunk];
        let page = self.chunks[chunk].pages.partition_point(|page| page.1 <= row) - 1;
        let values = self.page((chunk, page)).map_err(io::Error::other)?;
        let value = values[row - self.chunks[chunk].pages[page].1].clone();
        value.ok_or_else(|| io::Error::other("has no bytes: only a path, or nothing"))
    }

    fn page(&self, at: (usize, usize)) -> Result<Arc<Vec<Option<ByteArray>>>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = kept().iter().find(|page| page.at == at) {
            return Ok(Arc::clone(&page.values));
        }
        // Not under the lock: other threads read other pages.
        let values = Arc::new(guarded(|| self.chunks[at.0].page(at.1))?);
        let bytes = values.iter().flatten().map(|value| value.len() + size_of::<ByteArray>()).sum();
        let mut kept = kept();
        kept.push_back(Kept { at, values: Arc::clone(&values), bytes });
        let mut total: usize = kept.iter().map(|page| page.bytes).sum();
        while total > KEPT_BYTES && kept.len() > 1 {
            total -= kept.pop_front().map_or(0, |page| page.bytes);
        }
        Ok(values)
    }
}

/// Turns a panic into an error: the reader asserts what a damaged file can break.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("is corrupt: its reader gave up".to_owned()))
}

/// A reader's error on one line.
pub(super) fn reason(error: &ParquetError) -> String {
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
    fn unpacks_what_was_packed() {
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
            assert!(unpack(compression, &packed).unwrap() == bytes, "{compression}");
            if compression != Compression::UNCOMPRESSED {
                assert!(unpack(compression, &packed[..packed.len() / 2]).is_err(), "{compression}");
            }
        }
        assert!(unpack(Compression::LZ4_RAW, &bytes).unwrap_err().contains("snappy"));
        // Five bytes that claim four gigabytes.
        assert!(unpack(Compression::SNAPPY, &[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().contains("claims"));
    }
}
