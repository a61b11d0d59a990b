//! What a run sees of its documents: the durable ones, changed by what the batch has written so
//! far, and what it remembers of it: the versions read, and the writes.
//!
//! Items of a batch see what the items before them wrote. What a failed item read and wrote is
//! dropped ([`View::drop_item`]).
//!
//! What is serialisable, and what is not. A run that writes is applied only while every document
//! that it got by its id, or that a list of its found, is in the version in which it was read, and
//! what was missing by its id is missing still: so no change is lost, and nothing is decided by a
//! document that is another by now. What a list did not find is not checked: a document that comes
//! to be, or comes to match, between the reading and the applying is not noticed, and two runs that
//! each make sure that there is none may both make one. A list is no snapshot, either: it is read
//! page by page, and may have seen one part of what another run wrote and not the other, of which
//! what it found is checked. A run that writes nothing is not checked at all. Who needs more reads
//! one document by its id and changes it with what depends on it.
//!
//! An index may come, go and come again while a run reads: a list that was read by one is read
//! again unless the same one is there afterwards. Numbers of indexes are never given twice, so the
//! same one is one that was there all the time.
//!
//! Deliberate limits
//! - A `where` looks at [`EXAMINED_MAX`] documents at most; then the step fails and names the
//!   fields by which to narrow it. A test for equality whose field has an index that is ready
//!   ([`crate::session::indexes`]) looks at the documents that the index leads to alone.
//! - A batch writes [`WRITES_MAX`] documents and [`WRITES_BYTES_MAX`] bytes at most, because it is
//!   recorded as one event.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use persistence::{RowRange, Shard, codec};
use serde_json::{Map, Value};
use supervision::{System, Timestamp};
use types::{CallId, JsonBytes, TenantId, base32, owner_of_tenant, rfc3339};

use crate::ir::{DOCUMENT_BYTES_MAX, Document, Documents, Query, Reason};
use crate::session::indexes::{INDEX_FAMILY, INDEX_SET_FAMILY, Indexes};
use crate::session::{DOCUMENT_FAMILY, DocumentWrite, ReadRow, Scope, StoredDocument};

/// Documents that one query looks at.
pub const EXAMINED_MAX: usize = 10_000;
/// Documents that one batch writes.
pub const WRITES_MAX: usize = 10_000;
/// Bytes of the documents that one batch writes.
pub const WRITES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often a list is read because its index is another one after the reading; then it is looked
/// for among all documents.
const INDEX_CHANGES_MAX: u32 = 4;
/// Rows that one step of a listing reads.
const ROWS_STEP: usize = 256;
/// What the ids of documents begin with.
const ID_PREFIX: &str = "doc_";

/// Where durable documents come from.
pub trait Rows {
    /// A document's row.
    fn row(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// Up to `limit` rows whose keys begin so and come after `after`, by key.
    fn rows(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)>;
    /// A new document's id.
    fn new_id(&self) -> u128;
    /// The row that tells which indexes there are.
    fn index_set(&self, key: &[u8]) -> Option<Vec<u8>>;
    /// Up to `limit` keys of index rows that begin so and come after `after`, by key.
    fn index_keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>>;
}

impl<R: Rows> Rows for &R {
    fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).row(key)
    }

    fn rows(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        (**self).rows(prefix, after, limit)
    }

    fn new_id(&self) -> u128 {
        (**self).new_id()
    }

    fn index_set(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).index_set(key)
    }

    fn index_keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        (**self).index_keys(prefix, after, limit)
    }
}

/// The durable rows of a tenant.
pub struct SystemRows {
    system: Arc<System>,
    shard: Shard,
}

impl SystemRows {
    /// Those of the tenant that a scope names.
    pub fn new(system: &Arc<System>, scope: &Scope) -> Self {
        Self::of_tenant(system, scope.tenant)
    }

    /// Those of a tenant.
    pub fn of_tenant(system: &Arc<System>, tenant: TenantId) -> Self {
        Self { system: Arc::clone(system), shard: owner_of_tenant(tenant).shard() }
    }
}

