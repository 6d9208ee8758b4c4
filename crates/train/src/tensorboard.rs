//! TensorBoard event files.
//!
//! An event file is a sequence of TFRecords, each of which frames one protobuf `Event`. Only the few fields that TensorBoard
//! needs for scalars, images and text are encoded here, by hand. The field numbers are those of TensorBoard's
//! `event.proto`, `summary.proto` and `tensor.proto`.
//!
//! A run's folder has one event file for each start of the program. TensorBoard reads the files of a folder in the order of
//! their names, as one run. A run that was killed and resumed logs some steps twice, so each file opens with a
//! `SessionLog START` that carries the first step it will log. TensorBoard then drops that step and later ones of earlier
//! files. (At the first START of a folder it drops nothing, so every file needs one; its fast data server instead drops,
//! tag by tag, the steps from the one that is out of order.) An incomplete record at the end of an older file, left by a
//! crash, is harmless: TensorBoard continues with the next file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crc::{CRC_32_ISCSI, Crc};

/// An error of creating or writing an event file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the TensorBoard log {path}: {error}", path = path.display())]
pub struct EventError {
    /// The event file, or its folder.
    pub path: PathBuf,
    /// The system's error.
    pub error: io::Error,
}

/// Appends events to an event file. Nothing is buffered: after a call returns, TensorBoard can read the event, and a crash
/// does not lose it.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
    /// Bytes of complete records.
    length: u64,
}

impl EventWriter {
    /// Creates the next `events.out.tfevents.<unix seconds>.ddpm` in the existing folder `dir`.
    ///
    /// `first_step` is the first step that will be logged: 0 for a new run, the step after the checkpoint's for a resumed
    /// one. TensorBoard discards that step and later ones of older files.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(dir: &Path, first_step: u64) -> Result<Self, EventError> {
        let fail = |path: &Path, error| EventError { path: path.to_owned(), error };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        // The name must sort after older ones, even if the clock was set back or the run restarted within a second.
        let mut seconds = match newest(dir).map_err(|e| fail(dir, e))? {
            Some(newest) => now.max(newest.saturating_add(1)),
            None => now,
        };
        let (file, path) = loop {
            let path = dir.join(format!("{PREFIX}{seconds:010}{SUFFIX}"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && seconds < u64::MAX => seconds += 1,
                Err(e) => return Err(fail(&path, e)),
            }
        };
        let mut writer = Self { file, path, length: 0 };
        writer.event(0, |event| event.bytes(event::FILE_VERSION, b"brain.Event:2"))?;
        writer.event(first_step, |event| {
            event.message(event::SESSION_LOG, |log| log.varint(session_log::STATUS, session_log::START))
        })?;
        Ok(writer)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Logs one value per tag, such as `("loss", 0.04)`. A slash in a tag groups charts.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f32)]) -> Result<(), EventError> {
        self.summary(step, |summary| {
            for (tag, value) in values {
                summary.message(summary::VALUE, |v| {
                    v.bytes(value::TAG, tag.as_bytes());
                    v.float(value::SIMPLE_VALUE, *value);
                });
            }
        })
    }

    /// Logs an encoded PNG of `(width, height)` pixels.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8], (width, height): (u32, u32)) -> Result<(), EventError> {
        self.summary(step, |summary| {
            summary.message(summary::VALUE, |v| {
                v.bytes(value::TAG, tag.as_bytes());
                v.message(value::IMAGE, |image| {
                    image.varint(image::HEIGHT, height.into());
                    image.varint(image::WIDTH, width.into());
                    image.varint(image::COLORSPACE, image::RGB);
                    image.bytes(image::ENCODED, png);
                });
            })
        })
    }

    /// Logs a text in Markdown, such as the run's configuration.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<(), EventError> {
        self.summary(step, |summary| {
            summary.message(summary::VALUE, |v| {
                v.bytes(value::TAG, tag.as_bytes());
                v.message(value::METADATA, |metadata| {
                    metadata.message(metadata::PLUGIN_DATA, |plugin| plugin.bytes(metadata::PLUGIN_NAME, b"text"));
                });
                v.message(value::TENSOR, |tensor| {
                    tensor.varint(tensor::DTYPE, tensor::DT_STRING);
                    tensor.message(tensor::SHAPE, |_scalar| ());
                    tensor.bytes(tensor::STRING_VAL, markdown.as_bytes());
                });
            })
        })
    }

    fn summary(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<(), EventError> {
        self.event(step, |event| event.message(event::SUMMARY, fill))
    }

    /// Appends one event with the present time, completely or, if the disk is full, not at all.
    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<(), EventError> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let record = record(&encode(wall_time, step, fill));
        if let Err(error) = self.file.write_all(&record) {
            // TensorBoard cannot read past an incomplete record. If this fails too, the first error is the one to report.
            let _ = self.file.set_len(self.length);
            return Err(EventError { path: self.path.clone(), error });
        }
        self.length += record.len() as u64;
        Ok(())
    }
}

const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".ddpm";

/// Returns the time in the name of the newest event file in `dir`.
fn newest(dir: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let seconds = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        newest = newest.max(seconds);
    }
    Ok(newest)
}

