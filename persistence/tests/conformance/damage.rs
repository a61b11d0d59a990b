//! C9: a flipped bit, a zeroed sector, a cut file, anywhere in the folder of a journal that was
//! closed. What is read then is right, or it is refused. C16: a newer folder is refused untouched.
//!
//! `CONFORMANCE_DAMAGES` is how many damages each engine gets.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use persistence::{
    Append, EngineKind, Home, Journal, OpenError, OwnerKey, RowKey, RowRange, check_store,
};

use crate::disk::Random;
use crate::{KINDS, append, journal, name, options, setting_or, settle};

const STREAMS: u64 = 12;
const ROUNDS: u64 = 40;
const SECTOR_BYTES: usize = 512;

fn payload(stream: u64, round: u64) -> Vec<u8> {
    Random(stream << 32 | round).bytes(200 + (round % 7) as usize * 50)
}

fn work(stream: u64, round: u64) -> Append {
    let text = format!("damage/{stream:03}");
    let bytes = payload(stream, round);
    let mut work = append(&text, 1, round, &[&bytes]);
    work.owner = OwnerKey { class: 1, id: 5 };
    work.home = Home(5);
    let key = RowKey::new(work.owner.shard(), "newest", stream.to_be_bytes());
    work.rows = vec![(key, Some(bytes))];
    work
}

fn fill(folder: &Path, kind: EngineKind) {
    let journal = journal(folder, kind);
    for round in 0..ROUNDS {
        for stream in 0..STREAMS {
            settle(&journal, work(stream, round)).unwrap();
        }
    }
}

/// What came of one damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// Nothing of it is to be seen.
    Whole,
    NotOpened,
    NotRead,
    /// Reading answered wrongly, and only verifying tells: the chain, or the store's pages.
    NotVerified,
    /// Nothing tells.
    Silent,
}

fn look(folder: &Path, kind: EngineKind) -> Found {
    let sound = check_store(folder).is_ok();
    let Ok(journal) = Journal::open(options(folder, kind), &crate::master()) else {
        return Found::NotOpened;
    };
    let mut right = true;
    for stream in 0..STREAMS {
        let text = format!("damage/{stream:03}");
        let Ok(records) = journal.read(&name(&text), 0, usize::MAX) else { return Found::NotRead };
        let payloads: Vec<Vec<u8>> = records.into_iter().map(|record| record.payload).collect();
        right &= payloads == (0..ROUNDS).map(|round| payload(stream, round)).collect::<Vec<_>>();
    }
    let range = RowRange {
        shard: OwnerKey { class: 1, id: 5 }.shard(),
        family: "newest",
        prefix: Vec::new(),
        after: None,
        newest_first: false,
        limit: usize::MAX,
    };
    let Ok(rows) = journal.row_range(&range) else { return Found::NotRead };
    let rows: Vec<Vec<u8>> = rows.into_iter().map(|(_, value)| value).collect();
    let rows_right = rows == (0..STREAMS).map(|it| payload(it, ROUNDS - 1)).collect::<Vec<_>>();
    match journal.verify_chain(Home(5)) {
        Ok(report) if report.records == STREAMS * ROUNDS && right && rows_right => Found::Whole,
        Ok(_) if sound => Found::Silent,
        Ok(_) => Found::NotVerified,
        Err(_) if right && rows_right => Found::NotRead,
        Err(_) => Found::NotVerified,
    }
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.push(path);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let mut all = Vec::new();
    files(from, &mut all);
    for folder in ["journal.sled/blobs"].iter().filter(|folder| from.join(folder).exists()) {
        fs::create_dir_all(to.join(folder)).unwrap();
    }
    for path in all {
        let copied = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(copied.parent().unwrap()).unwrap();
        fs::copy(&path, copied).unwrap();
    }
}