impl Rows for SystemRows {
    fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.system.row(self.shard, DOCUMENT_FAMILY, key)
    }

    fn rows(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.range(DOCUMENT_FAMILY, prefix, after, limit)
    }

    fn new_id(&self) -> u128 {
        self.system.new_id()
    }

    fn index_set(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.system.row(self.shard, INDEX_SET_FAMILY, key)
    }

    fn index_keys(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        let rows = self.range(INDEX_FAMILY, prefix, after, limit);
        rows.into_iter().map(|(key, _)| key).collect()
    }
}

impl SystemRows {
    fn range(
        &self,
        family: &'static str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.system.rows(&RowRange {
            shard: self.shard,
            family,
            prefix: prefix.to_vec(),
            after: after.map(<[u8]>::to_vec),
            newest_first: false,
            limit,
        })
    }
}

/// A document that was written, by the key of its row.
#[derive(Clone)]
struct Written {
    kind: String,
    id: u128,
    document: Option<StoredDocument>,
}

#[derive(Default)]
struct Changes {
    reads: HashMap<Vec<u8>, Option<u64>>,
    writes: BTreeMap<Vec<u8>, Written>,
    written_bytes: usize,
}

/// Documents, and the keys and versions of the durable ones among them.
type Looked = (Vec<Document>, Vec<(Vec<u8>, u64)>);

/// What a batch sees of its documents.
pub struct View<R> {
    rows: R,
    scope: Scope,
    now: Timestamp,
    batch: Changes,
    item: Changes,
    /// Which indexes there are, once somebody wants to know.
    indexes: Option<Indexes>,
}

/// Rows of documents, in the order of their keys, and after which key the next ones come.
type Page = (Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>);

impl<R: Rows> View<R> {
    /// A view at `now`, without changes.
    pub fn new(rows: R, scope: Scope, now: Timestamp) -> Self {
        let (batch, item) = (Changes::default(), Changes::default());
        Self { rows, scope, now, batch, item, indexes: None }
    }

    /// Keeps what the present item has read and written.
    pub fn keep_item(&mut self) {
        let item = std::mem::take(&mut self.item);
        for (key, version) in item.reads {
            self.batch.reads.entry(key).or_insert(version);
        }
        self.batch.writes.extend(item.writes);
        self.batch.written_bytes += item.written_bytes;
    }

    /// Drops what the present item has read and written.
    pub fn drop_item(&mut self) {
        self.item = Changes::default();
    }

    /// The rows that were read, with their versions, and the writes. What wrote nothing needs no
    /// check of what it read.
    pub fn finish(self) -> (Vec<ReadRow>, Vec<DocumentWrite>) {
        let Changes { reads, writes, .. } = self.batch;
        if writes.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let write = |Written { kind, id, document }| DocumentWrite { kind, id, document };
        (reads.into_iter().collect(), writes.into_values().map(write).collect())
    }

    fn written(&self, key: &[u8]) -> Option<&Written> {
        self.item.writes.get(key).or_else(|| self.batch.writes.get(key))
    }

    /// Remembers in which version a durable row was read.
    fn note(&mut self, key: &[u8], version: Option<u64>) {
        if !self.batch.reads.contains_key(key) {
            self.item.reads.entry(key.to_vec()).or_insert(version);
        }
    }

    fn find(&mut self, key: &[u8]) -> Result<Option<StoredDocument>, Reason> {
        if let Some(written) = self.written(key) {
            return Ok(written.document.clone());
        }
        let stored = self.rows.row(key).map(|row| decode(&row)).transpose()?;
        self.note(key, stored.as_ref().map(|stored| stored.version));
        Ok(stored)
    }

    fn write(
        &mut self,
        kind: &str,
        id: u128,
        document: Option<StoredDocument>,
    ) -> Result<(), Reason> {
        let bytes = document.as_ref().map_or(0, |document| document.data.as_str().len());
        if bytes > DOCUMENT_BYTES_MAX {
            let message = format!("a document has at most {DOCUMENT_BYTES_MAX} bytes");
            return Err(Reason::new("document_too_large", message));
        }
        let documents = self.batch.writes.len() + self.item.writes.len();
        let written = self.batch.written_bytes + self.item.written_bytes + bytes;
        if documents >= WRITES_MAX || written > WRITES_BYTES_MAX {
            let message = format!(
                "one call or batch writes at most {WRITES_MAX} documents and {WRITES_BYTES_MAX} \
                 bytes"
            );
            return Err(Reason::new("too_much_written", message));
        }
        self.item.written_bytes += bytes;
        let key = self.scope.document_key(kind, id);
        self.item.writes.insert(key, Written { kind: kind.to_owned(), id, document });
        Ok(())
    }

