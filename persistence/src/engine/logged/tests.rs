//! The log against a plain map, with damage, and without anybody writing.

use super::*;
use crate::engine::MemoryEngine;
use crate::engine::summed::{MOVED_UNSUMMED_KEY, sum};
use proptest::prelude::*;

fn change(key: u8, value: Option<u8>) -> WriteBatch {
    WriteBatch { changes: vec![(vec![key], value.map(|value| vec![value]))] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// With a table of a few bytes everything moves all the time; reads must not notice.
    #[test]
    fn it_reads_as_a_plain_map_does(
        changes in prop::collection::vec((0..24_u8, prop::option::of(0..9_u8)), 1..120),
        table_bytes in 1..400_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let open = |store| LoggedEngine::open(folder.path(), store, table_bytes).unwrap();
        let plain = MemoryEngine::default();
        let logged = open(MemoryEngine::default());
        for (key, value) in &changes {
            plain.commit(change(*key, *value)).unwrap();
            logged.commit(change(*key, *value)).unwrap();
            prop_assert_eq!(logged.get(&[*key]).unwrap(), plain.get(&[*key]).unwrap());
            for direction in [Direction::Forward, Direction::Backward] {
                let scan = |engine: &dyn Engine| engine.scan(&[3], &[20], direction, 5);
                prop_assert_eq!(scan(&logged).unwrap(), scan(&plain).unwrap());
            }
        }
    }
}

fn segment_path(folder: &tempfile::TempDir, first: u64) -> std::path::PathBuf {
    folder.path().join(format!("log-{first:020}"))
}

fn entries(engine: &dyn Engine) -> Vec<Pair> {
    engine.scan(&[0], &[99], Direction::Forward, 999).unwrap()
}

#[test]
fn a_torn_tail_is_trimmed_and_what_was_acknowledged_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LoggedEngine::open(folder.path(), MemoryEngine::default(), 1 << 20);
    let engine = open().unwrap();
    for key in 0..5 {
        engine.commit(change(key, Some(key))).unwrap();
    }
    drop(engine);
    let path = segment_path(&folder, 1);
    let mut whole = std::fs::read(&path).unwrap();
    // What was reserved in advance is no frame. Each of these ends with a key and a value.
    whole.truncate(whole.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    let fifth = whole.len() / 5;
    for cut in whole.len() - fifth + 1..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(entries(&open().unwrap()).len(), 4, "cut at {cut}");
        let engine = open().unwrap();
        engine.commit(change(9, Some(9))).unwrap();
        drop(engine);
        assert_eq!(entries(&open().unwrap()).len(), 5, "cut at {cut}");
    }
}

#[test]
fn zeros_in_advance_are_no_commit_and_take_nothing_away_when_a_frame_is_torn_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LoggedEngine::open(folder.path(), MemoryEngine::default(), 1 << 20).unwrap();
    let engine = open();
    for key in 0..5 {
        engine.commit(change(key, Some(key))).unwrap();
    }
    let log = engine.shared.log.lock();
    let (end, length) = (log.end as usize, log.reserved as usize);
    drop(log);
    drop(engine);
    let path = segment_path(&folder, 1);
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.len(), length);
    assert!(end < length && whole[end..].iter().all(|byte| *byte == 0));
    let mut sixth = Vec::new();
    encode_frame(&mut sixth, 6, &change(6, Some(6)).changes);
    // Any sector of it may be there without the others; here: any byte.
    for kept in 0..sixth.len() {
        let mut torn = whole.clone();
        torn[end + kept] = sixth[kept];
        std::fs::write(&path, &torn).unwrap();
        let engine = open();
        assert_eq!(entries(&engine).len(), 5, "byte {kept}");
        engine.commit(change(9, Some(9))).unwrap();
        drop(engine);
        assert_eq!(entries(&open()).len(), 6, "byte {kept}");
    }
}

#[test]
fn damage_before_the_newest_segment_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LoggedEngine::open(folder.path(), MemoryEngine::default(), 1 << 20);
    drop(open().unwrap());
    let mut frame = Vec::new();
    for number in 1..=3 {
        encode_frame(&mut frame, number, &change(1, Some(1)).changes);
        std::fs::write(segment_path(&folder, number), &frame).unwrap();
    }
    assert_eq!(open().unwrap().shared.log.lock().last, 3);
    std::fs::write(segment_path(&folder, 2), &frame[..9]).unwrap();
    let Err(error) = open() else { panic!("a damaged segment was taken") };
    assert!(error.reason.contains("damaged at byte 0"), "{error}");
    std::fs::remove_file(segment_path(&folder, 2)).unwrap();
    let Err(error) = open() else { panic!("a missing segment was not noticed") };
    assert!(error.reason.contains("commit 2 is missing before 3"), "{error}");
}

#[test]
fn a_changed_value_is_refused_and_an_old_store_stays_without_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let open = |store: MemoryEngine| LoggedEngine::open(folder.path(), store, 1).unwrap();
    let mut old = change(7, Some(7));
    old.put(MOVED_UNSUMMED_KEY.to_vec(), 0_u64.to_be_bytes().to_vec());
    let store = MemoryEngine::default();
    store.commit(old).unwrap();
    let engine = open(store);
    engine.commit(change(8, Some(8))).unwrap();
    engine.commit(change(9, Some(9))).unwrap();
    assert_eq!(entries(&engine).len(), 3);

    let folder = tempfile::tempdir().unwrap();
    let store = MemoryEngine::default();
    let (mut summed, value) = (WriteBatch::default(), vec![5, 6]);
    let with_sum = [value.as_slice(), &sum(&[4], &value)].concat();
    summed.put(vec![4], with_sum.clone());
    // The same under a key that it was not written under.
    summed.put(vec![3], with_sum);
    store.commit(summed).unwrap();
    let engine = LoggedEngine::open(folder.path(), store, 1).unwrap();
    assert_eq!(engine.get(&[4]).unwrap(), Some(value));
    let error = engine.get(&[3]).unwrap_err();
    assert!(error.reason.contains("checksum"), "{error}");
    engine.scan(&[0], &[99], Direction::Forward, 9).unwrap_err();
}

#[test]
fn a_table_that_nothing_is_added_to_is_moved() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryEngine::default();
    let segments = Arc::new(FolderSegments::new(folder.path()));
    let engine = LoggedEngine::open_still(segments, store, 1 << 20).unwrap();
    let shared = engine.shared.clone();
    let held = || shared.tables.read().active.len();
    assert_eq!(shared.freeze_unless_grown_since(0).unwrap(), 0, "there is nothing to move");
    assert!(!engine.move_frozen().unwrap());

    engine.commit(change(1, Some(1))).unwrap();
    assert_eq!(shared.freeze_unless_grown_since(0).unwrap(), 1, "something was added since");
    assert_eq!(held(), 1);
    assert_eq!(shared.freeze_unless_grown_since(1).unwrap(), 1);
    assert_eq!(held(), 0);
    assert_eq!(entries(&engine).len(), 1, "it is read until it is moved");
    assert!(engine.move_frozen().unwrap());
    assert_eq!(shared.store.get(&[1]).unwrap(), Some(vec![1]));
    assert!(!segment_path(&folder, 1).exists());

    engine.commit(change(2, Some(2))).unwrap();
    assert_eq!(entries(&engine).len(), 2);
    assert!(segment_path(&folder, 2).exists());
}
