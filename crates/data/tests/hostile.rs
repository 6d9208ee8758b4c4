//! Files that are built for the worst case, and mutations of valid files. Each is read, listed as a bad file, or an error that
//! names it; without a panic, in bounded time, and in memory in proportion to the file. These tests are alone in their file
//! because they count all allocations of the process.
//!
//! The number of mutations of each format is that of DDPM_MUTATIONS, 30 by default:
//!
//!   DDPM_MUTATIONS=5000 cargo test --release -p ddpm-data --test hostile mutated -- --nocapture

mod common;
use common::*;
use ddpm_data::{Fit, ReadOptions, Split, open, write_npz_images};
use image::{ExtendedColorType, ImageFormat};
use peak_alloc::PeakAlloc;
use std::io::{Cursor, Write};
use std::panic;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;
use tempfile::tempdir;
use zip::CompressionMethod::{Deflated, Stored};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Serializes the tests, since the allocator counts for all of them.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // As the program's hook does, this one is silent about panics that are caught.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !files::is_caught() {
                report(panic);
            }
        }));
    });
    // Makes the one-time allocations of threads and libraries.
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.png"), &dot(1));
    opened(folder.path(), &ReadOptions::default());
    guard
}

/// Opens a set, once in memory and once streamed, and reads its images. Returns what went wrong, and checks that all of it
/// took at most `most` bytes of memory.
fn read(what: &str, path: &Path, options: &ReadOptions, most: usize) -> String {
    let mut messages = Vec::new();
    for options in [options.clone(), streamed(options)] {
        let (begin, before) = (Instant::now(), ALLOCATOR.current_usage());
        ALLOCATOR.reset_peak_usage();
        match open(path, &options) {
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(&*path.to_string_lossy()), "{what}: {message:?} does not name the file");
                messages.push(message);
            }
            Ok(set) => {
                messages.extend(set.report().bad.iter().map(|bad| bad.reason.clone()));
                let mut image = vec![0; set.shape().iter().product()];
                for index in 0..set.len() {
                    messages.extend(set.read_into(&[index], &mut image).err().map(|error| error.to_string()));
                }
            }
        }
        let (peak, seconds) = (ALLOCATOR.peak_usage().saturating_sub(before), begin.elapsed().as_secs_f64());
        assert!(peak <= most, "{what}: {peak} bytes, more than {most}");
        assert!(seconds < 20.0, "{what}: {seconds} s");
        assert!(messages.iter().all(|message| !message.contains('\n')), "{what}: {messages:?}");
    }
    messages.join("; ")
}

fn assert_told(what: &str, path: &Path, options: &ReadOptions, most: usize, reason: &str) {
    let told = read(what, path, options, most);
    assert!(told.contains(reason), "{what}: {told:?} does not contain {reason:?}");
}

fn small() -> ReadOptions {
    ReadOptions { resolution: Some((8, 8)), ..ReadOptions::default() }
}

fn png_chunk(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(body);
    [&(body.len() as u32).to_be_bytes()[..], kind, body, &crc.sum().to_be_bytes()].concat()
}

fn zlib(bytes: usize) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; MIB];
    (0..bytes / MIB).for_each(|_| out.write_all(&zeros).unwrap());
    out.finish().unwrap()
}

fn gif(width: u16, height: u16) -> Vec<u8> {
    let mut gif = encode(ImageFormat::Gif, &[7; 12], (2, 2), ExtendedColorType::Rgb8);
    gif[6..8].copy_from_slice(&width.to_le_bytes());
    gif[8..10].copy_from_slice(&height.to_le_bytes());
    gif
}

