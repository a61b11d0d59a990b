//! C14: backups at random instants under load, restored and compared; then archives and copies.
//!
//! Every append writes a row with the stream's new head in the same batch, so that a backup that
//! tore a batch apart shows.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use persistence::archive::{ARCHIVE_FOLDER, ArchiveId, ArchiveRules};
use persistence::backup::{BackupError, check_backup};
use persistence::engine::{Engine, LoggedEngine, MemoryEngine, RedbEngine};
use persistence::restore::{
    KEY_FILE, NewFolder, RestoreError, check_restore, copy_folder, restore,
};
use persistence::*;

const STREAMS: u128 = 6;
const TABLE_BYTES: usize = 20_000;

fn master() -> MasterKey {
    MasterKey::from_bytes([7; 32])
}

fn options(folder: &Path) -> Options {
    Options { table_bytes: TABLE_BYTES, ..Options::new(folder) }
}

fn open(folder: &Path) -> Arc<Journal> {
    std::fs::create_dir_all(folder).unwrap();
    Journal::open(options(folder), &master()).unwrap()
}

fn name(stream: u128) -> StreamName {
    StreamName::new(&format!("load/{stream}")).unwrap()
}

fn owner(stream: u128) -> OwnerKey {
    OwnerKey { class: 1, id: stream }
}

fn head_row(stream: u128) -> RowKey {
    RowKey::new(owner(stream).shard(), "head", stream.to_be_bytes())
}

/// An append of one record, whose row says how far the stream has come with it.
fn append(journal: &Journal, stream: u128, seq: u64) -> Append {
    let row = head_row(stream);
    let key = KeyId { class: 1, id: stream };
    let value = journal.keys().seal(key, &row.bytes(), &(seq + 1).to_be_bytes()).unwrap();
    let payload = journal.keys().seal(key, b"payload", &[b'x'; 200]).unwrap();
    Append {
        stream: name(stream),
        owner: owner(stream),
        home: Home(stream),
        incarnation: stream as u64 + 1,
        expected_seq: seq,
        records: vec![NewRecord { event: "happened".into(), event_version: 1, payload }],
        caller: "user/test".into(),
        request: 1.into(),
        cause: None,
        command: "test".into(),
        time_ms: seq as i64 * 1_000,
        rows: vec![(row, Some(value))],
        rider: Box::new(|_| {}),
    }
}

fn settle(journal: &Journal, mut work: Append) {
    let (sender, receiver) = mpsc::channel();
    work.rider = Box::new(move |outcome| {
        let _ = sender.send(outcome);
    });
    journal.append(work);
    assert!(matches!(receiver.recv().unwrap(), Outcome::Durable(_)));
}

/// Until everything queued so far is durable.
fn wait(journal: &Journal) {
    let (sender, receiver) = mpsc::channel();
    journal.ride(Box::new(move |_| {
        let _ = sender.send(());
    }));
    receiver.recv().unwrap();
}

fn fill(journal: &Journal, stream: u128, records: u64) {
    for seq in 0..records {
        let work = append(journal, stream, seq);
        if seq % 5 == 4 {
            settle(journal, work);
        } else {
            journal.append(work);
        }
    }
}

fn quiet(_: u64) {}

fn backup(journal: &Journal, target: &Path) -> persistence::backup::BackupReport {
    journal.backup(target, 1, &mut quiet).unwrap()
}

/// What the row says, in a journal that nobody writes.
fn head_by_row(journal: &Journal, stream: u128) -> u64 {
    let Some(sealed) = journal.row(&head_row(stream)).unwrap() else { return 0 };
    match journal.keys().open_blob(&head_row(stream).bytes(), &sealed).unwrap() {
        Opened::Plain(value) => u64::from_be_bytes(value.try_into().unwrap()),
        Opened::Erased => panic!("the key of {stream} is gone"),
    }
}

/// Each way to carry a journal, with its key file in `folder`.
fn journals(folder: &Path) -> Vec<Arc<Journal>> {
    let redb = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        (RedbEngine::open(&path, 1 << 20).unwrap(), path)
    };
    let (store, path) = redb("logged");
    let logged = LoggedEngine::open(&path, store, TABLE_BYTES).unwrap();
    let engines: Vec<Arc<dyn Engine>> =
        vec![Arc::new(MemoryEngine::default()), Arc::new(redb("bare").0), Arc::new(logged)];
    let start = |(number, engine)| {
        let path = folder.join(format!("keys-{number}"));
        let keys = Arc::new(KeyRing::open(&path, &master()).unwrap());
        Journal::start(engine, keys, None, None, Box::new(|_| {})).unwrap()
    };
    engines.into_iter().enumerate().map(start).collect()
}

