//! `bailiwick reindex`: the read models of a stopped folder, rebuilt from its records.
//!
//! Each shard is compared and mended by itself, in batches that are each right alone: one that was
//! cut short is simply run again.

use persistence::Shard;
use persistence::record::SHARDS;
use supervision::rebuild::Reindexed;

use crate::offline::{FolderArgs, OfflineError, Progress, open_system, say};

/// The options of `bailiwick reindex`.
#[derive(clap::Args, Clone, Debug)]
pub struct ReindexArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
    /// Compare only, and write nothing
    #[arg(long)]
    pub check: bool,
}

impl ReindexArgs {
    /// A folder's rows, compared only or mended too.
    pub fn new(folder: &std::path::Path, check: bool) -> Self {
        let folder = FolderArgs { data_dir: folder.to_owned(), master_key: None };
        Self { folder, check }
    }
}

/// Compares, mends unless told not to, and prints what differed.
pub async fn run(args: &ReindexArgs) -> Result<Reindexed, OfflineError> {
    let open = open_system(&args.folder)?;
    let mut progress = Progress::new("reindexing", "entities");
    let mut all = Reindexed::default();
    for shard in 0..SHARDS {
        all.add(open.system.reindex_shard(Shard(shard as u8), !args.check)?);
        progress.at(all.entities);
    }
    drop(progress);
    open.system.stop().await;
    for entity in &all.unreadable {
        say(&format!("not replayed, its rows are kept: {entity}"));
    }
    let sorts =
        [("missing", &all.missing), ("different", &all.different), ("surplus", &all.surplus)];
    for (sort, families) in sorts {
        for (family, count) in families {
            say(&format!("{family}: {count} {sort}"));
        }
    }
    let (entities, right, wrong) = (all.entities, all.right, all.wrong());
    let mended = if args.check { "not as the records say" } else { "rebuilt" };
    say(&format!("{entities} entities: {right} rows right, {wrong} {mended}"));
    let unreadable = all.unreadable.len() as u64;
    match (args.check, unreadable) {
        (true, _) if wrong + unreadable > 0 => Err(OfflineError::Wrong(wrong + unreadable)),
        (false, 1..) => Err(OfflineError::Wrong(unreadable)),
        _ => Ok(all),
    }
}