/// A TIFF of one strip, with more entries.
fn tiff(width: u32, height: u32, more: &[[u32; 4]]) -> Vec<u8> {
    let entries =
        [[256, 4, 1, width], [257, 4, 1, height], [258, 3, 1, 8], [259, 3, 1, 1], [262, 3, 1, 1], [273, 4, 1, 8]];
    let mut entries: Vec<[u32; 4]> = entries.into_iter().chain(more.iter().copied()).collect();
    entries.sort_unstable();
    let mut out = b"II\x2a\0\x08\0\0\0".to_vec();
    out.extend((entries.len() as u16).to_le_bytes());
    for [tag, kind, count, value] in entries {
        out.extend((tag as u16).to_le_bytes());
        out.extend((kind as u16).to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend([0; 4]);
    out
}

/// An extended WebP of one chunk in a canvas.
fn webp(side: u8, kind: &[u8], size: u32, body: &[u8]) -> Vec<u8> {
    let canvas = [8, 0, 0, 0, side - 1, 0, 0, side - 1, 0, 0];
    let chunks = [b"WEBPVP8X\x0a\0\0\0", &canvas[..], kind, &size.to_le_bytes(), body].concat();
    [b"RIFF", &(chunks.len() as u32).to_le_bytes()[..], &chunks].concat()
}

fn bmp(width: u32, height: u32) -> Vec<u8> {
    let header = [40u32, width, height, 1 | 8 << 16, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    let palette = vec![0; 1024];
    let start = (14 + header.len() + palette.len()) as u32;
    [b"BM", &[0; 8][..], &start.to_le_bytes(), &header, &palette, &[0, 1]].concat()
}

/// A progressive JPEG whose last scan is repeated.
fn scans(count: usize) -> Vec<u8> {
    let jpeg = encode(ImageFormat::Jpeg, &noise(64), (8, 8), ExtendedColorType::L8);
    let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let end = jpeg.len() - 2;
    [&jpeg[..scan], &jpeg[scan..end].repeat(count), &jpeg[end..]].concat()
}

#[test]
fn malicious_images_are_bad_files() {
    let _alone = alone();
    let grey = grey_png(&[7; 4], (2, 2));
    // After the signature and IHDR.
    let with = |chunk: Vec<u8>| [&grey[..33], &chunk, &grey[33..]].concat();
    let bomb = zlib(64 * MIB);
    let few = 8 * MIB;
    let cases: Vec<(&str, Vec<u8>, usize, &str)> = vec![
        ("a GIF without width", gif(0, 2), few, "2x0 pixels"),
        ("a GIF without height", gif(2, 0), few, "0x2 pixels"),
        ("a GIF without a screen", gif(0, 0), few, "0x0 pixels"),
        ("a large GIF", gif(60_000, 60_000), few, "exceeds 512 MiB"),
        ("a colour profile of zeros", with(png_chunk(b"iCCP", &[b"a\0\0", &bomb[..]].concat())), few, ""),
        ("a text of zeros", with(png_chunk(b"zTXt", &[b"a\0\0", &bomb[..]].concat())), few, ""),
        (
            "metadata of zeros",
            with(png_chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &bomb[..]].concat())),
            few,
            "",
        ),
        ("a TIFF of a billion strips", tiff(4, 4, &[[279, 4, 1 << 30, 8]]), few, "truncated"),
        ("a TIFF of one large tile", tiff(4, 4, &[[322, 4, 1, 65_536], [323, 4, 1, 65_536]]), few, ""),
        ("a TIFF without pixels", tiff(0, 4, &[]), few, ""),
        ("an EXIF chunk of 4 GB", webp(2, b"EXIF", u32::MAX, b""), few, "truncated"),
        ("a large frame in a small canvas", webp(2, b"VP8L", 6, &[0x2f, 255, 255, 255, 15, 0]), few, "a frame of"),
        ("a BMP without its pixels", bmp(20_000, 8_000), few, "in 1080 bytes"),
        ("a JPEG of a thousand scans", scans(1000), few, "100 scans"),
        ("a PNM of huge sides", b"P5 4000000000 4000000000 255\n".to_vec(), few, ""),
        ("a PNM of 512 MiB", b"P5 16384 32768 255\n12".to_vec(), few, "in 21 bytes"),
    ];
    for (what, bytes, most, reason) in &cases {
        let folder = tempdir().unwrap();
        put(&folder.path().join("good.png"), &dot(9));
        put(&folder.path().join("x/bad.png"), bytes);
        for fit in [Fit::Crop, Fit::Pad, Fit::RandomCrop] {
            let options = ReadOptions { fit, ..small() };
            assert_told(what, folder.path(), &options, most + 3 * bytes.len(), reason);
        }
        let path = put(&folder.path().join("a.zip"), &zip(&[("good.png", &dot(9)), ("x/bad.png", bytes)], Deflated));
        assert_told(what, &path, &small(), most + 3 * bytes.len(), reason);
    }
    // A valid image of zeros: four times its decoded size.
    let side = 3000;
    let large = grey_png(&vec![0; side * side], (side as u32, side as u32));
    let folder = tempdir().unwrap();
    for name in ["1.png", "2.png"] {
        put(&folder.path().join(name), &large);
    }
    assert!(large.len() < MIB);
    assert_eq!(read("zeros", folder.path(), &small(), 2 * 4 * side * side), "");
    // A row that would be resized to cover the target.
    put(&folder.path().join("2.png"), &grey_png(&[0; 20_000], (1, 20_000)));
    assert_told("a long row", folder.path(), &small(), 4 * side * side + 64 * MIB, "");
}

#[test]
fn malicious_label_files_are_bounded() {
    let _alone = alone();
    let rows = 20_000;
    let listed = |start: &str, row: &dyn Fn(usize) -> String, end: &str| {
        [start.to_owned(), (0..rows).map(row).collect::<Vec<_>>().join(","), end.to_owned()].concat()
    };
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("short rows", "dataset.json", listed("{\"labels\":[", &|i| format!("[\"{i:x}\",1]"), "]}"), "no label for 1"),
        ("equal rows", "dataset.json", listed("{\"labels\":[", &|_| "[\"a\",1]".into(), "]}"), "no label for 1"),
        (
            "a list as label",
            "dataset.json",
            listed("{\"labels\":[[\"a\",[", &|_| "[1,1]".into(), "]]]}"),
            "65536 or fewer",
        ),
        ("other keys", "dataset.json", listed("{\"x\":[", &|_| "[[],{}]".into(), "],\"labels\":[]}"), "no label for 1"),
        ("deep lists", "dataset.json", format!("{{\"labels\":{}", "[".repeat(rows)), "dataset.json"),
        ("many keys", "metadata.jsonl", listed("{", &|i| format!("\"{i:x}\":1"), "}"), ""),
        (
            "a long label",
            "metadata.jsonl",
            format!("{{\"file_name\":\"a.png\",\"label\":\"{}\"}}", "x".repeat(100_000)),
            "65536 or fewer",
        ),
        (
            "short lines",
            "metadata.jsonl",
            (0..rows).map(|i| format!("{{\"file_name\":{i},\"label\":1}}\n")).collect(),
            "no label for 1",
        ),
        ("many columns", "metadata.csv", ",".repeat(1_000_000), ""),
        ("too many columns", "metadata.csv", ",".repeat(2_000_000), "a row of more than"),
        (
            "columns after the first row",
            "metadata.csv",
            format!("file_name,label\n{}", "\"\n\",".repeat(rows)),
            "comma-separated",
        ),
        ("short rows", "metadata.csv", listed("file_name,label\n", &|i| format!("{i:x},1\n"), ""), ""),
    ];
    for (what, name, text, reason) in &cases {
        let folder = tempdir().unwrap();
        put(&folder.path().join("a.png"), &dot(1));
        put(&folder.path().join(name), text.as_bytes());
        assert_told(&format!("{name}: {what}"), folder.path(), &small(), 64 * text.len() + 4 * MIB, reason);
        let path = put(&folder.path().join("a.zip"), &zip(&[("a.png", &dot(1)), (name, text.as_bytes())], Deflated));
        assert_told(&format!("{name} in a zip: {what}"), &path, &small(), 64 * text.len() + 4 * MIB, reason);
    }
    // The names of classes are as many as the highest label.
    for (label, reason) in [(65535, ""), (65536, "less than 65536")] {
        let folder = tempdir().unwrap();
        put(&folder.path().join("a.png"), &dot(1));
        let text = format!("{{\"labels\": [[\"a.png\", {label}]]}}");
        put(&folder.path().join("dataset.json"), text.as_bytes());
        assert_told("the highest label", folder.path(), &small(), 16 * MIB, reason);
    }
}