    /// All documents of a kind.
    fn page_of_kind(&self, kind: &str, after: Option<&[u8]>) -> Page {
        let rows = self.rows.rows(&self.scope.kind_prefix(kind), after, ROWS_STEP);
        let after = rows.last().filter(|_| rows.len() == ROWS_STEP).map(|(key, _)| key.clone());
        (rows, after)
    }

    /// The documents that an index leads to.
    fn page_of_index(
        &self,
        kind: &str,
        (prefix, step): (&[u8], usize),
        after: Option<&[u8]>,
    ) -> Page {
        let keys = self.rows.index_keys(prefix, after, step);
        let document = |key: &Vec<u8>| {
            let key = self.scope.document_key(kind, id_of(key));
            self.rows.row(&key).map(|row| (key, row))
        };
        let rows = keys.iter().filter_map(document).collect();
        (rows, keys.last().filter(|_| keys.len() == step).cloned())
    }

    /// What the keys of an index's rows begin with that has all documents that a query is for.
    fn index_for(&mut self, query: &Query<'_>) -> Option<Vec<u8>> {
        let mut tests = query.filter?.equalities().peekable();
        tests.peek()?;
        let (rows, key) = (&self.rows, self.scope.index_set_key());
        let indexes = self.indexes.get_or_insert_with(|| {
            rows.index_set(&key).map(|row| Indexes::decode(&row)).unwrap_or_default()
        });
        tests.find_map(|(field, value)| {
            let index = indexes.ready(query.kind, field)?;
            Some(self.scope.value_prefix(index.number, index.digest(value)?))
        })
    }

    /// The documents that a query is for, and those of them that are durable with their versions:
    /// among those that an index leads to, or among all.
    fn look_for(&self, query: &Query<'_>, index: Option<&[u8]>) -> Result<Looked, Reason> {
        let (mut documents, mut reads, mut examined) = (Vec::new(), Vec::new(), 0);
        // Whoever wants few is not made to wait for many.
        let step = query.limit.clamp(1, ROWS_STEP);
        let page = |view: &Self, after: Option<&[u8]>| match index {
            Some(prefix) => view.page_of_index(query.kind, (prefix, step), after),
            None => view.page_of_kind(query.kind, after),
        };
        self.walk(query.kind, page, |key, stored, is_durable| {
            examined += 1;
            if query.filter.is_some() && examined > EXAMINED_MAX {
                return Err(too_many(query, self.indexes.as_ref()));
            }
            let document = shown(id_of(key), &stored)?;
            if query.filter.is_none_or(|filter| filter.matches(&document.data)) {
                documents.push(document);
                if is_durable {
                    reads.push((key.to_vec(), stored.version));
                }
            }
            Ok(documents.len() < query.limit)
        })?;
        Ok((documents, reads))
    }