#[test]
fn c14_a_backup_under_load_is_a_state_that_the_store_was_in() {
    let folder = tempfile::tempdir().unwrap();
    for (number, journal) in journals(folder.path()).into_iter().enumerate() {
        let keys = folder.path().join(format!("keys-{number}"));
        let acknowledged: Vec<AtomicU64> = (0..STREAMS).map(|_| AtomicU64::new(0)).collect();
        let (stop, ceiling) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for stream in 0..STREAMS {
                let (journal, acknowledged) = (&journal, &acknowledged);
                let (stop, ceiling) = (&stop, &ceiling);
                scope.spawn(move || {
                    for seq in 0.. {
                        // So that a fast engine does not make the rounds long.
                        while seq >= ceiling.load(Ordering::Relaxed) {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            std::thread::yield_now();
                        }
                        settle(journal, append(journal, stream, seq));
                        acknowledged[stream as usize].store(seq + 1, Ordering::Release);
                    }
                });
            }
            for round in 0..4 {
                ceiling.fetch_add(100, Ordering::Relaxed);
                // Each round begins once the load has moved on, wherever it is then.
                let before = acknowledged[0].load(Ordering::Acquire);
                while acknowledged[0].load(Ordering::Acquire) < before + 10 * round {
                    std::thread::yield_now();
                }
                let heads: Vec<u64> =
                    acknowledged.iter().map(|head| head.load(Ordering::Acquire)).collect();
                let file = folder.path().join(format!("backup-{number}-{round}"));
                // The first may come before the first commit.
                let report = match journal.backup(&file, 1, &mut quiet) {
                    Err(BackupError::Empty) => continue,
                    report => report.unwrap(),
                };
                let live = journal.standing().unwrap();
                assert!(report.commit <= live.commit, "{report}");
                let restored = folder.path().join(format!("restored-{number}-{round}"));
                let new = NewFolder::begin(&restored).unwrap();
                let kind = EngineKind::Redb;
                restore(&file, new.path(), kind, &keys, &master(), &mut quiet).unwrap();
                new.finish().unwrap();
                check(&restored, &report, &heads);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// The restored store is whole, has everything that was acknowledged before, and works on.
fn check(restored: &Path, report: &persistence::backup::BackupReport, heads: &[u64]) {
    let journal = open(restored);
    let standing = journal.standing().unwrap();
    assert_ne!(standing.generation, report.generation);
    assert_eq!((standing.commit, standing.rolling), (report.commit, report.rolling));
    let mut records = 0;
    for stream in 0..STREAMS {
        let head = journal.stream_head(&name(stream)).unwrap();
        assert!(head >= heads[stream as usize], "{head} of {}", heads[stream as usize]);
        assert_eq!(head_by_row(&journal, stream), head, "a batch is there in part");
        assert_eq!(journal.read(&name(stream), 0, usize::MAX).unwrap().len() as u64, head);
        records += journal.verify_chain(Home(stream)).unwrap().records;
        settle(&journal, append(&journal, stream, head));
    }
    assert_eq!(records, standing.positions.iter().sum::<u64>());
}

#[test]
fn a_backup_that_was_cut_or_changed_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("backup"));
    let journal = open(&data);
    (0..STREAMS).for_each(|stream| fill(&journal, stream, 5));
    let report = backup(&journal, &file);
    assert_eq!(check_backup(&file, None, &mut quiet).unwrap(), report);
    let whole = std::fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: String| {
        let bent = folder.path().join("bent");
        std::fs::write(&bent, bytes).unwrap();
        let error = check_backup(&bent, None, &mut quiet).unwrap_err();
        assert!(matches!(error, BackupError::File(_)), "{what}: {error}");
        assert!(error.to_string().contains("bent"), "{what}: {error}");
    };
    for cut in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
        refused(&whole[..cut], format!("cut at {cut}"));
    }
    for at in (0..whole.len()).step_by(61) {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        refused(&bent, format!("changed at {at}"));
    }
}

