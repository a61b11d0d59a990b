//! What every engine must pass before the journal may rest on it, at the size that fits a test run.
//!
//! | check | where |
//! | --- | --- |
//! | C1 racing appends have one winner a number, C2 batches are whole | `contract.rs` |
//! | C4 kills, C15 a second process | `process.rs` |
//! | C6 power cuts on a bad disk, C17 the same with a mistake in it | `crash.rs`, `disk.rs` |
//! | C7 a full disk, C8 a failing one, at every call | `faults.rs` |
//! | C9 damage, C16 a newer version | `damage.rs` |
//! | C10 opening, C11 room, C12 waiting, C13 readers | `load.rs` |
//!
//! C3, C5 and the other half of C7 need a real disk and other programs: they are scripts outside.
//! Sizes are small and are set by variables named in each file; a seed that is printed repeats.
//! `tests/external/conformance_full.sh` sets them to full size.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]
#![expect(clippy::print_stdout, reason = "a check prints what it measured")]

mod contract;
mod crash;
mod damage;
mod disk;
mod faults;
mod load;
mod process;
mod story;

use std::path::Path;
use std::sync::{Arc, mpsc};

use persistence::engine::{Engine, LoggedEngine, MemoryEngine, RedbEngine, SledEngine};
use persistence::*;

/// The engines that keep a folder.
const KINDS: [EngineKind; 2] = [EngineKind::Redb, EngineKind::Sled];
const CACHE_BYTES: usize = 1 << 20;
/// Small, so that moving the table into the store is part of every check.
const TABLE_BYTES: usize = 20_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn setting_or(name: &str, usual: u64) -> u64 {
    setting(name).unwrap_or(usual)
}

fn master() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

fn options(folder: &Path, engine: EngineKind) -> Options {
    let usual = Options::new(folder);
    Options { engine, table_bytes: TABLE_BYTES, low_space_bytes: Some(0), ..usual }
}

fn journal(folder: &Path, engine: EngineKind) -> Arc<Journal> {
    Journal::open(options(folder, engine), &master()).unwrap()
}

/// The engine as a journal has it, by itself.
fn open_engine(folder: &Path, kind: EngineKind, table_bytes: usize) -> Arc<dyn Engine> {
    match kind {
        EngineKind::Memory => Arc::new(MemoryEngine::default()),
        EngineKind::Redb => {
            let store = RedbEngine::open(folder, CACHE_BYTES).unwrap();
            Arc::new(LoggedEngine::open(folder, store, table_bytes).unwrap())
        }
        EngineKind::Sled => {
            let store = SledEngine::open(folder, CACHE_BYTES).unwrap();
            Arc::new(LoggedEngine::open(folder, store, table_bytes).unwrap())
        }
    }
}

/// Runs a check on every engine: each behind the log, each alone, and the one in memory.
fn each_store(check: impl Fn(&dyn Fn() -> Arc<dyn Engine>)) {
    for kind in [EngineKind::Memory, EngineKind::Redb, EngineKind::Sled] {
        let folder = tempfile::tempdir().unwrap();
        check(&|| open_engine(folder.path(), kind, TABLE_BYTES));
    }
    let folder = tempfile::tempdir().unwrap();
    check(&|| Arc::new(RedbEngine::open(folder.path(), CACHE_BYTES).unwrap()));
    check(&|| Arc::new(SledEngine::open(folder.path(), CACHE_BYTES).unwrap()));
}

fn name(stream: &str) -> StreamName {
    StreamName::new(stream).unwrap()
}

fn append(stream: &str, incarnation: u64, expected_seq: u64, payloads: &[&[u8]]) -> Append {
    let owner = OwnerKey { class: 1, id: stream.len() as u128 };
    let record = |payload: &&[u8]| NewRecord {
        event: "happened".into(),
        event_version: 1,
        payload: payload.to_vec(),
    };
    Append {
        stream: name(stream),
        owner,
        home: Home(owner.id),
        incarnation,
        expected_seq,
        records: payloads.iter().map(record).collect(),
        caller: "user/test".into(),
        request: 1.into(),
        cause: None,
        command: "test".into(),
        time_ms: 1_000,
        rows: Vec::new(),
        rider: Box::new(|_| {}),
    }
}

/// Appends and waits; `None` when the rider was dropped.
fn settle(journal: &Journal, mut work: Append) -> Option<Outcome> {
    let (sender, receiver) = mpsc::channel();
    work.rider = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    journal.append(work);
    receiver.recv().ok()
}