    /// Goes through a kind's documents in the order of their making, until `visit` has enough:
    /// those that are durable page by page, and the batch's own.
    fn walk(
        &self,
        kind: &str,
        page: impl Fn(&Self, Option<&[u8]>) -> Page,
        mut visit: impl FnMut(&[u8], StoredDocument, bool) -> Result<bool, Reason>,
    ) -> Result<(), Reason> {
        let prefix = self.scope.kind_prefix(kind);
        let mut written: BTreeMap<&[u8], &Written> = BTreeMap::new();
        for changes in [&self.batch, &self.item] {
            let range = changes.writes.range(prefix.clone()..);
            let of_kind = range.take_while(|(key, _)| key.starts_with(&prefix));
            written.extend(of_kind.map(|(key, written)| (key.as_slice(), written)));
        }
        let mut written = written.into_iter().peekable();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows;
            (rows, after) = page(self, after.as_deref());
            for (key, row) in rows {
                while let Some((made, it)) = written.next_if(|(made, _)| *made < key.as_slice()) {
                    if let Some(document) = &it.document
                        && !visit(made, document.clone(), false)?
                    {
                        return Ok(());
                    }
                }
                let own = written.next_if(|(made, _)| *made == key.as_slice());
                let (document, is_durable) = match own {
                    Some((_, it)) => (it.document.clone(), false),
                    None => (Some(decode(&row)?), true),
                };
                if let Some(document) = document
                    && !visit(&key, document, is_durable)?
                {
                    return Ok(());
                }
            }
            if after.is_none() {
                break;
            }
        }
        for (made, it) in written {
            if let Some(document) = &it.document
                && !visit(made, document.clone(), false)?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn list_by_ids(&mut self, query: &Query<'_>, ids: &[String]) -> Result<Vec<Document>, Reason> {
        let ids: BTreeSet<u128> = ids.iter().filter_map(|id| read_id(id)).collect();
        let mut documents = Vec::new();
        for id in ids {
            let key = self.scope.document_key(query.kind, id);
            let Some(stored) = self.find(&key)? else { continue };
            let document = shown(id, &stored)?;
            if query.filter.is_none_or(|filter| filter.matches(&document.data)) {
                documents.push(document);
            }
            if documents.len() >= query.limit {
                break;
            }
        }
        Ok(documents)
    }
}

impl<R: Rows> Documents for View<R> {
    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Document>, Reason> {
        check_kind(kind)?;
        let Some(id) = read_id(id) else { return Ok(None) };
        let key = self.scope.document_key(kind, id);
        let stored = self.find(&key)?;
        stored.map(|stored| shown(id, &stored)).transpose()
    }

    fn list(&mut self, query: &Query<'_>) -> Result<Vec<Document>, Reason> {
        check_kind(query.kind)?;
        if let Some(ids) = query.ids {
            return self.list_by_ids(query, ids);
        }
        let (mut index, mut changes) = (self.index_for(query), 0);
        let (documents, reads) = loop {
            let found = self.look_for(query, index.as_deref())?;
            if index.is_none() {
                break found;
            }
            // An index may have been dropped, and its rows swept, while they were read: what was
            // found is all there is only if the index is still read now.
            self.indexes = None;
            let now = self.index_for(query);
            if now == index {
                break found;
            }
            changes += 1;
            index = now.filter(|_| changes < INDEX_CHANGES_MAX);
        };
        for (key, version) in reads {
            self.note(&key, Some(version));
        }
        Ok(documents)
    }

    fn create(&mut self, kind: &str, data: Map<String, Value>) -> Result<String, Reason> {
        check_kind(kind)?;
        let (id, now) = (self.rows.new_id(), self.now);
        let data = text(&data)?;
        let document = StoredDocument { version: 1, created_at: now, updated_at: now, data };
        self.write(kind, id, Some(document))?;
        Ok(shown_id(id))
    }

    fn update(&mut self, kind: &str, id: &str, set: &Map<String, Value>) -> Result<bool, Reason> {
        check_kind(kind)?;
        let Some(id) = read_id(id) else { return Ok(false) };
        let key = self.scope.document_key(kind, id);
        let is_own = self.written(&key).is_some();
        let Some(stored) = self.find(&key)? else { return Ok(false) };
        let mut document = shown(id, &stored)?;
        document.patch(set, String::new());
        // Whatever a batch does to a document is one change of it.
        let version = if is_own { stored.version } else { stored.version + 1 };
        let data = text(&document.data)?;
        let document = StoredDocument { version, updated_at: self.now, data, ..stored };
        self.write(kind, id, Some(document))?;
        Ok(true)
    }

