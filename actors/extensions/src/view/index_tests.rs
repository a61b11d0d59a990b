//! A `where` that is read by an index, whatever becomes of the index meanwhile: it finds what it
//! would find among all documents.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};

use serde_json::json;
use types::{AppId, UserId};

use super::*;
use crate::ir::Filter;
use crate::session::indexes::{Index, Stage};

/// Durable rows, and the index sets that are there one reading after the other; the last one stays.
#[derive(Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: BTreeSet<Vec<u8>>,
    sets: RefCell<VecDeque<Option<Index>>>,
    sets_read: Cell<u32>,
    ids: Cell<u128>,
}

impl Rows for Table {
    fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key).cloned()
    }

    fn rows(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_next = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|it| key > it);
        let rows = self.rows.iter().filter(|(key, _)| is_next(key));
        rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    fn new_id(&self) -> u128 {
        self.ids.set(self.ids.get() + 1);
        1_000_000 + self.ids.get()
    }

    fn index_set(&self, _: &[u8]) -> Option<Vec<u8>> {
        self.sets_read.set(self.sets_read.get() + 1);
        let mut sets = self.sets.borrow_mut();
        let set = if sets.len() > 1 { sets.pop_front()? } else { sets.front()?.clone() };
        codec::encode(&(9_u32, vec![set?])).ok()
    }

    fn index_keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        let is_next = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|it| key > it);
        self.entries.iter().filter(|key| is_next(key)).take(limit).cloned().collect()
    }
}

fn scope() -> Scope {
    Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
}

fn index(number: u32) -> Index {
    let (kind, field) = ("book".to_owned(), "even".to_owned());
    Index { number, kind, field, salt: u128::from(number) + 5, stage: Stage::Ready }
}

/// So many documents, all of them in the indexes of these numbers.
fn with(documents: u128, filled: &[u32], sets: &[Option<Index>]) -> View<Table> {
    let mut table =
        Table { sets: RefCell::new(sets.iter().cloned().collect()), ..Table::default() };
    for id in 1..=documents {
        let (even, at) = (json!(id % 2 == 0), Timestamp(0));
        let data = JsonBytes::from(json!({"n": id as u64, "even": even}));
        let stored = StoredDocument { version: 3, created_at: at, updated_at: at, data };
        let row = codec::encode(&stored).unwrap();
        table.rows.insert(scope().document_key("book", id), row);
        for number in filled {
            let digest = index(*number).digest(&even).unwrap();
            let prefix = scope().value_prefix(*number, digest);
            table.entries.insert([&prefix[..], &id.to_be_bytes()].concat());
        }
    }
    View::new(table, scope(), Timestamp(60_000))
}

/// The numbers of the documents that are even.
fn even(view: &mut View<Table>) -> Vec<u64> {
    let filter = Filter::parse(&json!({"even": true})).unwrap();
    let query = Query { kind: "book", filter: Some(&filter), ids: None, limit: 1_000 };
    let found = view.list(&query).unwrap();
    found.iter().map(|document| document.data["n"].as_u64().unwrap()).collect()
}

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn an_index_that_becomes_ready_meanwhile_is_used_from_the_next_time_on() {
    let building = Index { stage: Stage::Building(Some(2)), ..index(0) };
    let mut view = with(6, &[0], &[Some(building), Some(index(0))]);
    assert_eq!(even(&mut view), [2, 4, 6]);
    assert_eq!(view.rows.sets_read.get(), 1, "what was looked for among all needs no second look");
    // What it does not have leads to nothing: it is read by the index, once the set is read anew.
    view.indexes = None;
    view.rows.entries.clear();
    assert!(even(&mut view).is_empty());
}

#[test]
fn one_that_was_declared_anew_is_read_in_its_new_place() {
    // Its old rows are swept, and its number is not given again.
    let mut view = with(6, &[1], &[Some(index(0)), Some(index(1))]);
    assert_eq!(even(&mut view), [2, 4, 6]);
    // Gone for good, and not ready yet again: among all.
    let building = Index { stage: Stage::Building(None), ..index(1) };
    for set in [None, Some(building)] {
        let mut view = with(6, &[], &[Some(index(0)), set]);
        assert_eq!(even(&mut view), [2, 4, 6]);
    }
}

#[test]
fn one_that_is_another_each_time_is_left_alone_in_the_end() {
    let sets: Vec<_> = (0..100).map(|number| Some(index(number))).collect();
    let mut view = with(6, &[], &sets);
    assert_eq!(even(&mut view), [2, 4, 6]);
    assert_eq!(view.rows.sets_read.get(), INDEX_CHANGES_MAX + 1);
}

#[test]
fn what_a_batch_has_written_is_found_as_if_it_were_in_the_index() {
    let write = |view: &mut View<Table>| {
        let set = |even: bool| fields(json!({"even": even}));
        assert!(view.update("book", &shown_id(2), &set(false)).unwrap());
        assert!(view.update("book", &shown_id(3), &set(true)).unwrap());
        assert!(view.delete("book", &shown_id(4)).unwrap());
        view.create("book", fields(json!({"n": 601, "even": true}))).unwrap();
        view.keep_item();
        assert!(view.update("book", &shown_id(6), &set(false)).unwrap());
        view.drop_item();
        even(view)
    };
    let by_index = write(&mut with(600, &[0], &[Some(index(0))]));
    assert_eq!(by_index, write(&mut with(600, &[], &[])));
    assert_eq!((by_index[0], by_index[1], by_index.last()), (3, 6, Some(&601)));
}

/// What is checked when a run is applied, and what is not: see the head of the file.
#[test]
fn a_list_is_checked_for_what_it_found_and_not_for_what_it_passed() {
    for (filled, sets) in [(&[0][..], vec![Some(index(0))]), (&[][..], Vec::new())] {
        let mut view = with(4, filled, &sets);
        assert_eq!(even(&mut view), [2, 4]);
        view.create("book", Map::new()).unwrap();
        view.keep_item();
        let (mut reads, _) = view.finish();
        reads.sort();
        let key = |id| scope().document_key("book", id);
        assert_eq!(reads, [(key(2), Some(3)), (key(4), Some(3))]);
    }
}
