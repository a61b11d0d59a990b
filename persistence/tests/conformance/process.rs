//! C4: processes that are killed, at the n-th write to the disk and at any instant, while a store
//! is made, written and moved. C15: a second process on one folder.
//!
//! `CONFORMANCE_KILLS` is at how many writes, and how many instants, one is killed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use persistence::engine::segments::{FolderSegments, Segment, Segments};
use persistence::engine::{Engine, LoggedEngine, RedbEngine};
use persistence::head_file::HeadFile;
use persistence::*;
use rustix::process::{Signal, getpid, kill_process};

use crate::disk::Random;
use crate::{
    CACHE_BYTES, KINDS, TABLE_BYTES, append, journal, master, name, options, setting_or, settle,
};

const CHILD: &str = "BAILIWICK_CONFORMANCE_CHILD";
const CHILD_ENGINE: &str = "BAILIWICK_CONFORMANCE_ENGINE";
/// At which write the child kills itself, or nothing.
const CHILD_DIES_AT: &str = "BAILIWICK_CONFORMANCE_DIES_AT";
/// How many MiB the child writes before it says that it has grown.
const CHILD_GROWS: &str = "BAILIWICK_CONFORMANCE_GROWS";
/// How large the child's tables become before they are moved, in bytes.
const CHILD_TABLE_BYTES: &str = "BAILIWICK_CONFORMANCE_TABLE_BYTES";

/// Not a check by itself: the process that the checks below start, and kill.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let folder = Path::new(&folder);
    let _lock = match FolderLock::take(folder) {
        Ok(lock) => lock,
        Err(error) => return println!("refused: {error}"),
    };
    let engine = std::env::var(CHILD_ENGINE).unwrap();
    let journal = match crate::setting(CHILD_DIES_AT) {
        Some(write) => dying_journal(folder, write),
        None => {
            let usual = options(folder, EngineKind::named(&engine).unwrap());
            let table_bytes = setting_or(CHILD_TABLE_BYTES, TABLE_BYTES as u64) as usize;
            Journal::open(Options { table_bytes, ..usual }, &master()).unwrap()
        }
    };
    let grows = crate::setting(CHILD_GROWS);
    let stream = if grows.is_some() { "grow/1" } else { "kill/1" };
    let mut seq = journal.stream_head(&name(stream)).unwrap();
    println!("open {seq}");
    let incarnation = u64::from(std::process::id());
    let large = vec![7; 64 * 1024];
    let payloads: [&[u8]; 3] = match grows {
        Some(_) => [&large, &large, &large],
        None => [b"first", b"second", b"third"],
    };
    for _ in 0..1_000_000 {
        match settle(&journal, append(stream, incarnation, seq, &payloads)) {
            Some(Outcome::Durable(_)) => seq += 3,
            other => return println!("failed {other:?}"),
        }
        if grows.is_none_or(|megabytes| seq * 64 >= megabytes * 1024) {
            println!("ack {seq}");
            io::stdout().flush().unwrap();
        }
    }
}

/// The journal on redb and the log, with files that kill the process at a write.
fn dying_journal(folder: &Path, write: u64) -> Arc<Journal> {
    let keys = Arc::new(KeyRing::open(&folder.join("data-keys"), &master()).unwrap());
    drop(RedbEngine::open(folder, CACHE_BYTES).unwrap());
    let fuse = Arc::new(AtomicU64::new(write));
    let path = folder.join("journal.redb");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let store = RedbEngine::on(DyingFile(file, fuse.clone()), CACHE_BYTES).unwrap();
    let segments = Arc::new(DyingSegments(FolderSegments::new(folder), fuse));
    let still = LoggedEngine::open_still(segments, store, TABLE_BYTES / 4).unwrap();
    let engine = Arc::new(Moving(still));
    let head = HeadFile::open(&folder.join("head")).unwrap();
    Journal::start(engine, keys, Some(head), None, Box::new(|_| {})).unwrap()
}

/// Moves each table at once, on the writer's thread: the n-th write is then always the same one.
struct Moving(LoggedEngine<RedbEngine>);

impl Engine for Moving {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn commit(&self, batch: engine::WriteBatch) -> Result<(), EngineError> {
        self.0.commit(batch)?;
        self.0.move_frozen().map(drop)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: engine::Direction,
        limit: usize,
    ) -> Result<Vec<engine::Pair>, EngineError> {
        self.0.scan(start, end, direction, limit)
    }

    fn syncs_per_commit(&self) -> u32 {
        self.0.syncs_per_commit()
    }
}

/// Counts a write down. At the last one half of it is done, and the process is no more.
fn burn(fuse: &AtomicU64, half: impl FnOnce()) {
    if fuse.fetch_sub(1, Ordering::Relaxed) == 1 {
        half();
        kill_process(getpid(), Signal::KILL).unwrap();
    }
}

#[derive(Debug)]
struct DyingFile(File, Arc<AtomicU64>);

impl redb::StorageBackend for DyingFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        burn(&self.1, || {});
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        burn(&self.1, || {});
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        burn(&self.1, || self.0.write_all_at(&data[..data.len() / 2], offset).unwrap());
        self.0.write_all_at(data, offset)
    }
}

struct DyingSegments(FolderSegments, Arc<AtomicU64>);

impl Segments for DyingSegments {
    fn list(&self) -> io::Result<Vec<u64>> {
        self.0.list()
    }

