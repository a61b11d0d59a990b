//! C10 to C13: what it costs to open, to rewrite, to wait and to be read from, with time and room
//! as figures that are printed. `CONFORMANCE_MB`, `CONFORMANCE_REWRITES` and
//! `CONFORMANCE_LATENCY_SECONDS` are the sizes.
//!
//! C14, the copy of a journal that is being written, is checked where the copy is made.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use persistence::engine::{Direction, Engine, WriteBatch};

use crate::{KINDS, append, each_store, journal, name, open_engine, setting, setting_or, settle};

/// How long a store that was killed may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

fn size_of(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let Ok(found) = entry.metadata() else { continue };
        bytes += if found.is_dir() { size_of(&entry.path()) } else { found.len() };
    }
    bytes
}

#[test]
fn c10_a_killed_store_opens_within_two_seconds_however_large() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let megabytes = setting_or("CONFORMANCE_MB", 24);
        crate::process::grown_then_killed(folder.path(), kind, megabytes);
        let started = Instant::now();
        let journal = journal(folder.path(), kind);
        let took = started.elapsed();
        let head = journal.stream_head(&name("grow/1")).unwrap();
        println!("{}: {} bytes opened in {took:?}", kind.name(), size_of(folder.path()));
        assert!(head > 0);
        assert!(took < OPEN_LIMIT, "{} took {took:?}", kind.name());
    }
}

/// Puts what comes and deletes what came long ago: what is live stays as it is.
#[test]
fn c11_what_is_deleted_or_rewritten_makes_room() {
    let rounds = setting_or("CONFORMANCE_REWRITES", 60);
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let engine = open_engine(folder.path(), kind);
        let (mut early, mut most) = (0, 0);
        let value = |round: u64| vec![round as u8; 1_000];
        for round in 0..rounds {
            let mut batch = WriteBatch::default();
            for key in 0..50_u64 {
                batch.put(format!("hot/{key}").into_bytes(), value(round));
                batch.put(format!("log/{round:08}/{key}").into_bytes(), value(round));
                if let Some(old) = round.checked_sub(10) {
                    batch.delete(format!("log/{old:08}/{key}").into_bytes());
                }
            }
            engine.commit(batch).unwrap();
            let size = size_of(folder.path());
            most = most.max(size);
            if round < rounds / 2 {
                early = most;
            }
        }
        let (live, kind) = (50 * 11 * 1_000, kind.name());
        println!("{kind}: {live} live, at most {early} in the first half, {most} in the second");
        // What is there after a while is all that there ever is.
        assert!(most <= early + early / 4, "{kind} grows: {early}, then {most}");
    }
}

#[test]
fn c12_no_commit_waits_much_longer_than_the_others() {
    let seconds = setting("CONFORMANCE_LATENCY_SECONDS");
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), kind);
        let (mut seq, mut took) = (0, Vec::new());
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(1));
        while Instant::now() < until {
            let started = Instant::now();
            settle(&journal, append("wait/1", 1, seq, &[&[7; 300]])).unwrap();
            seq += 1;
            took.push(started.elapsed());
        }
        took.sort_unstable();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        let tail = took[took.len() - 1 - took.len() / 1_000];
        let count = took.len();
        println!("{}: {count} commits, {median:?} p99.9 {tail:?} worst {worst:?}", kind.name());
        // Only a long run on a quiet machine says something about it.
        assert!(seconds.is_none() || tail < median * 10, "p99.9 {tail:?}, median {median:?}");
    }
}

#[test]
fn c13_a_reader_sees_each_batch_whole_while_the_writer_goes_on() {
    each_store(|open| {
        let engine = open();
        let pair = |n: u64| {
            let mut batch = WriteBatch::default();
            for side in ["a", "b"] {
                let key = format!("{side}/{:02}", n % 20).into_bytes();
                batch.put(key, [n.to_be_bytes().as_slice(), &[1; 5_000]].concat());
            }
            batch
        };
        let over = AtomicBool::new(false);
        let alone = commits(engine.as_ref(), 0..60, &pair);
        let (scans, mut beside) = (AtomicU64::new(0), Vec::new());
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let all = engine.scan(b"a", b"c", Direction::Forward, usize::MAX).unwrap();
                    let (first, second) = all.split_at(all.len() / 2);
                    for (one, other) in first.iter().zip(second) {
                        assert_eq!((&one.0[1..], &one.1), (&other.0[1..], &other.1));
                    }
                    scans.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut next = 60;
            while (scans.load(Ordering::Relaxed) < 3 || next < 180) && !reader.is_finished() {
                beside.extend(commits(engine.as_ref(), next..next + 20, &pair));
                next += 20;
            }
            over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        beside.sort_unstable();
        let read = scans.load(Ordering::Relaxed);
        let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
        let (alone, beside, name) = (p99(&alone), p99(&beside), engine.name());
        println!("{name}: p99 alone {alone:?}, beside {read} scans {beside:?}");
    });
}

fn commits(
    engine: &dyn Engine,
    range: std::ops::Range<u64>,
    pair: &dyn Fn(u64) -> WriteBatch,
) -> Vec<Duration> {
    let mut took: Vec<Duration> = range
        .map(|n| {
            let started = Instant::now();
            engine.commit(pair(n)).unwrap();
            started.elapsed()
        })
        .collect();
    took.sort_unstable();
    took
}
