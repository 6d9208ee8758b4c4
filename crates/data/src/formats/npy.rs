//! A single array of images in NumPy's `.npy`. Its bytes stay in the file, unless they are numbers that become u8.

use super::array::{self, Layout};
use super::files::lower_file_name;
use crate::error::{Error, Result};
use crate::npy::NpyHeader;
use crate::options::{ReadOptions, Split};
use crate::raw::{RawBytes, RawImages};
use crate::source::{Discovered, Format, Source};
use files::Charge;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;

pub(crate) const FORMAT: Format = Format {
    expected: "an .npy of images, N,H,W,C or N,H,W",
    detect: |path| path.is_file() && lower_file_name(path).ends_with(".npy"),
    open,
};

/// The name of the array in error messages.
const NAME: &str = "the array";

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    if options.split == Split::Test {
        return Err(Error::NoHeldOut {
            path: path.to_owned(),
            expected: "an .npz with an array x_test or test_images",
        });
    }
    let (file, length) = files::open_regular(path).map_err(|e| Error::io(path, e))?;
    let mut source = BufReader::new(file);
    let array = NpyHeader::read(&mut source, path, NAME)?;
    let layout = Layout::unambiguous(path, NAME, &array.shape)?;
    let found = length.saturating_sub(array.length);
    array::check_length(path, NAME, &array, found)?;
    let mut charge = Charge::default();
    let bytes = if array.dtype == "|u1" && options.range.is_none() {
        RawBytes::of_file(source.into_inner(), array.length)
    } else {
        array::to_bytes(path, NAME, &array, options, &mut charge, &mut |pass| {
            source.seek(SeekFrom::Start(array.length)).map_err(|e| Error::io(path, e))?;
            pass(&mut source)
        })?
    };
    let images = RawImages::new(path, layout, bytes);
    Ok(Discovered { has_range: true, charge, ..Discovered::new("npy", Source::Raw(images)) })
}