/// Writes an archive in which one member is listed many times, by different names.
fn shared(count: u16) -> Vec<u8> {
    let bytes = zip(&[("00000.png", &dot(1))], Stored);
    let (end, directory) = (bytes.len() - 22, u32::from_le_bytes(bytes[bytes.len() - 6..][..4].try_into().unwrap()));
    let entry = &bytes[directory as usize..end];
    let named = |number: u16| [&entry[..46], format!("{number:05}").as_bytes(), &entry[51..]].concat();
    let entries: Vec<u8> = (0..count).flat_map(named).collect();
    let mut out = [&bytes[..directory as usize], &entries, &bytes[end..]].concat();
    let end = out.len() - 22;
    out[end + 8..end + 10].copy_from_slice(&count.to_le_bytes());
    out[end + 10..end + 12].copy_from_slice(&count.to_le_bytes());
    out[end + 12..end + 16].copy_from_slice(&((entry.len() * usize::from(count)) as u32).to_le_bytes());
    out
}

#[test]
fn malicious_archives_are_bounded() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let bytes = shared(20_000);
    assert_told("shared bytes", &put(&at("shared.zip"), &bytes), &small(), 40 * bytes.len(), "share their bytes");

    // Many empty files, and long names in deep folders.
    let names: Vec<String> = (0..5_000).map(|i| format!("{i}.png")).collect();
    let empty: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let deep: Vec<String> = (0..40).map(|i| format!("{}{i}.png", "a/".repeat(1000))).collect();
    let image = dot(1);
    let deep: Vec<(&str, &[u8])> = deep.iter().map(|name| (&**name, &image[..])).collect();
    for (what, files) in [("empty files", empty), ("deep folders", deep)] {
        let (zipped, tarred) = (zip(&files, Stored), tar(&files));
        let most = |bytes: &[u8]| 40 * bytes.len() + 4 * MIB;
        read(what, &put(&at("names.zip"), &zipped), &small(), most(&zipped));
        read(what, &put(&at("names.tar"), &tarred), &small(), most(&tarred));
        let packed = gzip(&tarred);
        read(what, &put(&at("names.tar.gz"), &packed), &small(), 2 * most(&tarred));
    }
    let long = format!("{}.png", "a".repeat(5000));
    let told = read("a long name", &put(&at("long.tar"), &tar(&[(&long, &image)])), &small(), 4 * MIB);
    assert!(told.contains("a name of 5004 bytes"), "{told}");

    // Zeros.
    let zeros = vec![0; 100 * MIB];
    let packed = gzip(&tar(&[("a.png", &zeros)]));
    let cifar = gzip(&tar(&[("data_batch_1.bin", &zeros[..90 * MIB])]));
    let images = gzip(&idx(&[100 * 1024, 32, 32], &zeros));
    let arrays = npz_of("arr_0", "|u1", "(102400, 32, 32)", false, &zeros, true);
    let matlab = |count: i32| {
        let shape = [32, 32, 1, count];
        let bytes = &zeros[..1024 * count as usize];
        mat(&[MatVariable { name: "X", class: 9, kind: 2, shape: &shape, bytes }], true)
    };
    let (large, mut claim) = (matlab(100 * 1024), matlab(60 * 1024));
    // A part of what follows the header.
    claim.truncate(128 + 8 + 500);
    claim[132..136].copy_from_slice(&500u32.to_le_bytes());
    let variable = MatVariable { name: "y", class: 6, kind: 9, shape: &[1, 1], bytes: &[0; 8] };
    let variable = &mat(&[variable], true)[128..];
    let variables = [&large[..128], &variable.repeat(100_000)].concat();
    let stored = zip(&[("a.png", &zeros)], Deflated);
    drop(zeros);
    for (name, bytes, reason) in [
        ("zeros.tar.gz", packed, "expands from"),
        ("cifar.tar.gz", cifar, "expands"),
        ("train-images-idx3-ubyte.gz", images, "more than the"),
        ("zeros.npz", arrays, "expands from"),
        ("zeros.mat", large, "expands from"),
        ("claim.mat", claim, "is truncated"),
        ("variables.mat", variables, "more than 1024 variables"),
        ("zeros.zip", stored, "not an image"),
    ] {
        let most = if name.ends_with(".zip") { 2 * 100 * MIB } else { 3 * (64 * MIB + 256 * bytes.len()) };
        assert_told(name, &put(&at(name), &bytes), &small(), most, reason);
    }
}

