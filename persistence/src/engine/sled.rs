//! sled 0.34, for who chooses it: one tree, atomic batches, and a guard around what it promises.
//!
//! sled calls itself beta. Its `flush` is not durable: it ends a write with `sync_file_range`,
//! which writes neither a file's new length nor the drive's cache (sync_file_range(2)), and it
//! never syncs `conf`. It may also write over a freed part of its file before what was moved out
//! of there is safe. So here:
//!
//! - its data file has the attribute `S` where the filesystem knows it (chattr(1)), so that each
//!   of its writes is synced when it returns; and after each `flush` we sync that file through a
//!   handle of our own, so that a failure to write back reaches us;
//! - it is made under a temporary name, synced whole (`conf`, `blobs`, the folder and the one
//!   above), and renamed; a store without a whole `conf` is refused, because sled would begin anew
//!   and cut its data file; an unfinished snapshot, which sled would take for the newest one, goes;
//! - no background thread of sled's writes (`flush_every_ms(None)`), and `flush_async` is never
//!   called: with seven callers or more it waits for ever;
//! - values are kept in parts of at most 4 KiB, so that no page becomes a file of its own
//!   in `blobs`;
//! - a panic inside sled is an [`EngineError`], and one while it is closed is logged.
//!
//! Limits: it stands behind the log (`decisions/0006-sled.md`), which is what makes commits
//! durable and what notices that sled has lost the end of its data. Alone it shows readers a batch
//! a moment before it is durable. A damaged sector inside its file may go unnoticed. It can hang on
//! a full disk, so a nearly full one is refused when the journal is opened.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rustix::fs::IFlags;

use super::place::{Named, sync, sync_whole};
use super::{Direction, Engine, EngineError, Pair, WriteBatch};

const SLED: Named = Named("sled");
/// The folder within the data folder.
const FOLDER: &str = "journal.sled";
/// The longest piece of a value that is kept under one key. sled moves pages of more than 128 KiB
/// into files of their own, and a page may have 17 values.
const PART_BYTES: usize = 4096;
/// A `conf` this short is taken for none by sled.
const CONF_BYTES_MIN: u64 = 9;
/// How long a store that was just closed may stay locked: threads of sled's end behind it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PERIOD: Duration = Duration::from_millis(5);

/// What the first byte of a key says: a value, or a part of one.
const VALUE: u8 = b'v';
const PART: u8 = b'w';
/// What the first byte of a value says: it is here, or only its length, and it is in parts.
const WHOLE: u8 = 0;
const IN_PARTS: u8 = 1;

/// sled on one folder.
pub struct SledEngine {
    /// There until it is closed.
    store: Option<sled::Db>,
    data: File,
    /// Held while a batch is put in, so that a value and its parts are read as of one moment.
    changing: RwLock<()>,
}

impl Drop for SledEngine {
    /// sled writes when it is closed, and panics if it cannot. Whoever closes it because the disk
    /// has failed, or because the log before it did not open, must come to say so.
    fn drop(&mut self) {
        let store = self.store.take();
        let closing = || {
            drop(store);
            Ok(())
        };
        if let Err(error) = SLED.guarded("close", closing) {
            tracing::warn!(%error, "a store that could not be closed is left to the next start");
        }
    }
}

impl SledEngine {
    /// Opens the store in `folder`, or makes it. `cache_bytes` bounds its cache.
    pub fn open(folder: &Path, cache_bytes: usize) -> Result<Self, EngineError> {
        let path = folder.join(FOLDER);
        // Closing it writes, too: that has to be over before it is synced.
        SLED.make_if_missing(&path, |temporary| open_store(temporary, cache_bytes).map(drop))?;
        check_shape(&path)?;
        remove_unfinished_snapshots(&path).map_err(SLED.failed("clear an unfinished snapshot"))?;
        // Opened before sled writes, so that no failed write-back is reported to it alone.
        let data = File::open(path.join("db")).map_err(SLED.failed("open its file"))?;
        make_synchronous(&data);
        let store = Some(open_store(&path, cache_bytes)?);
        // From here on it is closed with care, whatever follows.
        let engine = Self { store, data, changing: RwLock::new(()) };
        // Recovery may have written: a snapshot and its name, and into the file.
        let synced = engine.data.sync_all();
        let synced = synced.and_then(|()| sync_whole(&path)).and_then(|()| sync(folder));
        synced.map_err(SLED.failed("sync what it opened"))?;
        Ok(engine)
    }

