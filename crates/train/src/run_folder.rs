//! The folder of a run: chosen, created and locked in one step, so that two programs never train in one folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::checkpoint;

/// The folder of a run, and what may be there.
///
/// ```
/// use ddpm_train::RunFolder;
///
/// let begin_or_resume: RunFolder = "runs/photos".into();
/// let begin = RunFolder::new_run("runs/photos");
/// let begin_in_the_first_free_one = RunFolder::numbered("runs/photos");
/// let resume = RunFolder::existing("runs/photos");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
    holds: Holds,
}

/// The contents that a folder may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// A run, or none.
    Anything,
    /// No run.
    NoRun,
    /// Nothing: the first free one of PATH, PATH-2, PATH-3 …
    Nothing,
    /// A run.
    Run,
}

impl<P: AsRef<Path>> From<P> for RunFolder {
    /// Resumes the run in the folder if there is one, else begins one.
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_owned(), holds: Holds::Anything }
    }
}

impl RunFolder {
    /// Begins a run. A folder that holds one is an error.
    pub fn new_run(path: impl AsRef<Path>) -> Self {
        Self { holds: Holds::NoRun, ..Self::from(path) }
    }

    /// Begins a run in a new folder: this one, or the first of `PATH-2`, `PATH-3` … that does not exist.
    pub fn numbered(path: impl AsRef<Path>) -> Self {
        Self { holds: Holds::Nothing, ..Self::from(path) }
    }

    /// Resumes the run in the folder. A folder without one is an error.
    pub fn existing(path: impl AsRef<Path>) -> Self {
        Self { holds: Holds::Run, ..Self::from(path) }
    }

    /// Checks that the folder holds what it may, before the work that comes before it is locked.
    ///
    /// # Errors
    /// Says what is wrong, and the way out.
    pub fn check(&self) -> Result<(), Error> {
        let shown = self.path.display();
        if self.path.exists() && !self.path.is_dir() && self.holds != Holds::Nothing {
            return Err(Error::Run(format!("{shown}: is a file, expected a folder")));
        }
        let steps = checkpoint::steps_done(&self.path);
        let holds_run = steps.is_some() || self.path.join("config.toml").exists();
        match self.holds {
            Holds::Run if !holds_run => {
                Err(Error::Run(format!("{shown}: there is no run to resume; leave out --resume to begin one")))
            }
            Holds::NoRun if holds_run => Err(Error::Run(format!(
                "{shown}: there is a run already ({} steps); add --resume to continue it, or choose another --output",
                steps.unwrap_or(0)
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the path, of which a numbered run may get a variant.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the steps that the run in the folder has done.
    pub(crate) fn steps_done(&self) -> Option<u64> {
        if self.holds == Holds::Nothing { None } else { checkpoint::steps_done(&self.path) }
    }

    /// Creates the folder if it may be new, locks it until the file is dropped, and checks again what it holds.
    pub(crate) fn claim(&self) -> Result<(PathBuf, Option<File>), Error> {
        let path = self.created()?;
        let lock = weights::lock_folder(&path).map_err(|_| {
            Error::Run(format!("{}: another process is training there; choose another folder", path.display()))
        })?;
        // Another process may have begun, and even ended, a run there since the first check.
        Self { path: path.clone(), holds: if self.holds == Holds::Nothing { Holds::NoRun } else { self.holds } }
            .check()?;
        Ok((path, lock))
    }

    fn created(&self) -> Result<PathBuf, Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        if self.holds != Holds::Nothing {
            fs::create_dir_all(&self.path).map_err(fail(&self.path))?;
            return Ok(self.path.clone());
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(fail(parent))?;
        }
        let mut path = self.path.clone();
        for n in 2.. {
            // Of several processes, one creates a folder.
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    path = PathBuf::from(format!("{}-{n}", self.path.display()));
                }
                created => return created.map(|()| path.clone()).map_err(fail(&path)),
            }
        }
        unreachable!("the numbers have no end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_gets_each_folder() {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().join("runs/photos");
        let claim = || RunFolder::numbered(&base).claim().unwrap();
        let mut claimed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        claimed.sort_by_key(|(path, _)| (path.as_os_str().len(), path.clone()));
        let names: Vec<_> = claimed.iter().map(|(path, _)| path.file_name().unwrap().to_string_lossy()).collect();
        let expected: Vec<_> =
            (1..=8).map(|n| if n == 1 { "photos".to_owned() } else { format!("photos-{n}") }).collect();
        assert_eq!(names, expected);
        // They are locked.
        let error = RunFolder::new_run(&base).claim().unwrap_err().to_string();
        assert!(error.contains("another process is training there"), "{error}");
    }

    #[test]
    fn what_a_folder_holds_is_checked() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        assert!(RunFolder::existing(&path).check().unwrap_err().to_string().contains("there is no run to resume"));
        assert!(RunFolder::new_run(&path).check().is_ok());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("config.toml"), "").unwrap();
        assert!(
            RunFolder::new_run(&path).claim().unwrap_err().to_string().contains("there is a run already (0 steps)")
        );
        assert!(RunFolder::from(&path).claim().is_ok());
        assert!(RunFolder::existing(&path).claim().is_ok());
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(RunFolder::from(&file).check().unwrap_err().to_string().contains("is a file"));
    }
}
