//! Paths of requests, which stay below the folder of the studio, links included.

use std::path::{Component, Path, PathBuf};

use axum::http::StatusCode;
use ddpm::weights::builtin;

use crate::api::Failure;

/// The folder whose runs and models are shown.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A folder that exists.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        let path = path.canonicalize()?;
        if !path.is_dir() {
            return Err(std::io::Error::new(std::io::ErrorKind::NotADirectory, "is not a folder"));
        }
        Ok(Self(path))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns what a path from the folder leads to.
    ///
    /// # Errors
    /// If there is nothing, or it is elsewhere.
    pub fn find(&self, path: &str) -> Result<PathBuf, Failure> {
        let fail = |what| Failure::new(StatusCode::NOT_FOUND, format!("{path}: {what}"));
        let found = self.new_path(path)?.canonicalize().map_err(|_| fail("there is no such file or folder"))?;
        if found.starts_with(&self.0) { Ok(found) } else { Err(fail("is a link to another place")) }
    }

    /// Returns the path of something new in the folder or below it.
    ///
    /// # Errors
    /// If it leads elsewhere.
    pub fn new_path(&self, path: &str) -> Result<PathBuf, Failure> {
        let is_plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
        if path.is_empty() || path.contains('\0') || !Path::new(path).components().all(is_plain) {
            let message = format!("{path:?} is not a path below the studio's folder");
            return Err(Failure::new(StatusCode::BAD_REQUEST, message));
        }
        let whole = self.0.join(path);
        // The folders on the way that are there may be links.
        let existing = whole.ancestors().find_map(|part| part.canonicalize().ok());
        if existing.is_some_and(|existing| existing.starts_with(&self.0)) {
            return Ok(whole);
        }
        Err(Failure::new(StatusCode::BAD_REQUEST, format!("{path}: leads out of the studio's folder")))
    }

    /// Returns whether a name is that of the model in the program, and nothing in the folder has it.
    pub fn is_builtin(&self, name: &str) -> bool {
        name == builtin::NAME && !self.0.join(name).exists()
    }

    /// Returns a path as requests name it.
    pub fn name_of(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.0).unwrap_or(path);
        if inside.as_os_str().is_empty() { ".".to_owned() } else { inside.to_string_lossy().into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let inside = place.path().join("inside");
        std::fs::create_dir_all(inside.join("run")).unwrap();
        std::fs::write(place.path().join("secret"), "").unwrap();
        let folder = Folder::new(&inside).unwrap();
        assert!(folder.find("run").is_ok() && folder.find("./run").is_ok());
        for path in ["", "..", "../secret", "run/../../secret", "/etc/passwd", "run\0", "missing"] {
            assert!(folder.find(path).is_err(), "{path}");
        }
        assert!(folder.new_path("new/run").is_ok());
        assert!(folder.new_path("new/../../run").is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(place.path(), inside.join("out")).unwrap();
            assert!(folder.find("out/secret").is_err());
            assert!(folder.new_path("out/new").is_err());
            assert!(folder.find("out").is_err());
        }
        assert!(Folder::new(&place.path().join("secret")).is_err());
    }
}