/// Damages one file of the folder that holds data. Answers what it did, unless nothing changed.
fn damage(folder: &Path, random: &mut Random) -> Option<String> {
    let mut all = Vec::new();
    files(folder, &mut all);
    // The keys have checks of their own, and these records are not sealed.
    all.retain(|path| !path.ends_with("data-keys"));
    all.retain(|path| path.metadata().unwrap().len() > 0);
    all.sort();
    // The large ones are hit more often, as a disk would.
    all.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    let first = random.below(all.len() as u64);
    let path = &all[random.below(first + 1) as usize];
    let before = fs::read(path).unwrap();
    let mut bytes = before.clone();
    let at = random.below(bytes.len() as u64) as usize;
    let done = match random.below(3) {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("bit flipped at {at}")
        }
        1 => {
            let start = at / SECTOR_BYTES * SECTOR_BYTES;
            let end = bytes.len().min(start + SECTOR_BYTES);
            bytes[start..end].fill(0);
            format!("sector zeroed at {start}")
        }
        _ => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
    };
    fs::write(path, &bytes).unwrap();
    (bytes != before).then(|| format!("{}: {done}", path.display()))
}

fn damaged(kind: EngineKind) -> BTreeMap<Found, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), kind);
    assert_eq!(look(folder.path(), kind), Found::Whole);
    let mut found: BTreeMap<Found, Vec<String>> = BTreeMap::new();
    for seed in 0..setting_or("CONFORMANCE_DAMAGES", 60) {
        let copied = tempfile::tempdir().unwrap();
        copy(folder.path(), copied.path());
        let Some(done) = damage(copied.path(), &mut Random(seed)) else { continue };
        // A panic is no answer, so it is none that is wrong.
        let looked = catch_unwind(AssertUnwindSafe(|| look(copied.path(), kind)));
        let seen = looked.unwrap_or(Found::NotRead);
        found.entry(seen).or_default().push(format!("{seed}: {done}"));
    }
    for (seen, damages) in &found {
        println!("{}: {seen:?} {}", kind.name(), damages.len());
    }
    found
}

/// A key that is damaged inside a store's tree may be left out by a reader, until it is verified:
/// rarely, and never so that verifying does not tell.
fn unnoticed_never(found: &BTreeMap<Found, Vec<String>>) {
    assert_eq!(found.get(&Found::Silent), None);
    let all: usize = found.values().map(Vec::len).sum();
    let late = found.get(&Found::NotVerified).map_or(0, Vec::len);
    assert!(late * 50 <= all, "{late} of {all} were noticed late");
    assert!(found.contains_key(&Found::NotOpened));
}

#[test]
fn c9_no_damage_to_redb_or_its_log_goes_unnoticed() {
    unnoticed_never(&damaged(EngineKind::Redb));
}

#[test]
fn c9_no_damage_to_sled_or_its_log_goes_unnoticed() {
    unnoticed_never(&damaged(EngineKind::Sled));
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = Vec::new();
    files(folder, &mut all);
    all.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn c16_a_folder_of_a_newer_version_or_another_engine_is_refused_before_any_write() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        settle(&journal(folder.path(), kind), append("s/1", 1, 0, &[b"a"])).unwrap();
        let other = KINDS.into_iter().find(|other| *other != kind).unwrap();
        let before = contents(folder.path());
        let Err(error) = Journal::open(options(folder.path(), other), &crate::master()) else {
            panic!("{} was opened as {}", kind.name(), other.name());
        };
        let text = error.to_string();
        assert!(matches!(error, OpenError::OtherEngine { .. }), "{text}");
        assert!(text.contains(kind.name()) && text.contains(other.name()), "{text}");
        assert!(text.contains("bailiwick journal copy"), "{text}");
        assert_eq!(contents(folder.path()), before);

        let marker = folder.path().join("journal-format");
        fs::write(&marker, format!("{} 999\n", kind.name())).unwrap();
        let before = contents(folder.path());
        let newer = Journal::open(options(folder.path(), kind), &crate::master());
        assert!(matches!(newer, Err(OpenError::Newer { found: 999, .. })));
        assert_eq!(contents(folder.path()), before);
    }
}