    fn store(&self) -> Result<&sled::Db, EngineError> {
        self.store.as_ref().ok_or_else(|| SLED.failed("work")("it is closed"))
    }

    /// The value that a stored head stands for.
    fn whole(&self, key: &[u8], head: &[u8]) -> Result<Vec<u8>, EngineError> {
        let damaged = || SLED.failed("read")("a value is not as it was written");
        match head.split_first() {
            Some((&WHOLE, value)) => Ok(value.to_vec()),
            Some((&IN_PARTS, length)) => {
                let length = length_of(length).ok_or_else(damaged)?;
                let mut value = Vec::new();
                for index in 0..parts_of(length) {
                    let part =
                        self.store()?.get(part_key(key, index)).map_err(SLED.failed("read"))?;
                    value.extend_from_slice(&part.ok_or_else(damaged)?);
                }
                if value.len() == length { Ok(value) } else { Err(damaged()) }
            }
            _ => Err(damaged()),
        }
    }

    /// How many parts the key's value has now.
    fn parts_now(&self, key: &[u8]) -> Result<u32, EngineError> {
        let head = self.store()?.get(value_key(key)).map_err(SLED.failed("read"))?;
        let length = match head.as_deref().and_then(<[u8]>::split_first) {
            Some((&IN_PARTS, length)) => length_of(length).unwrap_or_default(),
            _ => 0,
        };
        Ok(parts_of(length))
    }

    fn put(
        &self,
        batch: &mut sled::Batch,
        key: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), EngineError> {
        let before = self.parts_now(key)?;
        let mut now = 0;
        match value {
            None => batch.remove(value_key(key)),
            Some(value) if value.len() < PART_BYTES => {
                batch.insert(value_key(key), [&[WHOLE], value.as_slice()].concat());
            }
            Some(value) => {
                let length = (value.len() as u64).to_be_bytes();
                batch.insert(value_key(key), [[IN_PARTS].as_slice(), &length].concat());
                for part in value.chunks(PART_BYTES) {
                    batch.insert(part_key(key, now), part);
                    now += 1;
                }
            }
        }
        for index in now..before {
            batch.remove(part_key(key, index));
        }
        Ok(())
    }
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok()
}

fn parts_of(length: usize) -> u32 {
    u32::try_from(length.div_ceil(PART_BYTES)).unwrap_or(u32::MAX)
}

fn value_key(key: &[u8]) -> Vec<u8> {
    [&[VALUE], key].concat()
}

/// Two keys of one length differ before the number, so no two parts share a key.
fn part_key(key: &[u8], index: u32) -> Vec<u8> {
    [[PART].as_slice(), key, &index.to_be_bytes()].concat()
}

fn open_store(path: &Path, cache_bytes: usize) -> Result<sled::Db, EngineError> {
    let config =
        sled::Config::new().path(path).cache_capacity(cache_bytes as u64).flush_every_ms(None);
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let opened = SLED.guarded("open", || config.open().map_err(SLED.failed("open")));
        match opened {
            Err(error) if error.reason.contains("lock") && Instant::now() < deadline => {
                std::thread::sleep(LOCK_PERIOD);
            }
            opened => return opened,
        }
    }
}

/// Refuses a store that sled would take for a new one.
fn check_shape(path: &Path) -> Result<(), EngineError> {
    let length = |name: &str| fs::metadata(path.join(name)).map_or(0, |found| found.len());
    for (name, bytes_min) in [("conf", CONF_BYTES_MIN), ("db", 1)] {
        if length(name) < bytes_min {
            let reason = format!("{} is missing or cut short", path.join(name).display());
            return Err(SLED.failed("open")(reason));
        }
    }
    Ok(())
}

