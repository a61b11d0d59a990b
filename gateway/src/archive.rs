//! The archiver: a system actor that moves old records into archive files, a shard after the other,
//! in bounded steps.
//!
//! A record is moved once it is older than `--keep` and behind its stream's snapshot; streams that
//! have none get one first. What is moved is read as before.

use std::time::Duration;

use persistence::Shard;
use persistence::archive::{ArchiveError, ArchiveRules};
use persistence::record::SHARDS;
use supervision::System;

use crate::app::App;

/// How often the archiver looks.
pub(crate) const ARCHIVE_PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
/// Less than so many bytes of old records of a shard are not worth a file.
pub const ARCHIVE_BYTES_MIN: usize = 1024 * 1024;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What a pass over all shards did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Archives made.
    pub archives: u64,
    /// Records in them.
    pub records: u64,
}

/// One pass: archives every shard's records from before `before_ms`, in milliseconds since 1970,
/// where they come to `bytes_min` bytes. Blocks.
pub fn pass(system: &System, before_ms: i64, bytes_min: usize) -> Result<Passed, ArchiveError> {
    let rules = ArchiveRules { before_ms, bytes_min };
    let mut passed = Passed::default();
    for shard in 0..SHARDS {
        // What is left is for finishing what was begun.
        if system.journal().is_low_on_space() {
            break;
        }
        let mut next = Some(0);
        while let Some(from) = next {
            let mut cover = |header: &persistence::Header| {
                system.snapshot(header);
            };
            let shard = Shard(shard as u8);
            let step = system.journal().archive_step(shard, from, &rules, &mut cover)?;
            if let Some((id, entry)) = step.made {
                let records = entry.contents.records;
                tracing::info!(%id, records, bytes = entry.bytes, "old records were archived");
                passed.archives += 1;
                passed.records += records;
            }
            next = step.next_pos;
        }
    }
    Ok(passed)
}

/// The archiver's round.
pub(crate) async fn keep(app: &App, keep_days: u32) {
    let (system, now) = (app.system.clone(), app.system.clock().now());
    if system.journal().folder().is_none() {
        return;
    }
    let before = now.plus_ms(-i64::from(keep_days) * DAY_MS);
    let passed =
        tokio::task::spawn_blocking(move || pass(&system, before.0, ARCHIVE_BYTES_MIN)).await;
    // A stop meanwhile is no trouble: the next start's archiver goes on.
    if let Ok(Err(error)) = passed
        && !*app.stopping.borrow()
    {
        tracing::warn!(error = crate::offline::whole(&error), "archiving is put off");
    }
}
