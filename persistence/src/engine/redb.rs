//! The default engine: redb, one table, quick repair on.
//!
//! Quick repair costs a second sync a commit and saves the full scan after a crash. The file is
//! made under a temporary name, synced and renamed, because a file whose creation was cut short
//! cannot be opened.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::overlay::Overlay;
use super::{Direction, Engine, EngineError, Pair, WriteBatch};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("journal");
const FILE: &str = "journal.redb";

/// redb on one file.
pub struct RedbEngine {
    database: Database,
}

fn failed<E: std::fmt::Display>(operation: &'static str) -> impl Fn(E) -> EngineError {
    move |reason| EngineError { engine: "redb", operation, reason: reason.to_string() }
}

/// A damaged file may make redb panic, which is no way for a start to end.
fn guarded<T>(
    operation: &'static str,
    run: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(failed(operation)("it panicked")))
}

impl RedbEngine {
    /// Opens the store in `folder`, or makes it. `cache_bytes` bounds its memory.
    pub fn open(folder: &Path, cache_bytes: usize) -> Result<Self, EngineError> {
        let path = folder.join(FILE);
        if !path.exists() {
            create(folder, &path, cache_bytes)?;
        }
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let open = || builder.open(&path).map_err(failed("open its file"));
        Ok(Self { database: guarded("open its file", open)? })
    }

    /// Checks every page of the store in `folder`, which nobody has open, and changes nothing.
    /// Reading checks no pages: a store whose tree is damaged may leave out what it holds.
    pub fn check(folder: &Path, cache_bytes: usize) -> Result<(), EngineError> {
        let path = folder.join(FILE);
        let disk = Overlay::over(&path).map_err(failed("open its file"))?;
        let checked = guarded("check its file", || {
            let mut store = Self::on(disk, cache_bytes)?;
            store.database.check_integrity().map_err(failed("check its file"))
        })?;
        if checked { Ok(()) } else { Err(failed("check its file")("its pages are damaged")) }
    }

    /// Opens the store on a disk of the caller's, or makes it there. For simulations: what
    /// [`RedbEngine::open`] does with names does not happen.
    pub fn on(disk: impl redb::StorageBackend, cache_bytes: usize) -> Result<Self, EngineError> {
        let is_new = disk.len().map_err(failed("open its disk"))? == 0;
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let database = builder.create_with_backend(disk).map_err(failed("open its disk"))?;
        let store = Self { database };
        if is_new {
            store.make_table()?;
        }
        Ok(store)
    }

    fn make_table(&self) -> Result<(), EngineError> {
        let mut transaction =
            self.database.begin_write().map_err(failed("begin its first write"))?;
        transaction.set_quick_repair(true);
        transaction.open_table(TABLE).map_err(failed("create its table"))?;
        transaction.commit().map_err(failed("commit its first write"))
    }
}

fn create(folder: &Path, path: &Path, cache_bytes: usize) -> Result<(), EngineError> {
    let temporary = path.with_extension("redb.tmp");
    let _ = std::fs::remove_file(&temporary);
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .create(&temporary)
        .map_err(failed("create its file"))?;
    let store = RedbEngine { database };
    store.make_table()?;
    drop(store);
    let synced = File::open(&temporary)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    synced.map_err(failed("put its new file in place"))
}

impl Engine for RedbEngine {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn commit(&self, mut batch: WriteBatch) -> Result<(), EngineError> {
        // In key order the tree's pages are visited once each; the sort is stable, so that of
        // two changes to one key the later still counts.
        batch.changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut transaction = self.database.begin_write().map_err(failed("begin a write"))?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(TABLE).map_err(failed("open its table"))?;
        for (key, value) in &batch.changes {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice()),
                None => table.remove(key.as_slice()),
            }
            .map_err(failed("write"))?;
        }
        drop(table);
        transaction.commit().map_err(failed("commit"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let transaction = self.database.begin_read().map_err(failed("begin a read"))?;
        let table = transaction.open_table(TABLE).map_err(failed("open its table"))?;
        let value = table.get(key).map_err(failed("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let transaction = self.database.begin_read().map_err(failed("begin a read"))?;
        let table = transaction.open_table(TABLE).map_err(failed("open its table"))?;
        let mut range = table.range(start..end).map_err(failed("scan"))?;
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let next = match direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some(pair) = next else { break };
            let (key, value) = pair.map_err(failed("scan"))?;
            pairs.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(pairs)
    }

    fn syncs_per_commit(&self) -> u32 {
        2
    }
}
