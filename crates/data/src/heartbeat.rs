//! The binary heartbeat of Sohl-Dickstein et al. 2015.

use crate::error::Result;
use crate::formats::array::Layout;
use crate::options::{ReadOptions, Split};
use crate::raw::{RawBytes, RawImages};
use crate::set::ImageSet;
use crate::source::{Discovered, Source};
use std::path::Path;

/// Bits of a sequence.
const LENGTH: usize = 20;
/// Every fifth bit is 1.
const PERIOD: usize = 5;

/// Opens the binary heartbeat (Sohl-Dickstein et al. 2015, arXiv 1503.03585, §3.1): sequences of 20 bits, of which every fifth is 1,
/// as images of 1x20 pixels of 0 and 255. The five phases take turns: 10,000 sequences for training and 1,000 held out, whose
/// entropy is log₂ 5 bits.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if an option is invalid.
pub fn heartbeat(options: &ReadOptions) -> Result<ImageSet> {
    options.check()?;
    let count = match options.split {
        Split::Train => 10_000,
        Split::Test => 1_000,
    };
    let pixel = |n: usize| if (n % LENGTH) % PERIOD == (n / LENGTH) % PERIOD { 255 } else { 0 };
    let bytes = RawBytes::Memory((0..count * LENGTH).map(pixel).collect());
    let layout = Layout { count, height: 1, width: LENGTH, channels: 1, planar: false };
    let path = Path::new("built-in heartbeat");
    let found = Discovered::new("built in", Source::Raw(RawImages::new(path, layout, bytes)));
    ImageSet::new("heartbeat".to_owned(), path, found, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_have_four_ones_five_bits_apart_at_each_phase_as_often() {
        for (split, count) in [(Split::Train, 10_000), (Split::Test, 1_000)] {
            let set = heartbeat(&ReadOptions { split, ..ReadOptions::default() }).unwrap();
            assert_eq!((set.len(), set.shape()), (count, [1, 20, 1]));
            let mut phases = [0; 5];
            for i in 0..count {
                let bits = set.read([i]).unwrap();
                let phase = bits.iter().position(|&bit| bit == 255).unwrap();
                phases[phase] += 1;
                assert!(bits.iter().enumerate().all(|(i, &bit)| bit == if i % 5 == phase { 255 } else { 0 }));
            }
            assert_eq!(phases, [count / 5; 5]);
        }
    }
}
