//! C1 and C2, and what else the journal promises on whatever engine it stands.

use std::sync::{Arc, mpsc};

use persistence::engine::{Engine, MemoryEngine};
use persistence::*;

use crate::{KINDS, append, each_store, journal, master, name, options, settle};

fn start(engine: Arc<dyn Engine>) -> Arc<Journal> {
    let keys = Arc::new(KeyRing::in_memory(&master()).unwrap());
    Journal::start(engine, keys, None, None, Box::new(|_| {})).unwrap()
}

#[test]
fn c1_of_racing_appends_one_wins_each_number() {
    each_store(|engine| {
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
    each_store(|engine| {
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
    each_store(|engine| {
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
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let open = || journal(folder.path(), kind);
        settle(&open(), append("s/1", 1, 0, &[b"a"])).unwrap();
        let log = folder.path().join(format!("log-{:020}", 1));
        let early = std::fs::read(&log).unwrap();
        settle(&open(), append("s/1", 2, 1, &[b"b"])).unwrap();
        std::fs::write(&log, early).unwrap();
        let Err(error) = Journal::open(options(folder.path(), kind), &master()) else {
            panic!("a journal that lost its tail was opened");
        };
        let OpenError::Behind { lost: 1, hash, .. } = error else { panic!("{error}") };
        let accept = Options { accept_loss: Some(hash), ..options(folder.path(), kind) };
        drop(Journal::open(accept, &master()).unwrap());
        assert_eq!(open().read(&name("s/1"), 0, 10).unwrap().len(), 1);
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_told_and_refused_to_sled() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        settle(&journal(folder.path(), kind), append("s/1", 1, 0, &[b"a"])).unwrap();
        let low = Options { low_space_bytes: Some(u64::MAX), ..options(folder.path(), kind) };
        match Journal::open(low, &master()) {
            Ok(journal) => {
                assert_eq!(kind, EngineKind::Redb);
                assert!(journal.is_low_on_space() && journal.statistics().free_bytes > 0);
                // What finishes still finds its way to the disk.
                let finished = settle(&journal, append("s/1", 2, 1, &[b"b"]));
                assert!(matches!(finished, Some(Outcome::Durable(_))));
            }
            Err(error) => {
                assert!(matches!(error, OpenError::LowSpace { .. }), "{error}");
                assert_eq!(kind, EngineKind::Sled);
            }
        }
    }
}
