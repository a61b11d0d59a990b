//! Which engine a data folder belongs to: one line in a file of its own, `engine version`, read
//! before any engine touches the folder. A folder from before there was a choice has none, and is
//! known by its store.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::layout::LAYOUT_VERSION;
use crate::open::OpenError;

const FILE: &str = "journal-format";
/// Longer than any such line.
const LINE_BYTES_MAX: usize = 64;

/// Which engine carries the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// redb, the default.
    Redb,
    /// sled, in builds that have it.
    Sled,
    /// Nothing on disk; tests and simulations.
    Memory,
}

impl EngineKind {
    /// The name, as in `--engine`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }

    /// The engine of that name that keeps a folder.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Redb, Self::Sled].into_iter().find(|kind| kind.name() == name)
    }

    /// The engine that `folder` belongs to, `None` if it holds no journal yet. An error if it
    /// cannot be read, or is of a version that this build does not know.
    pub fn found_in(folder: &Path) -> Result<Option<Self>, OpenError> {
        let path = folder.join(FILE);
        let failed = |source| OpenError::Folder { path: path.clone(), source };
        let line = match fs::read(&path) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(by_store(folder)),
            Err(error) => return Err(failed(error)),
        };
        let line = std::str::from_utf8(&line).ok().filter(|line| line.len() <= LINE_BYTES_MAX);
        let words = line.and_then(|line| line.trim_end().split_once(' '));
        let parsed = words.and_then(|(name, version)| Some((name, version.parse::<u16>().ok()?)));
        let unknown = || failed(io::Error::new(io::ErrorKind::InvalidData, "it is not readable"));
        let (name, found) = parsed.ok_or_else(unknown)?;
        if found > LAYOUT_VERSION {
            return Err(OpenError::Newer { found, known: LAYOUT_VERSION });
        }
        EngineKind::named(name).map(Some).ok_or_else(unknown)
    }

    /// Writes down that `folder` belongs to this engine, durably.
    pub(crate) fn mark(self, folder: &Path) -> io::Result<()> {
        let path = folder.join(FILE);
        let line = format!("{} {LAYOUT_VERSION}\n", self.name());
        if fs::read(&path).is_ok_and(|found| found == line.as_bytes()) {
            return Ok(());
        }
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()?;
        // The folder itself may be as new as its files.
        match folder.canonicalize()?.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// The process may have ended between making the store and marking the folder.
fn by_store(folder: &Path) -> Option<EngineKind> {
    let stores = [("journal.redb", EngineKind::Redb), ("journal.sled", EngineKind::Sled)];
    stores.into_iter().find(|(store, _)| folder.join(store).exists()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_knows_its_engine_and_an_old_one_by_its_store() {
        let folder = tempfile::tempdir().unwrap();
        let found = || EngineKind::found_in(folder.path());
        assert_eq!(found().unwrap(), None);
        fs::write(folder.path().join("journal.redb"), "").unwrap();
        assert_eq!(found().unwrap(), Some(EngineKind::Redb));
        EngineKind::Sled.mark(folder.path()).unwrap();
        assert_eq!(found().unwrap(), Some(EngineKind::Sled));
        for (line, complaint) in [("sled 9", "layout version 9"), ("sled", "not readable")] {
            fs::write(folder.path().join(FILE), line).unwrap();
            let error = found().unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let text = format!("{error}: {}", cause.unwrap_or_default());
            assert!(text.contains(complaint), "{text}");
        }
    }
}
