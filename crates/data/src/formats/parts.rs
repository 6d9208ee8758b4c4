//! The parts of a set, training and held-out images, by the names of folders and shards.

use crate::options::Split;
use std::collections::BTreeSet;

/// Names of the training part, and of held-out parts in order of preference.
pub(crate) const TRAIN_NAMES: [&str; 3] = ["train", "training", "trainset"];
pub(crate) const TEST_NAMES: [&str; 8] = ["test", "testing", "testset", "val", "valid", "validation", "valset", "eval"];

/// Words that may accompany the name of a part, as in `training_set`.
const FILLERS: [&str; 7] = ["set", "data", "split", "images", "image", "imgs", "img"];

/// Returns the name of the part in the name of a folder: `train` for `Train`, `train2017` and `train_images`.
pub(crate) fn part_name(folder: &str) -> Option<&'static str> {
    let folder = folder.to_lowercase();
    let words = folder.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty() && !FILLERS.contains(word));
    let words: Vec<&str> = words.collect();
    let [word] = words[..] else { return None };
    TRAIN_NAMES.into_iter().chain(TEST_NAMES).find(|name| *name == word)
}

fn is_train(folder: &str) -> bool {
    part_name(folder).is_some_and(|name| TRAIN_NAMES.contains(&name))
}

/// Returns the folder of a part, with a trailing slash, if all folders under `top` that have images are parts and one of
/// them is the training part. `None` if the set is not divided in this way, or has no such part.
pub(crate) fn part_folder(images: &[&str], top: &str, split: Split) -> Option<String> {
    let folders: BTreeSet<&str> = images.iter().filter_map(|name| Some(name[top.len()..].split_once('/')?.0)).collect();
    let training: Vec<&str> = folders.iter().copied().filter(|folder| is_train(folder)).collect();
    let ([train], true) = (&training[..], folders.iter().all(|folder| part_name(folder).is_some())) else {
        return None;
    };
    let held_out = || TEST_NAMES.iter().find_map(|name| folders.iter().find(|folder| part_name(folder) == Some(name)));
    let folder = match split {
        Split::Train => train,
        Split::Test => held_out()?,
    };
    Some(format!("{top}{folder}/"))
}

/// Returns a warning if images of folders that are named as parts are read together with all others.
pub(crate) fn undivided_warning(images: &[&str], top: &str) -> Option<String> {
    if let Some(warning) = similar_names_warning(images, top) {
        return Some(warning);
    }
    let mut parts = BTreeSet::new();
    let mut others = BTreeSet::new();
    for image in images {
        let name = &image[top.len()..];
        let mut end = 0;
        let folders = name.split('/').map(|folder| {
            end += folder.len() + 1;
            (folder, end - 1)
        });
        let folders: Vec<(&str, usize)> = folders.collect();
        // The last component is the file.
        let folders = &folders[..folders.len() - 1];
        match folders.iter().position(|(folder, _)| part_name(folder).is_some()) {
            // Deeper down, a single `train` divides nothing.
            Some(depth) => drop(parts.insert((depth == 0 || !is_train(folders[depth].0), &name[..folders[depth].1]))),
            None => drop(others.insert(folders.first().map_or("images in no folder", |(folder, _)| folder))),
        }
    }
    if !parts.iter().any(|(counts, _)| *counts) {
        return None;
    }
    let parts = list(parts.into_iter().map(|(_, part)| part));
    let beside = match others.is_empty() {
        true => String::new(),
        false => format!(" and with {}", list(others.into_iter())),
    };
    Some(format!(
        "folders named as parts of a set are read together{beside}, as training images: {parts}; to hold images out, leave \
         only folders such as train and test side by side, or give the path of one part as the data"
    ))
}

/// Returns a warning if folders have names such as `seg_train` and `seg_test`, or `trainA` and `testA`, which divide nothing.
fn similar_names_warning(images: &[&str], top: &str) -> Option<String> {
    let folders: BTreeSet<&str> = images.iter().filter_map(|name| Some(name[top.len()..].split_once('/')?.0)).collect();
    let mentions = |folder: &str, names: &[&str]| {
        let is_word = |word: &str| {
            let stem = word.strip_suffix(|c: char| c.is_uppercase()).filter(|stem| !stem.ends_with(char::is_uppercase));
            [Some(word), stem].into_iter().flatten().any(|word| names.contains(&&*word.to_lowercase()))
        };
        part_name(folder).is_none() && folder.split(|c: char| !c.is_alphabetic()).any(is_word)
    };
    let any = |names: &[&str]| folders.iter().any(|folder| mentions(folder, names));
    (any(&TRAIN_NAMES) && any(&TEST_NAMES)).then(|| {
        format!(
            "{} are named like parts of a set, but are read together, as training images; rename them to train and test, or \
             give the path of one of them as the data",
            list(folders.into_iter())
        )
    })
}

/// Returns names separated by commas, at most four of them.
pub(crate) fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.take(SHOWN).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let names = ["train", "Train", "TRAIN2017", "training_set", "val2017", "Validation", "test-images", "test 1"];
        let expected = ["train", "train", "train", "training", "val", "validation", "test", "test"];
        assert_eq!(names.map(part_name), expected.map(Some));
        assert_eq!(["cats", "trains", "latest", "pre_train", "train_test", "2017", ""].map(part_name), [None; 7]);
    }

    #[test]
    fn sets_are_divided_only_if_all_folders_are_parts() {
        let folder = |images: &[&str], split| part_folder(images, "", split);
        let divided = ["Train/a/1.png", "val2017/a/2.png", "test/3.png", "cover.png"];
        assert_eq!(folder(&divided, Split::Train).as_deref(), Some("Train/"));
        assert_eq!(folder(&divided, Split::Test).as_deref(), Some("test/"));
        assert_eq!(folder(&["train/1.png", "test/2.png", "extra/3.png"], Split::Train), None);
        assert_eq!(folder(&["train1/1.png", "train2/1.png", "test/2.png"], Split::Train), None);
        assert_eq!(folder(&["test/1.png", "val/2.png"], Split::Test), None);
    }

    #[test]
    fn parts_that_divide_nothing_are_named() {
        let warned = |images: &[&str]| undivided_warning(images, "").unwrap_or_default();
        let text = warned(&["train/1.png", "test/2.png", "extra/3.png"]);
        assert!(text.contains("test, train") && text.contains("with extra"), "{text}");
        let text = warned(&["cats/train/1.png", "cats/test/2.png", "dogs/train/3.png"]);
        assert!(text.contains("cats/test") && text.contains("cats/train"), "{text}");
        assert_eq!(warned(&["cats/1.png", "dogs/train/3.png", "4.png"]), "");
        for names in [["seg_train", "seg_test"], ["trainA", "testA"], ["pets-train", "pets-val"]] {
            let images = names.map(|name| format!("{name}/1.png"));
            let text = warned(&[&images[0], &images[1], "other/2.png"]);
            assert!(text.contains(names[0]) && text.contains("like parts of a set"), "{text}");
        }
        assert_eq!(warned(&["trains/1.png", "latest/2.png"]), "");
    }
}
