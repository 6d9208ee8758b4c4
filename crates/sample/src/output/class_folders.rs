//! A folder of samples with a folder for each class, as sets of labelled images are stored.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use weights::atomic;

use super::{Error, Result, images_in};

/// The file that lists the images with the names of their classes, which cannot all be names of folders.
const METADATA: &str = "metadata.csv";

/// The classes that samples have in turn, each with its folder.
#[derive(Clone, Debug)]
pub(crate) struct ClassFolders {
    root: PathBuf,
    /// The name and the folder of each class.
    classes: Vec<(String, String)>,
}

impl ClassFolders {
    /// Names a folder for each class: its name, without characters that not every file system takes.
    pub fn new(root: &Path, names: Vec<String>) -> Self {
        let mut taken = BTreeSet::new();
        let folder = |name: &String| {
            let kept = |c: char| if c.is_alphanumeric() || "-_+&, ".contains(c) { c } else { '-' };
            let plain: String = name.chars().take(100).map(kept).collect();
            let plain = plain.trim();
            let plain = if plain.is_empty() { "class" } else { plain };
            let mut numbered = (1..).map(|n| if n == 1 { plain.to_owned() } else { format!("{plain}-{n}") });
            // Some file systems do not distinguish upper and lower case.
            let free = numbered.find(|name| taken.insert(name.to_lowercase()));
            (name.clone(), free.unwrap_or_default())
        };
        Self { root: root.to_owned(), classes: names.iter().map(folder).collect() }
    }

    /// Returns the folder of a class, of which image `number` is one.
    fn class(&self, number: u64) -> &(String, String) {
        &self.classes[(number % self.classes.len() as u64) as usize]
    }

    /// Returns the file of an image.
    pub fn path(&self, number: u64) -> PathBuf {
        self.root.join(&self.class(number).1).join(format!("{number:06}.png"))
    }

    /// Creates the folders, and returns them.
    ///
    /// # Errors
    /// If one cannot be created, or there are images beside the folders.
    pub fn create(&self) -> Result<Vec<PathBuf>> {
        if let Some(path) = images_in(&self.root)?.into_iter().next() {
            let reason = "is an image beside the folders of classes; write to another folder, or remove it".to_owned();
            return Err(Error::Target { path, reason });
        }
        let create = |(_, name): &(String, String)| {
            let folder = self.root.join(name);
            let fail = |error| Error::Io { path: folder.clone(), action: "cannot create this folder", error };
            fs::create_dir_all(&folder).map_err(fail)?;
            Ok(folder)
        };
        self.classes.iter().map(create).collect()
    }

    /// Writes the list of all images, those that were there before included.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_metadata(&self) -> Result<()> {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let mut lines = Vec::new();
        for (name, folder) in &self.classes {
            for path in images_in(&self.root.join(folder))? {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                lines.push((file.into_owned(), format!("{folder}/"), quoted(name)));
            }
        }
        lines.sort();
        let lines = lines.into_iter().map(|(file, folder, label)| format!("{},{label}\n", quoted(&(folder + &file))));
        let text: String = std::iter::once("file_name,label\n".to_owned()).chain(lines).collect();
        Ok(atomic::replace_file(self.root.join(METADATA), |file| file.write_all(text.as_bytes()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_folders_of_their_own() {
        let names = ["T-shirt/top", "a", "A", "../up", "", "..", "a-2"].map(String::from).to_vec();
        let folders = ClassFolders::new(Path::new("out"), names);
        let paths: Vec<String> = (0..8).map(|n| folders.path(n).display().to_string()).collect();
        assert_eq!(
            paths,
            [
                "out/T-shirt-top/000000.png",
                "out/a/000001.png",
                "out/A-2/000002.png",
                "out/---up/000003.png",
                "out/class/000004.png",
                "out/--/000005.png",
                "out/a-2-2/000006.png",
                "out/T-shirt-top/000007.png"
            ]
        );
    }
}
