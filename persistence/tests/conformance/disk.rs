//! A disk in memory that behaves as badly as a disk may.
//!
//! What was written and not synced is, after a power cut, there or not: each sector of 512 bytes by
//! itself, in any order. A sync that fails leaves what it should have written readable and never
//! durable, as Linux does. Names are durable when they are made, and may come back when removed.
//!
//! One thread at a time uses it and every choice comes from one number, so a run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use persistence::engine::segments::{Segment, Segments};

const SECTOR_BYTES: usize = 512;
/// What a file takes room by: a hole has none until it is written to.
const BLOCK_BYTES: usize = 4096;
/// The name of the store's file; the segments have their numbers.
const STORE: u64 = u64::MAX;

/// Numbers that look random, from one that does not (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What goes wrong, and at which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The power goes: this operation and all later ones fail.
    Cut(u64),
    /// This one operation fails.
    Error(u64),
    /// From here on nothing can grow.
    Full(u64),
}

/// A mistake that a check must find: one sync in 50 of these files is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    Log,
    Store,
}

#[derive(Debug)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Default, Debug)]
struct FileState {
    durable: Vec<u8>,
    cached: Vec<u8>,
    pending: Vec<Pending>,
    /// The blocks that have room on the disk.
    blocks: BTreeSet<usize>,
    removed: bool,
}

impl FileState {
    fn settle(&mut self) {
        for pending in self.pending.drain(..) {
            apply(&mut self.durable, &pending, &mut |_| true);
        }
    }
}

/// Does a pending change, of a write only the sectors that `keep` picks.
fn apply(bytes: &mut Vec<u8>, pending: &Pending, keep: &mut dyn FnMut(usize) -> bool) {
    match pending {
        Pending::Length(length) => {
            if keep(*length) {
                bytes.resize(*length, 0);
            }
        }
        Pending::Write(at, data) => {
            let mut start = 0;
            while start < data.len() {
                let sector_end = (at + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                let end = data.len().min(sector_end - at);
                if keep(at + start) {
                    if bytes.len() < at + end {
                        bytes.resize(at + end, 0);
                    }
                    bytes[at + start..at + end].copy_from_slice(&data[start..end]);
                }
                start = end;
            }
        }
    }
}

#[derive(Debug)]
struct State {
    files: BTreeMap<u64, FileState>,
    random: Random,
    operations: u64,
    fault: Fault,
    sabotage: Sabotage,
    /// Which operation met the fault.
    met: Option<&'static str>,
}

impl State {
    /// Counts an operation, and says whether it fails.
    fn begin(&mut self, operation: &'static str, grows: bool) -> io::Result<()> {
        self.operations += 1;
        let now = self.operations;
        let result = match self.fault {
            Fault::Cut(at) if now >= at => Err(io::Error::other("the power is out")),
            Fault::Error(at) if now == at => Err(io::Error::from_raw_os_error(5)),
            Fault::Full(at) if now >= at && grows => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        };
        if result.is_err() {
            self.met.get_or_insert(operation);
        }
        result
    }

    fn file(&mut self, name: u64) -> &mut FileState {
        self.files.entry(name).or_default()
    }
}

type Hook = Box<dyn FnMut() + Send>;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            files: BTreeMap::new(),
            random: Random(seed),
            operations: 0,
            fault: Fault::None,
            sabotage: Sabotage::None,
            met: None,
        };
        Self { state: Arc::new(Mutex::new(state)), hook: Arc::default() }
    }

    /// What goes wrong next; operations count from here.
    pub(crate) fn plan(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = fault;
        state.operations = 0;
        state.met = None;
    }

    /// How many operations there were since then, and which one met the fault first.
    pub(crate) fn met(&self) -> (u64, Option<&'static str>) {
        let state = self.state.lock();
        (state.operations, state.met)
    }

    pub(crate) fn sabotage(&self, sabotage: Sabotage) {
        self.state.lock().sabotage = sabotage;
    }

    /// Runs before each of the store's writes and syncs, in between which a commit may come.
    pub(crate) fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock() = hook;
    }

    fn call_hook(&self) {
        let hook = self.hook.lock().take();
        if let Some(mut hook) = hook {
            hook();
            self.hook.lock().get_or_insert(hook);
        }
    }

    /// The power goes and comes back.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state.lock();
        state.fault = Fault::None;
        let mut random = state.random.clone();
        // Some cuts lose everything that was not synced, some hardly anything.
        let kept_of_100 = [0, 20, 50, 80, 97, 100][random.below(6) as usize];
        state.files.retain(|_, file| {
            for pending in std::mem::take(&mut file.pending) {
                apply(&mut file.durable, &pending, &mut |_| random.below(100) < kept_of_100);
            }
            let back = file.removed && random.below(2) == 0;
            file.cached = file.durable.clone();
            let there = !file.removed || back;
            file.removed = false;
            there
        });
        state.random = random;
    }

    fn write(&self, name: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let at = at as usize;
        let blocks = at / BLOCK_BYTES..(at + bytes.len()).div_ceil(BLOCK_BYTES);
        let grows = !blocks.clone().all(|block| state.file(name).blocks.contains(&block));
        state.begin("write", grows)?;
        state.file(name).blocks.extend(blocks);
        let pending = Pending::Write(at, bytes.to_vec());
        let file = state.file(name);
        apply(&mut file.cached, &pending, &mut |_| true);
        file.pending.push(pending);
        Ok(())
    }

    fn set_len(&self, name: u64, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let length = length as usize;
        state.begin("set_len", false)?;
        let file = state.file(name);
        file.cached.resize(length, 0);
        file.pending.push(Pending::Length(length));
        Ok(())
    }

    fn sync(&self, name: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let hit = if name == STORE { Sabotage::Store } else { Sabotage::Log };
        if state.sabotage == hit && state.random.below(50) == 0 {
            state.operations += 1;
            return Ok(());
        }
        let begun = state.begin("sync", false);
        let file = state.file(name);
        match begun {
            Ok(()) => file.settle(),
            // Readable from now on, and never written.
            Err(_) => file.pending.clear(),
        }
        begun
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().file(STORE).cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin("read", false)?;
        let cached = &state.file(STORE).cached;
        let found = cached.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.call_hook();
        Disk::set_len(self, STORE, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call_hook();
        self.sync(STORE)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call_hook();
        Disk::write(self, STORE, offset, data)
    }
}

impl Segments for Disk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut state = self.state.lock();
        state.begin("list", false)?;
        let there = state.files.iter().filter(|(name, file)| **name != STORE && !file.removed);
        Ok(there.map(|(name, _)| *name).collect())
    }

    fn read(&self, first: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        state.begin("read", false)?;
        Ok(state.file(first).cached.clone())
    }

    fn open(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        let mut state = self.state.lock();
        let grows = !state.files.contains_key(&first);
        state.begin("open", grows)?;
        let file = state.file(first);
        if file.removed {
            *file = FileState::default();
        }
        // The folder is synced, so what was removed before is gone.
        state.files.retain(|_, file| !file.removed);
        Ok(Box::new(DiskSegment { disk: self.clone(), first }))
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin("remove", false)?;
        state.file(first).removed = true;
        Ok(())
    }
}

struct DiskSegment {
    disk: Disk,
    first: u64,
}

impl Segment for DiskSegment {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        Disk::write(&self.disk, self.first, at, bytes)
    }

    fn trim(&mut self, length: u64) -> io::Result<()> {
        Disk::set_len(&self.disk, self.first, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync(self.first)
    }
}