    fn delete(&mut self, kind: &str, id: &str) -> Result<bool, Reason> {
        check_kind(kind)?;
        let Some(id) = read_id(id) else { return Ok(false) };
        let key = self.scope.document_key(kind, id);
        if self.find(&key)?.is_none() {
            return Ok(false);
        }
        self.write(kind, id, None)?;
        Ok(true)
    }
}

fn too_many(query: &Query<'_>, indexes: Option<&Indexes>) -> Reason {
    let fields = query.filter.into_iter().flat_map(|filter| filter.equalities());
    let fields: BTreeSet<&str> = fields.map(|(field, _)| field).collect();
    let is_building = |field: &&str| indexes.is_some_and(|it| it.is_building(query.kind, field));
    let is_building = fields.iter().any(is_building);
    let fields = fields.into_iter().collect::<Vec<_>>().join(", ");
    let advice = match fields.as_str() {
        "" => "narrow the where by a field that equals a value".to_owned(),
        _ if is_building => "an index for it is being built; come back later".to_owned(),
        fields => format!("index {fields} in app.data.kinds.{}.indexes", query.kind),
    };
    let message = format!("the where looks at more than {EXAMINED_MAX} documents; {advice}");
    Reason::new("too_many_documents", message)
}

/// A kind is a part of a row's key, which a zero byte ends.
fn check_kind(kind: &str) -> Result<(), Reason> {
    if kind.bytes().any(|byte| byte == 0) {
        return Err(Reason::new("argument_invalid", "kind holds a zero byte"));
    }
    Ok(())
}

fn shown_id(id: u128) -> String {
    format!("{ID_PREFIX}{}", base32(id))
}

/// Reads an id in the one form that is shown.
pub(crate) fn read_id(text: &str) -> Option<u128> {
    let CallId(id) = text.strip_prefix(ID_PREFIX)?.parse().ok()?;
    (shown_id(id) == text).then_some(id)
}

/// The id at the end of a row's key.
pub(crate) fn id_of(key: &[u8]) -> u128 {
    key.last_chunk().map_or(0, |id| u128::from_be_bytes(*id))
}

pub(crate) fn shown(id: u128, stored: &StoredDocument) -> Result<Document, Reason> {
    let data = stored.data.read().map_err(|_| damaged())?;
    let (created_at, updated_at) = (rfc3339(stored.created_at), rfc3339(stored.updated_at));
    Ok(Document { id: shown_id(id), data, created_at, updated_at })
}

fn decode(row: &[u8]) -> Result<StoredDocument, Reason> {
    codec::decode(row).map_err(|_| damaged())
}

fn text(data: &Map<String, Value>) -> Result<JsonBytes, Reason> {
    JsonBytes::of(data).map_err(|_| damaged())
}

fn damaged() -> Reason {
    Reason::new("document_damaged", "a stored document could not be read or written")
}

#[cfg(test)]
mod index_tests;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;
    use types::{AppId, TenantId, UserId};

    use super::*;
    use crate::ir::Filter;

    #[derive(Default)]
    struct Table {
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        ids: Cell<u128>,
    }

    impl Rows for Table {
        fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.rows.get(key).cloned()
        }

        fn rows(
            &self,
            prefix: &[u8],
            after: Option<&[u8]>,
            limit: usize,
        ) -> Vec<(Vec<u8>, Vec<u8>)> {
            let is_after = |key: &Vec<u8>| after.is_none_or(|after| key.as_slice() > after);
            let rows = self.rows.iter().filter(|(key, _)| key.starts_with(prefix) && is_after(key));
            rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect()
        }

        fn new_id(&self) -> u128 {
            self.ids.set(self.ids.get() + 1);
            1_000_000 + self.ids.get()
        }

        fn index_set(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }

        fn index_keys(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Vec<Vec<u8>> {
            Vec::new()
        }
    }

    fn scope() -> Scope {
        Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
    }

    fn with(documents: u128) -> View<Table> {
        let mut table = Table::default();
        for id in 1..=documents {
            let data = JsonBytes::from(json!({"n": id as u64, "even": id % 2 == 0}));
            let at = Timestamp(0);
            let stored = StoredDocument { version: 3, created_at: at, updated_at: at, data };
            let row = codec::encode(&stored).unwrap();
            table.rows.insert(scope().document_key("book", id), row);
        }
        View::new(table, scope(), Timestamp(60_000))
    }

