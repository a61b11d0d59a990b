//! Where the log keeps its segments: a port, so that a test can put a disk behind the log that
//! tears, reorders, fills up and fails.
//!
//! A segment is named by the number of the first commit it may hold. It is written at its end,
//! cut at its end, and removed whole; nothing in its middle is ever rewritten with other bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// All segments of one log.
pub trait Segments: Send + Sync + 'static {
    /// The numbers of the segments that there are, in any order.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// All bytes of one.
    fn read(&self, first: u64) -> io::Result<Vec<u8>>;

    /// Opens one for writing, made if it is missing. Its name is durable on return.
    fn open(&self, first: u64) -> io::Result<Box<dyn Segment>>;

    /// Removes one. After a power cut it may be back.
    fn remove(&self, first: u64) -> io::Result<()>;

    /// What to call one in an error.
    fn describe(&self, first: u64) -> String {
        name_of(first)
    }
}

/// The segment that is written to.
pub trait Segment: Send + 'static {
    /// Writes at an offset, whole or not: durable only once synced.
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts it to a length.
    fn trim(&mut self, length: u64) -> io::Result<()>;

    /// On return everything written so far survives a power cut, the length too.
    fn sync(&mut self) -> io::Result<()>;
}

/// Segments as files of a folder: `log-` and the number with twenty digits.
pub struct FolderSegments {
    folder: PathBuf,
}

fn name_of(first: u64) -> String {
    format!("log-{first:020}")
}

impl FolderSegments {
    /// The segments in `folder`, which is there.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(name_of(first))
    }
}

impl Segments for FolderSegments {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut firsts = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix("log-")?.parse().ok());
            firsts.extend(number);
        }
        Ok(firsts)
    }

    fn read(&self, first: u64) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(first))
    }

    fn open(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.path(first))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(Box::new(FileSegment(file)))
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        std::fs::remove_file(self.path(first))
    }

    fn describe(&self, first: u64) -> String {
        self.path(first).display().to_string()
    }
}

struct FileSegment(File);

impl Segment for FileSegment {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn trim(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        // `fdatasync` also writes a new length, which is all of the metadata that reading needs.
        self.0.sync_data()
    }
}