#[cfg(feature = "parquet")]
mod parquet_files {
    use super::*;
    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    const SCHEMA: &str = "message m { optional binary image; optional binary label (STRING); }";

    /// A file with a row for each image, and a label that is repeated.
    pub fn file(images: &[Option<&[u8]>], label: &[u8], rows_of_page: usize, compression: Compression) -> Vec<u8> {
        let properties = WriterProperties::builder().set_compression(compression);
        let properties = properties.set_data_page_row_count_limit(rows_of_page).set_write_batch_size(rows_of_page);
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let labels: Vec<Option<&[u8]>> = vec![Some(label); images.len()];
        for values in [images, &labels] {
            let mut column = group.next_column().unwrap().unwrap();
            let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
            let values: Vec<ByteArray> = values.iter().flatten().map(|value| ByteArray::from(value.to_vec())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn malicious_columns_are_bounded() {
        let _alone = alone();
        let folder = tempdir().unwrap();
        let dot = dot(1);
        let many = vec![None; 100_000];
        let repeated = vec![Some(&dot[..]); 1_500];
        let zeros = vec![0; 20 * MIB];
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("rows without images", file(&many, b"a", 100_000, Compression::UNCOMPRESSED), "rows or more in"),
            ("a long label", file(&repeated[..500], &[b'x'; 100_000], 500, Compression::UNCOMPRESSED), "1024 or fewer"),
            ("zeros", file(&[Some(&zeros)], b"a", 1, Compression::SNAPPY), "not an image"),
        ];
        drop(zeros);
        for (what, bytes, reason) in cases {
            let path = put(&folder.path().join("a.parquet"), &bytes);
            assert_told(what, &path, &small(), 64 * bytes.len() + 4 * MIB + 20 * 6 * MIB, reason);
        }
        // A page that cannot be unpacked is not unpacked for each of its 500 rows. Made by parquet_golden.py.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zeros.parquet");
        assert_told("a page of zeros", &path, &small(), 400 * MIB, "expands to more than");
        // The time to read all pages is in proportion to them.
        let bytes = file(&repeated, b"a", 1, Compression::UNCOMPRESSED);
        let path = put(&folder.path().join("a.parquet"), &bytes);
        assert_eq!(read("a page for each row", &path, &small(), 64 * bytes.len() + 64 * MIB), "");
        let bytes = file(&repeated[..1000], b"a", 1000, Compression::UNCOMPRESSED);
        let path = put(&folder.path().join("a.parquet"), &bytes);
        assert_eq!(read("equal images", &path, &small(), 64 * bytes.len() + 16 * MIB), "");
    }
}

/// A lossless WebP of 32x32 pixels that has many sets of Huffman tables, and uses one.
fn webp_of_tables(sets: usize) -> Vec<u8> {
    struct Bits(Vec<bool>);
    impl Bits {
        /// Appends the lowest `count` bits of a number, the lowest first.
        fn number(&mut self, number: usize, count: usize) {
            self.0.extend((0..count).map(|i| number >> i & 1 == 1));
        }

        /// Appends a code of which all pixels are one symbol.
        fn single(&mut self, symbol: usize) {
            [(1, 1), (0, 1), (1, 1), (symbol, 8)].into_iter().for_each(|(number, count)| self.number(number, count));
        }
    }
    // The lengths of a code of eleven symbols, 1 to 10 and 10, in a code of their own: 1 to 6 have three bits, the others four.
    let mut tables = Bits(Vec::new());
    tables.number(0, 1);
    tables.number(14 - 4, 4);
    for symbol in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10] {
        tables.number(if (1..=6).contains(&symbol) { 3 } else { usize::from((7..=10).contains(&symbol)) * 4 }, 3);
    }
    [(1, 1), (1, 3), (11 - 2, 4)].into_iter().for_each(|(number, count)| tables.number(number, count));
    for length in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10] {
        let (code, count) = if length <= 6 { (length - 1, 3) } else { (12 + length - 7, 4) };
        tables.0.extend((0..count).rev().map(|i| code >> i & 1 == 1));
    }
    let mut bits = Bits(Vec::new());
    // The mark, the size, no transformations, no cache, and an image of the sets: one pixel, the last set.
    let header = [(0x2f, 8), (31, 14), (31, 14), (0, 1), (0, 3), (0, 1), (0, 1), (1, 1), (5 - 2, 3), (0, 1)];
    header.into_iter().for_each(|(number, count)| bits.number(number, count));
    let last = sets - 1;
    [last & 255, last >> 8, 0, 255, 0].into_iter().for_each(|symbol| bits.single(symbol));
    (0..5 * sets).for_each(|_| bits.0.extend(&tables.0));
    bits.0.extend([false; 4 * 32 * 32 + 64]);
    let mut bytes: Vec<u8> =
        bits.0.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, &bit| all << 1 | u8::from(bit))).collect();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let chunk = [b"VP8L", &(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
    [b"RIFF", &(chunk.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunk].concat()
}

#[test]
fn tables_of_a_webp_are_bounded() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    let bytes = webp_of_tables(2000);
    let path = put(&folder.path().join("a.webp"), &bytes);
    assert_eq!(read("tables", &path, &small(), 512 * bytes.len() + 4 * MIB), "");
}

/// Pipes block the one who opens them.
#[cfg(unix)]
#[test]
fn pipes_are_not_opened() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let names =
        ["a.npz", "a.npy", "a.mat", "a.png", "a.tar", "a.tar.gz", "a.zip", "a.parquet", "train-images-idx3-ubyte"];
    let mut paths: Vec<_> = names.iter().map(|name| pipe(&format!("alone/{name}"))).collect();
    let link = folder.path().join("link.npz");
    std::os::unix::fs::symlink(&paths[0], &link).unwrap();
    paths.push(link);
    // Beside what is read.
    let images = idx(&[1, 2, 2], &[1, 2, 3, 4]);
    put(&folder.path().join("idx/train-images-idx3-ubyte"), &images);
    pipe("idx/train-labels-idx1-ubyte");
    pipe("cifar/data_batch_2.bin");
    pipe("cifar/batches.meta.txt");
    put(&folder.path().join("cifar/data_batch_1.bin"), &noise(3073));
    put(&folder.path().join("shards/a-0.tar"), &tar(&[("1.png", &dot(1))]));
    pipe("shards/a-1.tar");
    for name in ["dataset.json", "metadata.csv", "metadata.jsonl", "b.png"] {
        put(&folder.path().join(format!("{name}.d/a.png")), &dot(1));
        pipe(&format!("{name}.d/{name}"));
        paths.push(folder.path().join(format!("{name}.d")));
    }
    paths.extend(["idx", "cifar", "shards"].map(|name| folder.path().join(name)));
    for path in paths {
        let (done, wait) = std::sync::mpsc::channel();
        let name = path.clone();
        std::thread::spawn(move || {
            let column = ReadOptions { label_from: "column:label".parse().unwrap(), ..small() };
            for options in [small(), column] {
                let _ = open(&path, &options).map(|set| all(&set));
            }
            done.send(()).unwrap();
        });
        let waited = wait.recv_timeout(std::time::Duration::from_secs(20));
        assert!(waited.is_ok(), "{} blocks", name.display());
    }
}