    fn read(&self, first: u64) -> io::Result<Vec<u8>> {
        self.0.read(first)
    }

    fn open(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        burn(&self.1, || {});
        Ok(Box::new(DyingSegment(self.0.open(first)?, self.1.clone())))
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        burn(&self.1, || {});
        self.0.remove(first)
    }
}

struct DyingSegment(Box<dyn Segment>, Arc<AtomicU64>);

impl Segment for DyingSegment {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let Self(segment, fuse) = self;
        burn(fuse, || segment.write(at, &bytes[..bytes.len() / 2]).unwrap());
        segment.write(at, bytes)
    }

    fn trim(&mut self, length: u64) -> io::Result<()> {
        burn(&self.1, || {});
        self.0.trim(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        burn(&self.1, || {});
        self.0.sync()
    }
}

type Output = BufReader<std::process::ChildStdout>;

fn spawn_child(folder: &Path, kind: EngineKind, more: &[(&str, u64)]) -> (Child, Output) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::child", "--nocapture"])
        .env(CHILD, folder)
        .env(CHILD_ENGINE, kind.name())
        .envs(more.iter().map(|(name, value)| (name, value.to_string())))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// What the child acknowledged last.
fn acknowledged(lines: impl Iterator<Item = String>) -> Option<usize> {
    let mut last = None;
    for line in lines {
        assert!(!line.contains("failed") && !line.contains("refused"), "{line}");
        if let Some(seq) = line.split("ack ").nth(1) {
            last = Some(seq.trim().parse().unwrap());
        }
    }
    last
}

fn check_after(folder: &Path, kind: EngineKind, acknowledged: usize) {
    let journal = journal(folder, kind);
    let records = journal.read(&name("kill/1"), 0, usize::MAX).unwrap();
    assert!(records.len() >= acknowledged, "{} of {acknowledged}", records.len());
    assert_eq!(records.len() % 3, 0, "a batch is there in part");
    journal.verify_chain(Home(6)).unwrap();
}

/// Lets a child write until `megabytes` are there, and kills it.
pub(crate) fn grown_then_killed(folder: &Path, kind: EngineKind, megabytes: u64, table_bytes: u64) {
    let more = [(CHILD_GROWS, megabytes), (CHILD_TABLE_BYTES, table_bytes)];
    let (mut child, output) = spawn_child(folder, kind, &more);
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("ack")), "it never grew");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn c4_a_kill_at_the_nth_write_loses_nothing_acknowledged_and_halves_no_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (mut last, mut writes) = (0, 0);
    for kill in 0..setting_or("CONFORMANCE_KILLS", 16) {
        // Odd steps, so that every kind of write is met in the end.
        let write = if kill < 200 { 1 + kill * 7 % 211 } else { kill };
        let (mut child, output) = spawn_child(folder.path(), KINDS[0], &[(CHILD_DIES_AT, write)]);
        let seen = acknowledged(output.lines().map_while(Result::ok));
        assert!(!child.wait().unwrap().success(), "it outlived write {write}");
        last = seen.unwrap_or(last).max(last);
        writes += u64::from(seen.is_some());
        check_after(folder.path(), KINDS[0], last);
    }
    assert!(writes > 0 && last > 0, "no round acknowledged anything");
}

#[test]
fn c2_and_c4_a_kill_at_any_instant_loses_nothing_acknowledged_and_halves_no_batch() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let mut last = 0;
        for round in 0..setting_or("CONFORMANCE_KILLS", 12) {
            let patience = Duration::from_micros(Random(round).below(60_000));
            last =
                killed_after(folder.path(), kind, round >= 2, patience).unwrap_or(last).max(last);
            check_after(folder.path(), kind, last);
        }
        assert!(last > 0, "no round of {} acknowledged anything", kind.name());
    }
}

#[test]
fn c4_a_kill_while_a_store_is_made_leaves_one_that_opens() {
    for kind in KINDS {
        for round in 0..setting_or("CONFORMANCE_KILLS", 12) {
            let folder = tempfile::tempdir().unwrap();
            let patience = Duration::from_micros(Random(round).below(25_000));
            let last = killed_after(folder.path(), kind, false, patience).unwrap_or(0);
            check_after(folder.path(), kind, last);
        }
    }
}

/// Kills a child so long after it was started, or after it first acknowledged something.
fn killed_after(
    folder: &Path,
    kind: EngineKind,
    once_it_writes: bool,
    patience: Duration,
) -> Option<usize> {
    let (mut child, output) = spawn_child(folder, kind, &[]);
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    if once_it_writes {
        while lines.recv().is_ok_and(|line| !line.contains("ack")) {}
    }
    let asleep = std::time::Instant::now();
    while asleep.elapsed() < patience {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    acknowledged(lines.try_iter())
}

#[test]
fn c15_a_second_process_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    assert!(matches!(FolderLock::take(folder.path()), Err(OpenError::InUse(_))));
    let (mut child, mut output) = spawn_child(folder.path(), KINDS[0], &[]);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut output, &mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("in use by another process"), "{said}");
    drop(lock);
    let (mut child, output) = spawn_child(folder.path(), KINDS[0], &[]);
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("open")));
    assert!(matches!(FolderLock::take(folder.path()), Err(OpenError::InUse(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    FolderLock::take(folder.path()).unwrap();
}