    fn query(limit: usize) -> Query<'static> {
        Query { kind: "book", filter: None, ids: None, limit }
    }

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_batch_sees_its_own_writes_in_the_order_of_making() {
        let mut view = with(600);
        let made = view.create("book", fields(json!({"n": 601}))).unwrap();
        view.keep_item();
        assert!(view.delete("book", &shown_id(300)).unwrap());
        assert!(view.update("book", &shown_id(2), &fields(json!({"n": 0}))).unwrap());
        let listed = view.list(&query(1_000)).unwrap();
        assert_eq!(listed.len(), 600);
        assert_eq!(listed[1].data["n"], 0);
        assert_eq!(listed[1].updated_at, "1970-01-01T00:01:00.000Z");
        assert_eq!(listed.last().unwrap().id, made);
        assert!(!listed.iter().any(|document| document.id == shown_id(300)));
        assert_eq!(view.get("book", &shown_id(300)).unwrap(), None);
        assert_eq!(view.get("film", &shown_id(2)).unwrap(), None);
    }

    #[test]
    fn what_a_failed_item_did_is_dropped() {
        let mut view = with(2);
        view.update("book", &shown_id(1), &fields(json!({"n": 5}))).unwrap();
        view.keep_item();
        view.update("book", &shown_id(1), &fields(json!({"n": 6}))).unwrap();
        view.delete("book", &shown_id(2)).unwrap();
        view.drop_item();
        let (reads, writes) = view.finish();
        assert_eq!(reads, [(scope().document_key("book", 1), Some(3))]);
        let document = writes[0].document.clone().unwrap();
        assert_eq!((writes.len(), document.version), (1, 4));
        assert_eq!(document.data.value()["n"], 5);
    }

    #[test]
    fn what_only_reads_has_nothing_to_check_and_what_is_missing_counts_as_read() {
        let mut view = with(2);
        view.list(&query(10)).unwrap();
        view.keep_item();
        assert_eq!(view.finish(), (Vec::new(), Vec::new()));
        let mut view = with(1);
        assert!(!view.update("book", &shown_id(9), &fields(json!({}))).unwrap());
        view.create("book", Map::new()).unwrap();
        view.keep_item();
        let (reads, _) = view.finish();
        assert_eq!(reads, [(scope().document_key("book", 9), None)]);
    }

    #[test]
    fn a_where_that_looks_at_too_much_names_what_to_index() {
        let mut view = with(EXAMINED_MAX as u128 + 1);
        let filter = Filter::parse(&json!({"n": EXAMINED_MAX + 1})).unwrap();
        let reason = view.list(&Query { filter: Some(&filter), ..query(1) }).unwrap_err();
        assert_eq!(reason.code, "too_many_documents");
        assert!(reason.message.contains("app.data.kinds.book.indexes"), "{}", reason.message);
        // It stops as soon as it has enough.
        let filter = Filter::parse(&json!({"even": true})).unwrap();
        assert_eq!(view.list(&Query { filter: Some(&filter), ..query(3) }).unwrap().len(), 3);
    }

    #[test]
    fn ids_are_read_in_the_form_they_are_shown_and_each_once() {
        let mut view = with(3);
        let ids = [3, 1, 3].map(shown_id);
        let asked = Query { ids: Some(&ids), ..query(10) };
        let listed = view.list(&asked).unwrap();
        let listed: Vec<_> = listed.iter().map(|document| document.id.clone()).collect();
        assert_eq!(listed, [shown_id(1), shown_id(3)]);
        for text in ["", "doc_", "1", &shown_id(1).to_uppercase(), &shown_id(1)[4..]] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_document_stays_small_and_so_does_a_batch() {
        let mut view = with(1);
        let large = fields(json!({"text": "x".repeat(DOCUMENT_BYTES_MAX - 20)}));
        view.create("book", large.clone()).unwrap();
        let grown = view.update("book", &shown_id(1), &fields(json!({"a": "y".repeat(30)})));
        assert!(grown.unwrap());
        let id = shown_id(1_000_001);
        let refused = view.update("book", &id, &fields(json!({"a": "y".repeat(30)})));
        assert_eq!(refused.unwrap_err().code, "document_too_large");
        let refused = (0..20).find_map(|_| view.create("book", large.clone()).err());
        assert_eq!(refused.unwrap().code, "too_much_written");
        assert_eq!(view.create("a\0b", Map::new()).unwrap_err().code, "argument_invalid");
    }
}