#[test]
fn keys_that_are_not_the_backups_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("backup"));
    let journal = open(&data);
    fill(&journal, 0, 5);
    let old_keys = folder.path().join("old-keys");
    std::fs::copy(data.join(KEY_FILE), &old_keys).unwrap();
    fill(&journal, 1, 5);
    backup(&journal, &file);
    let foreign = folder.path().join("foreign");
    drop(open(&foreign));
    fill(&open(&foreign), 0, 5);
    fill(&open(&foreign), 1, 5);
    let check = |keys: &Path, master: &MasterKey| check_restore(&file, keys, master, &mut quiet);
    for keys in [foreign.join(KEY_FILE), old_keys] {
        let error = check(&keys, &master()).unwrap_err();
        let said = matches!(error, RestoreError::Backup(BackupError::ForeignKeys(_)));
        assert!(said, "{error}");
    }
    let other = MasterKey::from_bytes([8; 32]);
    let error = check(&data.join(KEY_FILE), &other).unwrap_err();
    assert!(matches!(error, RestoreError::Keys(SealError::MasterKey(_))), "{error}");
    check(&data.join(KEY_FILE), &master()).unwrap();
}

#[test]
fn one_backup_at_a_time_and_into_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder.path().join("data"));
    let file = folder.path().join("backup");
    assert!(matches!(journal.backup(&file, 1, &mut quiet), Err(BackupError::Empty)));
    fill(&journal, 0, 5);
    let mut second = None;
    let mut during = |_| {
        let other = folder.path().join("other");
        second.get_or_insert_with(|| journal.backup(&other, 1, &mut quiet).unwrap_err());
    };
    journal.backup(&file, 1, &mut during).unwrap();
    assert!(matches!(second, Some(BackupError::Running)));
    let again = journal.backup(&file, 1, &mut quiet).unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
}

#[test]
fn a_new_folder_takes_no_others_place_and_leaves_nothing_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let (used, target) = (folder.path().join("used"), folder.path().join("target"));
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("file"), "x").unwrap();
    assert!(matches!(NewFolder::begin(&used), Err(RestoreError::NotEmpty(_))));
    let new = NewFolder::begin(&target).unwrap();
    assert!(matches!(NewFolder::begin(&target), Err(RestoreError::Leftover(_))));
    drop(new);
    assert!(!target.exists() && NewFolder::begin(&target).is_ok());
    std::fs::create_dir(&target).unwrap();
    NewFolder::begin(&target).unwrap().finish().unwrap();
    assert!(target.exists());
}

/// A folder with three streams of 20 records in one shard each; the first two have a snapshot.
fn archived(folder: &Path) -> (Arc<Journal>, Vec<ArchiveId>) {
    let journal = open(folder);
    for stream in 0..3 {
        fill(&journal, stream, 20);
    }
    for stream in 0..2 {
        journal.snapshot(name(stream), 18, b"state".to_vec());
    }
    wait(&journal);
    let rules = ArchiveRules { before_ms: 15_000, bytes_min: 1 };
    let mut made = Vec::new();
    for stream in 0..3 {
        let mut asked = Vec::new();
        let mut cover = |header: &Header| asked.push(header.stream.clone());
        let step = journal.archive_step(owner(stream).shard(), 0, &rules, &mut cover).unwrap();
        assert_eq!(step.next_pos, None);
        match step.made {
            Some((id, entry)) => {
                assert!((1..=15).contains(&entry.contents.records), "{entry:?}");
                assert!(stream < 2 && asked.is_empty());
                made.push(id);
            }
            None => assert_eq!(asked, [name(stream)]),
        }
    }
    assert_eq!(made.len(), 2, "a stream without a snapshot keeps its records");
    (journal, made)
}

fn all_is_there(journal: &Journal) {
    for stream in 0..3 {
        let seqs = |records: Vec<Record>| -> Vec<u64> {
            records.iter().map(|record| record.header.seq).collect()
        };
        let expected: Vec<u64> = (1..=20).collect();
        assert_eq!(seqs(journal.read(&name(stream), 0, usize::MAX).unwrap()), expected);
        assert_eq!(seqs(journal.read_chain(Home(stream), 1, false, 999).unwrap()), expected);
        let shard = owner(stream).shard();
        assert_eq!(seqs(journal.read_shard(shard, 1, 999).unwrap()), expected);
        assert_eq!(journal.verify_chain(Home(stream)).unwrap().records, 20);
    }
}

#[test]
fn archived_records_are_read_as_before_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, made) = archived(folder.path());
    all_is_there(&journal);
    let rules = ArchiveRules { before_ms: 15_000, bytes_min: 1 };
    let again = journal.archive_step(made[0].shard, 0, &rules, &mut |_| {}).unwrap();
    assert!(again.made.is_none(), "nothing is archived twice");
    drop(journal);
    let journal = open(folder.path());
    all_is_there(&journal);
    // More of the same shard goes into a second archive, the first number left alone.
    let rules = ArchiveRules { before_ms: i64::MAX, bytes_min: 1 };
    let cover = |header: &Header| {
        journal.snapshot(header.stream.clone(), 20, b"state".to_vec());
    };
    let second = journal.archive_step(made[0].shard, 0, &rules, &mut { cover }).unwrap();
    assert_eq!(second.made.unwrap().0.number, 2);
    all_is_there(&journal);
    for (id, entry) in journal.archives(None, 99).unwrap() {
        journal.verify_archive(id, &entry).unwrap();
    }
    assert_eq!(journal.archives(None, 99).unwrap().len(), 3);
}