/// Returns the TFRecord that frames `data`: its length (u64), the checksum of the length, the data, the checksum of the data.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// Computes TFRecord's checksum: CRC-32C, rotated and shifted so that data may itself contain checksums.
fn masked_crc(data: &[u8]) -> u32 {
    static CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC_32C.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Encodes a protobuf `Event`.
fn encode(wall_time: f64, step: u64, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut event = Message::default();
    event.double(event::WALL_TIME, wall_time);
    event.varint(event::STEP, step);
    fill(&mut event);
    event.0
}

// Field numbers and enum values.
mod event {
    pub const WALL_TIME: u64 = 1;
    pub const STEP: u64 = 2;
    pub const FILE_VERSION: u64 = 3;
    pub const SUMMARY: u64 = 5;
    pub const SESSION_LOG: u64 = 7;
}
mod session_log {
    pub const STATUS: u64 = 1;
    pub const START: u64 = 1;
}
mod summary {
    pub const VALUE: u64 = 1;
}
mod value {
    pub const TAG: u64 = 1;
    pub const SIMPLE_VALUE: u64 = 2;
    pub const IMAGE: u64 = 4;
    pub const TENSOR: u64 = 8;
    pub const METADATA: u64 = 9;
}
mod image {
    pub const HEIGHT: u64 = 1;
    pub const WIDTH: u64 = 2;
    pub const COLORSPACE: u64 = 3;
    pub const ENCODED: u64 = 4;
    pub const RGB: u64 = 3;
}
mod metadata {
    pub const PLUGIN_DATA: u64 = 1;
    pub const PLUGIN_NAME: u64 = 1;
}
mod tensor {
    pub const DTYPE: u64 = 1;
    pub const SHAPE: u64 = 2;
    pub const STRING_VAL: u64 = 8;
    pub const DT_STRING: u64 = 7;
}

/// The bytes of a protobuf message: each field is a key (number and wire type) and a payload.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum without the mask.
    fn crc(data: &[u8]) -> u32 {
        masked_crc(data).wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    #[test]
    fn crc_vectors() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc(&(0..32).rev().collect::<Vec<u8>>()), 0x113f_db5c);
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_scalar_event_to_the_byte() {
        // from tensorboard.compat.proto.event_pb2 import Event
        // e = Event(wall_time=1.5, step=300); e.summary.value.add(tag="loss", simple_value=0.25)
        // e.SerializeToString().hex(" ")
        let event = encode(1.5, 300, |e| {
            e.message(event::SUMMARY, |s| {
                s.message(summary::VALUE, |v| {
                    v.bytes(value::TAG, b"loss");
                    v.float(value::SIMPLE_VALUE, 0.25);
                });
            })
        });
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, // wall_time
            0x10, 0xac, 0x02, // step
            0x2a, 0x0d, 0x0a, 0x0b, // summary, value
            0x0a, 0x04, b'l', b'o', b's', b's', // tag
            0x15, 0, 0, 0x80, 0x3e, // simple_value
        ];
        assert_eq!(event, expected);
    }

    #[test]
    fn a_record_to_the_byte() {
        // from tensorboard.summary.writer.record_writer import RecordWriter
        // RecordWriter(f).write(b"brain.Event:2")
        let expected = [
            0x0d, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0x37, 0xb8, 0x34, // length and its checksum
            0x62, 0x72, 0x61, 0x69, 0x6e, 0x2e, 0x45, 0x76, 0x65, 0x6e, 0x74, 0x3a, 0x32, // brain.Event:2
            0xee, 0x01, 0x06, 0x7c,
        ];
        assert_eq!(record(b"brain.Event:2"), expected);
    }

    /// Checks the frames of the records in `bytes` and returns their payloads.
    fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
            let data = &rest[4..][..u64::from_le_bytes(*length) as usize];
            assert_eq!(rest[..4], masked_crc(length).to_le_bytes());
            assert_eq!(rest[4 + data.len()..][..4], masked_crc(data).to_le_bytes());
            found.push(data.to_vec());
            bytes = &rest[8 + data.len()..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn a_file_opens_with_version_and_session_start_and_is_complete_after_each_call() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 41).unwrap();
        let after_wall_time = |payload: &[u8]| payload[9..].to_vec();
        let opening = payloads(&fs::read(writer.path()).unwrap());
        assert_eq!(after_wall_time(&opening[0]), b"\x10\0\x1a\x0dbrain.Event:2");
        assert_eq!(after_wall_time(&opening[1]), [0x10, 41, 0x3a, 2, 0x08, 1]);
        for step in 41..45 {
            writer.scalars(step, &[("loss", 0.5), ("lr", 1e-3)]).unwrap();
            writer.text(step, "config", "hello").unwrap();
            writer.image(step, "samples", &[1; 200], (8, 8)).unwrap();
            assert_eq!(payloads(&fs::read(writer.path()).unwrap()).len() as u64, 2 + 3 * (step - 40));
        }
    }

    #[test]
    fn a_later_file_sorts_after_earlier_ones_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("events.out.tfevents.9000000000.ddpm"), "").unwrap();
        fs::write(dir.path().join("events.out.tfevents.other"), "").unwrap();
        let names: Vec<_> = (0..3).map(|_| EventWriter::create(dir.path(), 0).unwrap().path().to_owned()).collect();
        assert!(names[0].ends_with("events.out.tfevents.9000000001.ddpm"));
        assert!(names.is_sorted() && names[1] != names[2]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = EventWriter::create(Path::new("/no/such/folder"), 0).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
