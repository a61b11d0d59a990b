//! What the engines share: how one says that it failed, how it is kept from taking the process with
//! it, and how its store comes to be in a folder.
//!
//! A new store is made under a temporary name, synced whole and renamed, because one whose making
//! was cut short may not open, or may be taken for an empty one.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::EngineError;

/// What the name of a store ends with while it is made.
const UNFINISHED: &str = "tmp";

/// An engine, by its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named(pub(super) &'static str);

impl Named {
    /// What makes an error of what `operation` was refused with.
    pub(super) fn failed<E: Display>(self, operation: &'static str) -> impl Fn(E) -> EngineError {
        move |reason| EngineError { engine: self.0, operation, reason: reason.to_string() }
    }

    /// Runs what may panic: damaged files make libraries panic, which is no way for a start to end.
    pub(super) fn guarded<T>(
        self,
        operation: &'static str,
        run: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let panicked = |_| Err(self.failed(operation)("it panicked"));
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(panicked)
    }

    /// Makes the store at `path` unless it is there: `make` does it under another name, and has
    /// closed it when it answers.
    pub(super) fn make_if_missing(
        self,
        path: &Path,
        make: impl FnOnce(&Path) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if path.exists() {
            return Ok(());
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(UNFINISHED);
        let temporary = Path::new(&name);
        remove(temporary).map_err(self.failed("remove what was left half made"))?;
        self.guarded("make its store", || make(temporary))?;
        let placed = sync_whole(temporary)
            .and_then(|()| fs::rename(temporary, path))
            .and_then(|()| path.parent().map_or(Ok(()), sync));
        placed.map_err(self.failed("put its new store in place"))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Syncs a file, or a folder with all that is in it.
pub(super) fn sync_whole(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_whole(&entry?.path())?;
        }
    }
    sync(path)
}

/// Syncs one file, or the names in one folder.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: Named = Named("test");

    #[test]
    fn a_store_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let half_made = |at: &Path| {
            fs::create_dir(at).unwrap();
            fs::write(at.join("half"), "").unwrap();
            Err(ENGINE.failed("make its store")("the disk is full"))
        };
        ENGINE.make_if_missing(&path, half_made).unwrap_err();
        let panics = |_: &Path| panic!("a library's");
        let error = ENGINE.make_if_missing(&path, panics).unwrap_err();
        assert_eq!(error.to_string(), "test could not make its store: it panicked");
        assert!(!path.exists());
        let makes = |at: &Path| {
            fs::create_dir(at).unwrap();
            fs::write(at.join("whole"), "").map_err(ENGINE.failed("make its store"))
        };
        ENGINE.make_if_missing(&path, makes).unwrap();
        assert!(path.join("whole").exists() && !path.join("half").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        ENGINE.make_if_missing(&path, |_| panic!("it is there")).unwrap();
    }
}