fn archive_file(folder: &Path, id: ArchiveId) -> PathBuf {
    folder.join(ARCHIVE_FOLDER).join(id.to_string())
}

#[test]
fn an_archive_that_was_changed_exchanged_or_lost_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, made) = archived(folder.path());
    let entries = journal.archives(None, 99).unwrap();
    drop(journal);
    let file = archive_file(folder.path(), made[0]);
    let whole = std::fs::read(&file).unwrap();
    let entry = |id: ArchiveId| entries.iter().find(|(found, _)| *found == id).unwrap();
    let wrong = |what: String| {
        let journal = open(folder.path());
        let (id, entry) = entry(made[0]);
        let error = journal.verify_archive(*id, entry).unwrap_err();
        assert!(error.to_string().contains(&id.to_string()), "{what}: {error}");
        journal
    };
    for at in (0..whole.len()).step_by(37) {
        let mut bent = whole.clone();
        bent[at] ^= 1;
        std::fs::write(&file, bent).unwrap();
        wrong(format!("byte {at}"));
    }
    std::fs::write(&file, std::fs::read(archive_file(folder.path(), made[1])).unwrap()).unwrap();
    wrong("exchanged".to_owned());
    std::fs::remove_file(&file).unwrap();
    let journal = wrong("lost".to_owned());
    let reads = (0..2).map(|stream| journal.verify_chain(Home(stream)));
    let named = |error: &VerifyError| {
        let VerifyError::Read(source) = error else { return false };
        source.to_string().contains(&made[0].to_string())
    };
    assert_eq!(reads.filter(|read| read.as_ref().is_err_and(named)).count(), 1);
}

#[test]
fn an_archive_whose_commit_never_came_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    fill(&journal, 0, 20);
    journal.snapshot(name(0), 20, b"state".to_vec());
    let id = ArchiveId { shard: owner(0).shard(), number: 1 };
    std::fs::create_dir(folder.path().join(ARCHIVE_FOLDER)).unwrap();
    std::fs::write(archive_file(folder.path(), id), "left by a crash").unwrap();
    let rules = ArchiveRules { before_ms: i64::MAX, bytes_min: 1 };
    let step = journal.archive_step(id.shard, 0, &rules, &mut |_| {}).unwrap();
    let (made, entry) = step.made.unwrap();
    assert_eq!((made, entry.contents.records), (id, 20));
    journal.verify_archive(id, &entry).unwrap();
    assert_eq!(journal.verify_chain(Home(0)).unwrap().records, 20);
}

#[test]
fn archives_travel_with_backups_and_copies() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("backup"));
    let (journal, made) = archived(&data);
    assert_eq!(backup(&journal, &file).archives, 2);
    drop(journal);
    let new = NewFolder::begin(&folder.path().join("restored")).unwrap();
    let keys = data.join(KEY_FILE);
    restore(&file, new.path(), EngineKind::Redb, &keys, &master(), &mut quiet).unwrap();
    new.finish().unwrap();
    let new = NewFolder::begin(&folder.path().join("copied")).unwrap();
    let report = copy_folder(&data, new.path(), EngineKind::Redb, &mut quiet).unwrap();
    assert_eq!((report.archives, report.from, report.to), (2, "redb", "redb"));
    new.finish().unwrap();
    for name in ["restored", "copied"] {
        let journal = open(&folder.path().join(name));
        all_is_there(&journal);
        let entries = journal.archives(None, 99).unwrap();
        let found: BTreeSet<_> = entries.iter().map(|(id, _)| *id).collect();
        assert_eq!(found, made.iter().copied().collect(), "{name}");
        for (id, entry) in entries {
            journal.verify_archive(id, &entry).unwrap();
        }
    }
    let standing = |name: &str| open(&folder.path().join(name)).standing().unwrap();
    assert_eq!(standing("data"), standing("copied"));
    let found = EngineKind::found_in(&folder.path().join("copied")).unwrap();
    assert_eq!(found, Some(EngineKind::Redb));
    let nothing = copy_folder(folder.path(), folder.path(), EngineKind::Redb, &mut quiet);
    assert!(matches!(nothing, Err(RestoreError::NoJournal(_))));
}
