//! Image sizes in the format of diffusers.

use std::fmt;

use serde::de::{Error, IgnoredAny, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A height and width in pixels: diffusers' `sample_size`, serialized as one number if square, else `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleSize {
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl SampleSize {
    /// Returns the size of images of `side`×`side` pixels.
    pub fn square(side: usize) -> Self {
        Self { height: side, width: side }
    }

    /// Checks that it is not too large, and that images can be halved between a number of levels.
    pub(crate) fn check(self, levels: usize) -> Result<(), crate::Error> {
        let Self { height, width } = self;
        if height > 1 << 16 || width > 1 << 16 {
            return Err(crate::Error::Config(format!(
                "`sample_size` is {height}x{width}; expected at most 65536x65536"
            )));
        }
        check_multiple([height, width], levels)
    }

    /// Returns `(height, width)`.
    pub fn height_width(self) -> (usize, usize) {
        (self.height, self.width)
    }
}

/// Checks that images can be halved between a number of levels.
pub(crate) fn check_multiple([height, width]: [usize; 2], levels: usize) -> Result<(), crate::Error> {
    let multiple = 1 << (levels - 1);
    if height == 0 || width == 0 || !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
        let next = |n: usize| n.max(1).next_multiple_of(multiple);
        let (fit_height, fit_width) = (next(height), next(width));
        return Err(crate::Error::Config(format!(
            "images of {height}x{width} do not fit {levels} levels: both sides must be multiples of {multiple}; \
             pad to {fit_height}x{fit_width} or use fewer levels"
        )));
    }
    Ok(())
}

impl Serialize for SampleSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.height == self.width {
            self.height.serialize(serializer)
        } else {
            [self.height, self.width].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for SampleSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SampleSizeVisitor)
    }
}

struct SampleSizeVisitor;

impl<'de> Visitor<'de> for SampleSizeVisitor {
    type Value = SampleSize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number, or [height, width]")
    }

    fn visit_u64<E: Error>(self, side: u64) -> Result<SampleSize, E> {
        let side = usize::try_from(side).map_err(|_| E::invalid_value(Unexpected::Unsigned(side), &self))?;
        Ok(SampleSize::square(side))
    }

    fn visit_i64<E: Error>(self, side: i64) -> Result<SampleSize, E> {
        let side = usize::try_from(side).map_err(|_| E::invalid_value(Unexpected::Signed(side), &self))?;
        Ok(SampleSize::square(side))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<SampleSize, A::Error> {
        let wrong = |len| A::Error::invalid_length(len, &self);
        let height = sides.next_element()?.ok_or_else(|| wrong(0))?;
        let width = sides.next_element()?.ok_or_else(|| wrong(1))?;
        match sides.next_element::<IgnoredAny>()? {
            None => Ok(SampleSize { height, width }),
            Some(_) => Err(wrong(3)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializes_squares_as_one_number() {
        for (text, height, width) in [("32", 32, 32), ("[24,40]", 24, 40)] {
            let size: SampleSize = serde_json::from_str(text).unwrap();
            assert_eq!(size, SampleSize { height, width });
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
        }
        assert_eq!(serde_json::from_str::<SampleSize>("[32, 32]").unwrap(), SampleSize::square(32));
    }

    #[test]
    fn errors_name_the_expected_forms() {
        for text in ["-1", "1.5", "\"32\"", "[32]", "[32, 32, 3]", "{}"] {
            let message = serde_json::from_str::<SampleSize>(text).unwrap_err().to_string();
            assert!(message.contains("a whole number, or [height, width]"), "{text}: {message}");
        }
    }
}