fn remove_unfinished_snapshots(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Sets the attribute `S` on the data file. Filesystems without it refuse; then what sled moves
/// within its file is safe only at the end of each commit.
fn make_synchronous(data: &File) {
    let flags = rustix::fs::ioctl_getflags(data);
    let set = flags.and_then(|flags| rustix::fs::ioctl_setflags(data, flags | IFlags::SYNC));
    if let Err(error) = set {
        tracing::debug!(%error, "sled's file cannot be made synchronous on this filesystem");
    }
}

impl Engine for SledEngine {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let newest: BTreeMap<Vec<u8>, Option<Vec<u8>>> = batch.changes.into_iter().collect();
        SLED.guarded("commit", || {
            let mut changes = sled::Batch::default();
            for (key, value) in newest {
                self.put(&mut changes, &key, value)?;
            }
            let changing = self.changing.write();
            self.store()?.apply_batch(changes).map_err(SLED.failed("commit"))?;
            drop(changing);
            self.store()?.flush().map_err(SLED.failed("flush"))?;
            self.data.sync_data().map_err(SLED.failed("sync"))
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        SLED.guarded("read", || {
            let _still = self.changing.read();
            let head = self.store()?.get(value_key(key)).map_err(SLED.failed("read"))?;
            head.map(|head| self.whole(key, &head)).transpose()
        })
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        if start >= end {
            return Ok(Vec::new());
        }
        SLED.guarded("scan", || {
            let _still = self.changing.read();
            let mut range = self.store()?.range(value_key(start)..value_key(end));
            let mut pairs = Vec::new();
            while pairs.len() < limit {
                let next = match direction {
                    Direction::Forward => range.next(),
                    Direction::Backward => range.next_back(),
                };
                let Some(pair) = next else { break };
                let (key, head) = pair.map_err(SLED.failed("scan"))?;
                let key = key.get(1..).unwrap_or_default().to_vec();
                let value = self.whole(&key, &head)?;
                pairs.push((key, value));
            }
            Ok(pairs)
        })
    }

    fn syncs_per_commit(&self) -> u32 {
        // The write that a flush ends with, and our own.
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(changes: &[(&[u8], Option<usize>)]) -> WriteBatch {
        let value = |length: &usize| (0..*length).map(|n| (n % 251) as u8).collect::<Vec<_>>();
        let change =
            |(key, length): &(&[u8], Option<usize>)| (key.to_vec(), length.as_ref().map(value));
        WriteBatch { changes: changes.iter().map(change).collect() }
    }

    fn lengths(engine: &SledEngine) -> Vec<(Vec<u8>, usize)> {
        let pairs = engine.scan(b"", b"zz", Direction::Forward, 99).unwrap();
        pairs.into_iter().map(|(key, value)| (key, value.len())).collect()
    }

    #[test]
    fn a_value_of_any_length_comes_back_and_leaves_no_part_behind() {
        let folder = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(folder.path(), 1 << 20).unwrap();
        for length in [0, 1, 4095, 4096, 4097, 50_000, 8192, 400_000, 5] {
            engine.commit(batch(&[(b"a", Some(length)), (b"a\0", Some(3))])).unwrap();
            let found = engine.get(b"a").unwrap().unwrap();
            assert!(found.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n % 251));
            assert_eq!(lengths(&engine), [(b"a".to_vec(), length), (b"a\0".to_vec(), 3)]);
        }
        engine.commit(batch(&[(b"a", Some(50_000))])).unwrap();
        engine.commit(batch(&[(b"a", None), (b"a\0", None)])).unwrap();
        assert_eq!(engine.store().unwrap().len(), 0, "parts were left behind");
        let blobs = fs::read_dir(folder.path().join(FOLDER).join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0, "a page became a file of its own");
    }

    #[test]
    fn a_half_made_store_is_made_again_and_a_cut_conf_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FOLDER);
        let half = folder.path().join("journal.sled.tmp");
        fs::create_dir_all(half.join("blobs")).unwrap();
        fs::write(half.join("conf"), "seg").unwrap();
        let engine = SledEngine::open(folder.path(), 1 << 20).unwrap();
        engine.commit(batch(&[(b"a", Some(1))])).unwrap();
        drop(engine);
        fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), "cut").unwrap();
        let engine = SledEngine::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(lengths(&engine).len(), 1);
        drop(engine);
        fs::write(path.join("conf"), "").unwrap();
        let Err(error) = SledEngine::open(folder.path(), 1 << 20) else { panic!("it was taken") };
        assert!(error.reason.contains("conf is missing or cut short"), "{error}");
    }
}
