//! The default engine: redb, one table, quick repair on.
//!
//! Quick repair costs a second sync a commit and saves the full scan after a crash.

use std::path::Path;
use std::time::Duration;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableDefinition};

use super::overlay::Overlay;
use super::place::Named;
use super::{Direction, Engine, EngineError, Pair, WriteBatch};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("journal");
const FILE: &str = "journal.redb";
/// How often a file that is still open is tried, and the pause between.
const OPEN_ATTEMPTS_MAX: u32 = 40;
const OPEN_PAUSE: Duration = Duration::from_millis(50);
const REDB: Named = Named("redb");

/// redb on one file.
pub struct RedbEngine {
    database: Database,
}

impl RedbEngine {
    /// Opens the store in `folder`, or makes it. `cache_bytes` bounds its memory.
    pub fn open(folder: &Path, cache_bytes: usize) -> Result<Self, EngineError> {
        let path = folder.join(FILE);
        REDB.make_if_missing(&path, |temporary| {
            let created = Database::builder().set_cache_size(cache_bytes).create(temporary);
            Self { database: created.map_err(REDB.failed("create its file"))? }.make_table()
        })?;
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let open = || open_let_go(&builder, &path).map_err(REDB.failed("open its file"));
        Ok(Self { database: REDB.guarded("open its file", open)? })
    }

    /// Checks every page of the store in `folder`, which nobody has open, and changes nothing.
    /// Reading checks no pages: a store whose tree is damaged may leave out what it holds.
    pub fn check(folder: &Path, cache_bytes: usize) -> Result<(), EngineError> {
        let path = folder.join(FILE);
        let disk = Overlay::over(&path).map_err(REDB.failed("open its file"))?;
        let checked = REDB.guarded("check its file", || {
            let mut store = Self::on(disk, cache_bytes)?;
            store.database.check_integrity().map_err(REDB.failed("check its file"))
        })?;
        if checked { Ok(()) } else { Err(REDB.failed("check its file")("its pages are damaged")) }
    }

    /// Opens the store on a disk of the caller's, or makes it there. For simulations: what
    /// [`RedbEngine::open`] does with names does not happen.
    pub fn on(disk: impl redb::StorageBackend, cache_bytes: usize) -> Result<Self, EngineError> {
        let is_new = disk.len().map_err(REDB.failed("open its disk"))? == 0;
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let database = builder.create_with_backend(disk).map_err(REDB.failed("open its disk"))?;
        let store = Self { database };
        if is_new {
            store.make_table()?;
        }
        Ok(store)
    }

    fn make_table(&self) -> Result<(), EngineError> {
        let mut transaction =
            self.database.begin_write().map_err(REDB.failed("begin its first write"))?;
        transaction.set_quick_repair(true);
        transaction.open_table(TABLE).map_err(REDB.failed("create its table"))?;
        transaction.commit().map_err(REDB.failed("commit its first write"))
    }
}

/// Opens a file that somebody may be about to let go of: the folder's own lock was free, and a task
/// that read for a server that has just been stopped ends a moment later than the server.
fn open_let_go(builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
    let mut attempts = 1;
    loop {
        match builder.open(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if attempts < OPEN_ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(OPEN_PAUSE);
            }
            opened => return opened,
        }
    }
}

impl Engine for RedbEngine {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn commit(&self, mut batch: WriteBatch) -> Result<(), EngineError> {
        // In key order the tree's pages are visited once each; the sort is stable, so that of
        // two changes to one key the later still counts.
        batch.changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut transaction = self.database.begin_write().map_err(REDB.failed("begin a write"))?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(TABLE).map_err(REDB.failed("open its table"))?;
        for (key, value) in &batch.changes {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice()),
                None => table.remove(key.as_slice()),
            }
            .map_err(REDB.failed("write"))?;
        }
        drop(table);
        transaction.commit().map_err(REDB.failed("commit"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let transaction = self.database.begin_read().map_err(REDB.failed("begin a read"))?;
        let table = transaction.open_table(TABLE).map_err(REDB.failed("open its table"))?;
        let value = table.get(key).map_err(REDB.failed("read"))?;
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
        let transaction = self.database.begin_read().map_err(REDB.failed("begin a read"))?;
        let table = transaction.open_table(TABLE).map_err(REDB.failed("open its table"))?;
        let mut range = table.range(start..end).map_err(REDB.failed("scan"))?;
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let next = match direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some(pair) = next else { break };
            let (key, value) = pair.map_err(REDB.failed("scan"))?;
            pairs.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(pairs)
    }

    fn syncs_per_commit(&self) -> u32 {
        2
    }
}