/// A valid small file of every format, by the path that is opened and the path of the file.
fn files_to_mutate() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let rgb = noise(16 * 16 * 3);
    let picture = |format| encode(format, &rgb, (16, 16), ExtendedColorType::Rgb8);
    let mut npz = Cursor::new(Vec::new());
    write_npz_images(&mut npz, &rgb, [3, 16, 16, 1], Some(&[3, 1, 0])).unwrap();
    let (png, jpeg) = (picture(ImageFormat::Png), picture(ImageFormat::Jpeg));
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 8, 8, 3), }\n";
    let npy = [&b"\x93NUMPY\x01\0"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes(), &rgb].concat();
    let opened = |file: &'static str| file.split_once('/').map_or(file, |(folder, _)| folder);
    let mut files: Vec<_> =
        common::valid_files().into_iter().map(|(file, bytes)| (opened(file), file, bytes)).collect();
    files.extend([
        ("webdataset", "webdataset/train-0.tar", tar(&labelled(&png, &jpeg)[..4])),
        ("cifar", "cifar/test_batch.bin", noise(3073).repeat(2)),
        ("labelled.npz", "labelled.npz", npz.into_inner()),
        ("images.npy", "images.npy", npy),
        ("floats.npz", "floats.npz", npz_of("arr_0", "<f4", "(1, 8, 8, 3)", false, &[0; 768], true)),
        ("json", "json/dataset.json", br#"{"labels": [["a.png", 3], ["b.png", 4]]}"#.to_vec()),
        (
            "jsonl",
            "jsonl/metadata.jsonl",
            b"{\"file_name\": \"a.png\", \"label\": \"x\"}\n{\"file_name\": \"b.png\", \"label\": 4}\n".to_vec(),
        ),
        ("csv", "csv/metadata.csv", b"file_name,label\na.png,x\n\"b.png\",4\n".to_vec()),
        ("bmp", "bmp/1.bmp", picture(ImageFormat::Bmp)),
        ("tiff", "tiff/1.tiff", picture(ImageFormat::Tiff)),
        ("pnm", "pnm/1.ppm", picture(ImageFormat::Pnm)),
    ]);
    #[cfg(feature = "parquet")]
    {
        use parquet::basic::Compression;
        let rows = [Some(&png[..]), None, Some(&jpeg), Some(&png)];
        let hub = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub.parquet")).unwrap();
        files.push(("hub.parquet", "hub.parquet", hub));
        files.push(("snappy.parquet", "snappy.parquet", parquet_files::file(&rows, b"a", 2, Compression::SNAPPY)));
        files.push(("plain.parquet", "plain.parquet", parquet_files::file(&rows, b"a", 1, Compression::UNCOMPRESSED)));
    }
    files
}

