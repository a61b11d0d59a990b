//! How much room the journal's disk has, and what is done when it gets little.
//!
//! Below the watermark new work is refused, so that what was begun can be finished and what is
//! there can be read and released. Near it a ballast file is made, which others cannot take; when
//! almost nothing is left it goes, and finishing goes on in its place. When even that is used up a
//! write fails, and the process ends.
//!
//! The writer looks about once a second; between two looks the answer is the last one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The watermark, unless it is set: this much room, or [`LOW_SPACE_PERCENT`] of the disk if that
/// is less.
pub const LOW_SPACE_BYTES: u64 = 256 * 1024 * 1024;
/// See [`LOW_SPACE_BYTES`].
pub const LOW_SPACE_PERCENT: u64 = 2;
/// The ballast is this fraction of the watermark.
const BALLAST_DIVISOR: u64 = 8;
/// The ballast is made when there is less room than this many watermarks.
const BALLAST_FACTOR: u64 = 4;
/// How often the writer looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
const BALLAST_FILE: &str = "ballast";

/// What a disk has, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// What the last look found.
#[derive(Default)]
pub(crate) struct SpaceFigures {
    pub(crate) free_bytes: AtomicU64,
    pub(crate) low: AtomicBool,
}

type Probe = Box<dyn Fn() -> io::Result<Room> + Send>;

/// The watch over one folder's disk.
pub(crate) struct Space {
    pub(crate) figures: Arc<SpaceFigures>,
    folder: PathBuf,
    set_bytes: Option<u64>,
    probe: Probe,
    looked: Instant,
}

impl Space {
    /// Watches the disk of `folder`. `set_bytes` is the watermark, if not the usual one.
    pub(crate) fn of(folder: &Path, set_bytes: Option<u64>) -> Self {
        let probed = folder.to_owned();
        let probe = move || {
            let found = rustix::fs::statvfs(&probed)?;
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            Ok(Room { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
        };
        Self::with(folder, set_bytes, Box::new(probe))
    }

    fn with(folder: &Path, set_bytes: Option<u64>, probe: Probe) -> Self {
        let (figures, folder) = (Arc::default(), folder.to_owned());
        let mut space = Self { figures, folder, set_bytes, probe, looked: Instant::now() };
        space.look();
        space
    }

    /// Looks, if the last look is old.
    pub(crate) fn look_if_due(&mut self) {
        if self.looked.elapsed() >= LOOK_PERIOD {
            self.look();
        }
    }

    fn look(&mut self) {
        self.looked = Instant::now();
        let room = match (self.probe)() {
            Ok(room) => room,
            // Nothing is known, so nothing changes: a full disk still fails its writes.
            Err(error) => return tracing::warn!(%error, "the room on the disk is not known"),
        };
        let watermark = self.watermark(room);
        let low = room.free < watermark;
        let was_low = self.figures.low.swap(low, Ordering::Relaxed);
        self.figures.free_bytes.store(room.free, Ordering::Relaxed);
        let free = room.free;
        if low && !was_low {
            tracing::error!(free, watermark, "the disk is nearly full: new work is refused");
        } else if was_low && !low {
            tracing::info!(free, watermark, "the disk has room again: new work is taken");
        }
        if let Err(error) = self.keep_ballast(room, watermark) {
            tracing::warn!(%error, "the ballast file could not be changed");
        }
    }

    fn watermark(&self, room: Room) -> u64 {
        let usual = LOW_SPACE_BYTES.min(room.total / 100 * LOW_SPACE_PERCENT);
        self.set_bytes.unwrap_or(usual)
    }

    fn keep_ballast(&self, room: Room, watermark: u64) -> io::Result<()> {
        let (path, bytes) = (self.folder.join(BALLAST_FILE), watermark / BALLAST_DIVISOR);
        // A ballast that was cut short, or could not be given its room, is none.
        let there = std::fs::metadata(&path).is_ok_and(|found| found.len() > 0);
        if there && room.free < bytes {
            tracing::error!(bytes, "the ballast file goes, so that what was begun can be finished");
            return std::fs::remove_file(path);
        }
        let near = room.free < watermark.saturating_mul(BALLAST_FACTOR);
        let fits = room.free >= watermark.saturating_add(2 * bytes);
        if !there && near && fits && bytes > 0 {
            let flags = rustix::fs::FallocateFlags::empty();
            if let Err(error) = rustix::fs::fallocate(File::create(&path)?, flags, 0, bytes) {
                std::fs::remove_file(path)?;
                return Err(error.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stops_below_the_watermark_and_the_ballast_goes_last() {
        let folder = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(0));
        let probed = free.clone();
        let total = 1 << 40;
        let probe = move || Ok(Room { free: probed.load(Ordering::Relaxed), total });
        let mut space = Space::with(folder.path(), Some(800_000), Box::new(probe));
        let ballast = folder.path().join(BALLAST_FILE);
        let mut look = |bytes: u64| {
            free.store(bytes, Ordering::Relaxed);
            space.look();
            let length = std::fs::metadata(&ballast).map_or(0, |found| found.len());
            (space.figures.low.load(Ordering::Relaxed), length)
        };
        assert_eq!(look(9_000_000), (false, 0), "far from it there is no ballast");
        assert_eq!(look(3_000_000), (false, 100_000));
        assert_eq!(look(799_999), (true, 100_000));
        assert_eq!(look(99_999), (true, 0), "almost nothing is left");
        assert_eq!(look(199_999), (true, 0), "what it freed does not bring it back");
        assert_eq!(look(3_000_000), (false, 100_000));
    }

    #[test]
    fn the_usual_watermark_is_the_lesser_of_two() {
        let folder = tempfile::tempdir().unwrap();
        let watermark = |total: u64, set: Option<u64>| {
            let room = Room { free: total, total };
            Space::with(folder.path(), set, Box::new(move || Ok(room))).watermark(room)
        };
        assert_eq!(watermark(1 << 40, None), LOW_SPACE_BYTES);
        assert_eq!(watermark(1_000_000_000, None), 20_000_000);
        assert_eq!(watermark(1_000_000_000, Some(0)), 0);
    }
}
