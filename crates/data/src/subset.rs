//! A part of a set: as many images of each class as are asked for.

use crate::error::{Error, Result};
use crate::set::{ImageSet, Storage};

impl ImageSet {
    /// Returns `n` images of each class, in the order of the set: the first `n` of each for `fold` 0, the next `n` for
    /// `fold` 1, and so on.
    ///
    /// # Errors
    /// [`Error::Argument`] if the set has no labels, or a class has too few images; the error names it.
    pub fn per_class(mut self, n: usize, fold: usize) -> Result<ImageSet> {
        let Some(labels) = &self.labels else {
            return Err(Error::Argument(format!(
                "{} has no labels, so there is no number of images per class",
                self.name
            )));
        };
        let mut counts = vec![0; self.class_names.len()];
        let range = fold.saturating_mul(n)..fold.saturating_add(1).saturating_mul(n);
        let mut kept = Vec::new();
        for (index, &label) in labels.iter().enumerate() {
            let count = &mut counts[label as usize];
            if range.contains(count) {
                kept.push(index);
            }
            *count += 1;
        }
        if let Some((label, count)) = counts.iter().enumerate().find(|&(_, &count)| count < range.end.max(1)) {
            let (class, end) = (self.class_names[label].escape_debug(), range.end.max(1));
            let message = format!("{}: the class {class} has {count} images, but {end} are asked for", self.name);
            return Err(Error::Argument(message));
        }
        self.labels = Some(kept.iter().map(|&index| labels[index]).collect());
        if !self.image_paths.is_empty() {
            self.image_paths = kept.iter().map(|&index| std::mem::take(&mut self.image_paths[index])).collect();
        }
        match &mut self.storage {
            Storage::Memory(pixels) => {
                let bytes = self.target.image_bytes();
                *pixels = kept.iter().flat_map(|&index| &pixels[index * bytes..][..bytes]).copied().collect();
            }
            Storage::Covers(covers) => {
                let mut index = 0;
                covers.retain(|_| {
                    index += 1;
                    kept.binary_search(&(index - 1)).is_ok()
                });
            }
            Storage::Points { values, .. } => {
                let dims = self.target.channels;
                *values = kept.iter().flat_map(|&index| &values[index * dims..][..dims]).copied().collect();
            }
            Storage::Streamed { kept: of_source, .. } => {
                *of_source = kept.iter().map(|&index| of_source[index]).collect();
            }
        }
        self.len = kept.len();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::{ReadOptions, builtin};

    #[test]
    fn folds_are_the_images_of_each_class_in_turn() {
        let set = || builtin(&ReadOptions::default()).unwrap();
        let (all, first, second) = (set(), set().per_class(3, 0).unwrap(), set().per_class(3, 1).unwrap());
        for (set, fold) in [(&first, 0), (&second, 1)] {
            assert_eq!(set.len(), 30);
            let of_class = |set: &crate::ImageSet, class: u32| -> Vec<usize> {
                let labels = set.labels().unwrap();
                (0..set.len()).filter(|&index| labels[index] == class).collect()
            };
            for class in 0..10 {
                let expected = of_class(&all, class)[3 * fold..][..3].to_vec();
                assert_eq!(set.read(of_class(set, class)).unwrap(), all.read(expected).unwrap(), "class {class}");
            }
        }
        let error = set().per_class(1000, 1).err().unwrap().to_string();
        assert!(error.contains("the class") && error.contains("2000 are asked for"), "{error}");
    }
}