/// Pseudorandom numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }
}

/// Flips bits, sets integers to extremes, moves parts, or truncates.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        // Half of the damage is in the headers.
        let length = if random.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
        let at = random.below(length);
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => {
                let size = [1, 2, 4, 8][random.below(4)];
                let value = [0, 0xff, 0x7f, 0x80][random.below(4)];
                let end = bytes.len().min(at + size);
                bytes[at.min(end)..end].fill(value);
            }
            2 => {
                let number = [0, 1, 255, 65_535, 1 << 30][random.below(5)];
                let number: u32 = number;
                let word = if random.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let end = bytes.len().min(at + 4);
                bytes[at.min(end)..end].copy_from_slice(&word[..end - at.min(end)]);
            }
            3 => {
                let from = random.below(bytes.len());
                let end = bytes.len().min(from + random.below(64));
                let part = bytes[from..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let cut = if random.below(4) == 0 { random.below(bytes.len()) } else { bytes.len() };
                bytes.truncate(cut);
            }
        }
    }
}

#[test]
fn mutated_files_are_read_or_refused() {
    let _alone = alone();
    let count: usize = std::env::var("DDPM_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let (mut tried, mut refused) = (0, 0);
    for (opened, name, bytes) in files_to_mutate() {
        let folder = tempdir().unwrap();
        let path = folder.path().join(opened);
        if ["json", "jsonl", "csv"].contains(&opened) {
            put(&path.join("a.png"), &dot(1));
            put(&path.join("b.png"), &dot(2));
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64);
        let split = if name.contains("test") { Split::Test } else { Split::Train };
        let range = name.contains("floats").then_some([-1.0, 1.0]);
        for number in 0..=count {
            let mut bytes = bytes.clone();
            // The first one is the valid file.
            if number > 0 {
                mutate(&mut bytes, &mut random);
            }
            put(&folder.path().join(name), &bytes);
            let fit = [Fit::Crop, Fit::Pad, Fit::RandomCrop][number % 3];
            let crop = (number % 5 == 4).then(|| [1, 2, 7, 6].into());
            let options = ReadOptions { crop, fit, split, range, memory_limit_bytes: 1 << 24, ..small() };
            let told = read(&format!("mutation {number} of {name}"), &path, &options, 400 * MIB);
            if number == 0 && !name.contains("plain.parquet") && !name.contains("snappy.parquet") {
                // Compressed sets cannot be streamed.
                assert!(told.is_empty() || told.ends_with("raise the memory limit"), "{name}: {told}");
            }
            tried += 1;
            refused += usize::from(!told.is_empty());
        }
    }
    println!("{tried} files, {refused} with errors");
}
