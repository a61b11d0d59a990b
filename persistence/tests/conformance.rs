//! What every engine must pass before the journal may rest on it, at the size that fits a test run.
//!
//! C1: racing appends to one stream have one winner a number, and conflicts are typed.
//! C2 and C4: a process killed at any instant leaves batches whole and loses nothing acknowledged.
//! C15: a second process is refused the folder, and may have it once the first is gone.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use persistence::engine::{Engine, LoggedEngine, MemoryEngine, RedbEngine};
use persistence::*;

fn master() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

/// With a small table, so that moving it into the store is part of every check.
fn options(folder: &Path) -> Options {
    Options { table_bytes: 20_000, ..Options::new(folder) }
}

fn journal(folder: &Path) -> Arc<Journal> {
    Journal::open(options(folder), &master()).unwrap()
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

fn on_each_engine(check: impl Fn(&dyn Fn() -> Arc<dyn Engine>)) {
    check(&|| Arc::new(MemoryEngine::default()));
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let redb = || -> Arc<dyn Engine> {
        count.set(count.get() + 1);
        let path = folder.path().join(count.get().to_string());
        std::fs::create_dir(&path).unwrap();
        let store = RedbEngine::open(&path, 1 << 20).unwrap();
        if count.get() % 2 == 0 {
            return Arc::new(store);
        }
        Arc::new(LoggedEngine::open(&path, store, 20_000).unwrap())
    };
    check(&redb);
    check(&redb);
}

fn start(engine: Arc<dyn Engine>) -> Arc<Journal> {
    let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
    Journal::start(engine, keys, None, None, Box::new(|_| {})).unwrap()
}

#[test]
fn c1_of_racing_appends_one_wins_each_number() {
    on_each_engine(|engine| {
        let journal = start(engine());
        let (threads, rounds, streams) = (8_u64, 40_u64, 10_u64);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let journal = &journal;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let stream = format!("race/{}", round % streams);
                        let mut seq = 0;
                        // A refused appender comes back as a new incarnation, at the true head.
                        for attempt in 0.. {
                            let incarnation = (thread << 40) | (round << 20) | attempt;
                            let work = append(&stream, incarnation, seq, &[b"x"]);
                            match settle(journal, work).unwrap() {
                                Outcome::Durable(_) => break,
                                Outcome::Refused(conflict) => {
                                    assert_eq!(conflict.expected_seq, seq);
                                    assert_ne!(conflict.found_seq, seq);
                                    seq = conflict.found_seq;
                                }
                            }
                        }
                    }
                });
            }
        });
        let each = threads * rounds / streams;
        for stream in 0..streams {
            let records = journal.read(&name(&format!("race/{stream}")), 0, usize::MAX).unwrap();
            let seqs: Vec<u64> = records.iter().map(|record| record.header.seq).collect();
            assert_eq!(seqs, (1..=each).collect::<Vec<_>>());
        }
        let shard = OwnerKey { class: 1, id: 6 }.shard();
        let all = journal.read_shard(shard, 1, usize::MAX).unwrap();
        let positions: Vec<u64> = all.iter().map(|record| record.header.position.pos).collect();
        assert_eq!(positions, (1..=each * streams).collect::<Vec<_>>());
    });
}

#[test]
fn a_refused_incarnation_stays_refused_even_when_its_number_fits_again() {
    on_each_engine(|engine| {
        let journal = start(engine());
        settle(&journal, append("s/1", 1, 0, &[b"a"]));
        settle(&journal, append("s/1", 2, 1, &[b"b"]));
        let stale = settle(&journal, append("s/1", 1, 1, &[b"stale"])).unwrap();
        assert_eq!(stale, Outcome::Refused(Conflict { expected_seq: 1, found_seq: 2 }));
        let later = settle(&journal, append("s/1", 1, 2, &[b"later"])).unwrap();
        assert!(matches!(later, Outcome::Refused(_)));
        assert_eq!(journal.read(&name("s/1"), 0, 10).unwrap().len(), 2);
    });
}

#[test]
fn reads_find_what_was_written_by_stream_shard_chain_and_row() {
    on_each_engine(|engine| {
        let journal = start(engine());
        for n in 0..300_u64 {
            let mut work = append("w/1", 1, n * 2, &[&n.to_be_bytes(), b"second"]);
            work.time_ms = n as i64 * 1_000;
            let key = RowKey::new(work.owner.shard(), "list", n.to_be_bytes());
            work.rows = vec![(key, Some(n.to_be_bytes().to_vec()))];
            if n % 7 == 0 {
                settle(&journal, work).map(drop).unwrap()
            } else {
                journal.append(work);
            }
        }
        journal.close();
        let home = Home(3);
        let seqs = |records: Vec<Record>| {
            records.iter().map(|record| record.header.seq).collect::<Vec<_>>()
        };
        let got = seqs(journal.read(&name("w/1"), 250, 5).unwrap());
        assert_eq!(got[..5], [251, 252, 253, 254, 255]);
        let newest = seqs(journal.read_chain(home, u64::MAX - 1, true, 3).unwrap());
        assert_eq!(newest[..3], [600, 599, 598]);
        let forward = seqs(journal.read_chain(home, 100, false, 2).unwrap());
        assert_eq!(forward[..2], [100, 101]);
        let near = journal.chain_seq_near(home, 200_000).unwrap();
        assert!((300..=402).contains(&near), "{near}");
        let report = journal.verify_chain(home).unwrap();
        assert_eq!((report.records, report.link), (600, journal.chain_head(home).unwrap().link));
        let range = RowRange {
            shard: OwnerKey { class: 1, id: 3 }.shard(),
            family: "list",
            prefix: Vec::new(),
            after: Some(10_u64.to_be_bytes().to_vec()),
            newest_first: false,
            limit: 2,
        };
        let rows = journal.row_range(&range).unwrap();
        let values: Vec<&[u8]> = rows.iter().map(|(_, value)| value.as_slice()).collect();
        assert_eq!(values, [11_u64.to_be_bytes(), 12_u64.to_be_bytes()]);
    });
}

#[test]
fn a_failed_commit_answers_nobody_and_ends_the_writer() {
    let engine = Arc::new(MemoryEngine::default());
    let (sender, fatal) = mpsc::channel();
    let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
    let on_fatal = Box::new(move |reason: &str| {
        let _ = sender.send(reason.to_owned());
    });
    let journal = Journal::start(engine.clone(), keys, None, None, on_fatal).unwrap();
    settle(&journal, append("s/1", 1, 0, &[b"kept"])).unwrap();
    engine.fail_commits();
    assert_eq!(settle(&journal, append("s/1", 1, 1, &[b"lost"])), None);
    assert!(fatal.recv().unwrap().contains("memory could not commit"));
    assert_eq!(settle(&journal, append("s/1", 1, 1, &[b"later"])), None);
}

#[test]
fn a_journal_whose_last_holder_is_a_rider_closes_quietly() {
    let (sender, fatal) = mpsc::channel::<()>();
    let on_fatal = Box::new(move |_: &str| {
        let _ = sender.send(());
    });
    let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
    let engine = Arc::new(MemoryEngine::default());
    let journal = Journal::start(engine, keys, None, None, on_fatal).unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let held = journal.clone();
    journal.ride(Box::new(move |_| {
        let _ = wait.recv();
        drop(held);
    }));
    drop(journal);
    go.send(()).unwrap();
    // The channel closes when the writer's thread has ended, and says nothing before.
    assert!(fatal.recv().is_err());
}

#[test]
fn an_engine_behind_its_head_file_is_refused_unless_the_loss_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    settle(&journal(folder.path()), append("s/1", 1, 0, &[b"a"])).unwrap();
    let log = folder.path().join(format!("log-{:020}", 1));
    let early = std::fs::read(&log).unwrap();
    settle(&journal(folder.path()), append("s/1", 2, 1, &[b"b"])).unwrap();
    std::fs::write(&log, early).unwrap();
    let Err(error) = Journal::open(options(folder.path()), &master()) else {
        panic!("a journal that lost its tail was opened");
    };
    let OpenError::Behind { lost: 1, hash, .. } = error else { panic!("{error}") };
    let accept = Options { accept_loss: Some(hash), ..options(folder.path()) };
    drop(Journal::open(accept, &master()).unwrap());
    let journal = journal(folder.path());
    assert_eq!(journal.read(&name("s/1"), 0, 10).unwrap().len(), 1);
}

const CHILD: &str = "BAILIWICK_CONFORMANCE_CHILD";

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
    let journal = journal(folder);
    let mut seq = journal.read(&name("kill/1"), 0, usize::MAX).unwrap().len() as u64;
    println!("open {seq}");
    let incarnation = u64::from(std::process::id());
    for _ in 0..1_000_000 {
        let work = append("kill/1", incarnation, seq, &[b"first", b"second", b"third"]);
        match settle(&journal, work) {
            Some(Outcome::Durable(_)) => seq += 3,
            other => return println!("failed {other:?}"),
        }
        println!("ack {seq}");
        std::io::stdout().flush().unwrap();
    }
}

fn spawn_child(folder: &Path) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

#[test]
fn c2_and_c4_a_kill_at_any_instant_loses_nothing_acknowledged_and_halves_no_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let (mut child, output) = spawn_child(folder.path());
        // The first rounds die while the store is made and opened, later ones while it is written.
        let patience = Duration::from_micros(1_500 + round * round * 1_700);
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        if round >= 3 {
            // Only once it writes is there something to lose.
            while lines.recv().is_ok_and(|line| !line.contains("ack")) {}
        }
        let asleep = std::time::Instant::now();
        while asleep.elapsed() < patience {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        for line in lines.try_iter() {
            assert!(!line.contains("failed") && !line.contains("refused"), "{line}");
            if let Some(seq) = line.split("ack ").nth(1) {
                acknowledged = acknowledged.max(seq.trim().parse().unwrap());
            }
        }
        let journal = journal(folder.path());
        let records = journal.read(&name("kill/1"), 0, usize::MAX).unwrap();
        assert!(records.len() >= acknowledged, "{} of {acknowledged}", records.len());
        assert_eq!(records.len() % 3, 0, "a batch is there in part");
        journal.verify_chain(Home(6)).unwrap();
    }
    assert!(acknowledged > 0, "no round acknowledged anything");
}

#[test]
fn c15_a_second_process_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    assert!(matches!(FolderLock::take(folder.path()), Err(OpenError::InUse(_))));
    let (mut child, mut output) = spawn_child(folder.path());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut output, &mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("in use by another process"), "{said}");
    drop(lock);
    let (mut child, output) = spawn_child(folder.path());
    let mut lines = output.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("open")));
    assert!(matches!(FolderLock::take(folder.path()), Err(OpenError::InUse(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    FolderLock::take(folder.path()).unwrap();
}
