//! C6: power cuts on a disk that tears and reorders sectors. C17: the same with a mistake in it.
//!
//! `CONFORMANCE_SEEDS` is how many runs there are, `CONFORMANCE_SEED` repeats one.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, Fault, Random, Sabotage};
use crate::story::{Built, Simulated, Story};
use crate::{setting, setting_or};

const LIVES: u64 = 4;
/// A life ends within this many operations of the disk.
const OPERATIONS_MAX: u64 = 400;
const COMMITS_MAX: u64 = 60;
/// Commits that may come before a table is moved, and while it is: more would wait for the move.
const UNMOVED_MAX: u64 = 2;
const MEANWHILE_MAX: u64 = 3;

/// Several lives of one store, each ended by a power cut. Says how many commits there were.
fn lives(built: Built, seed: u64, sabotage: Sabotage) -> Result<u64, String> {
    let mut random = Random(seed);
    let disk = Disk::new(random.next());
    // Making a store ends with a rename, so it is whole or not there.
    drop(Simulated::open(built, &disk).map_err(|error| error.to_string())?);
    disk.cut_power();
    let story = Arc::new(Mutex::new(Story::default()));
    for life in 0..LIVES {
        disk.sabotage(sabotage);
        disk.plan(Fault::Cut(1 + random.below(OPERATIONS_MAX)));
        // Opening may meet the cut too, and the one after that.
        if let Ok(engine) = Simulated::open(built, &disk) {
            live(Arc::new(engine), &disk, &story, &mut random);
        }
        disk.set_hook(None);
        disk.cut_power();
        disk.sabotage(Sabotage::None);
        let engine = Simulated::open(built, &disk)
            .map_err(|error| format!("life {life}: it does not open: {error}"))?;
        let checked = story.lock().check(engine.engine());
        checked.map_err(|error| format!("life {life}: {error}"))?;
        // It is as good as new: it takes more.
        Story::commit(&story, engine.engine(), &mut random)
            .map_err(|error| format!("life {life}: it takes nothing more: {error}"))?;
    }
    let commits = story.lock().commits;
    Ok(commits)
}

fn live(engine: Arc<Simulated>, disk: &Disk, story: &Arc<Mutex<Story>>, random: &mut Random) {
    let mut unmoved = 0;
    for _ in 0..COMMITS_MAX {
        if Story::commit(story, engine.engine(), random).is_err() {
            return;
        }
        unmoved += 1;
        if random.below(3) == 0 || unmoved > UNMOVED_MAX {
            unmoved = 0;
            let (weak, meanwhile) = (Arc::downgrade(&engine), story.clone());
            let (mut dice, mut left) = (Random(random.next()), MEANWHILE_MAX);
            disk.set_hook(Some(Box::new(move || {
                let Some(engine) = weak.upgrade().filter(|_| left > 0) else { return };
                // Nothing follows a commit that failed: the process would be over.
                let over = meanwhile.lock().in_doubt.is_some();
                if !over && dice.below(4) == 0 {
                    left -= 1;
                    let _ = Story::commit(&meanwhile, engine.engine(), &mut dice);
                }
            })));
            let moved = engine.move_frozen();
            disk.set_hook(None);
            if moved.is_err() || story.lock().in_doubt.is_some() {
                return;
            }
        }
    }
}

fn check_many(built: Built) {
    let seeds = setting_or("CONFORMANCE_SEEDS", 120);
    let one = setting("CONFORMANCE_SEED");
    let mut commits = 0;
    for seed in one.map_or(0..seeds, |seed| seed..seed + 1) {
        match lives(built, seed, Sabotage::None) {
            Ok(count) => commits += count,
            Err(error) => panic!("{built:?}, CONFORMANCE_SEED={seed}: {error}"),
        }
    }
    println!("{built:?}: {seeds} runs, {LIVES} cuts each, {commits} commits acknowledged");
    assert!(commits > 0);
}

#[test]
fn c6_a_power_cut_that_tears_and_reorders_sectors_loses_nothing_behind_the_log() {
    check_many(Built::Logged);
}

#[test]
fn c6_a_power_cut_that_tears_and_reorders_sectors_loses_nothing_of_redb_alone() {
    check_many(Built::Alone);
}

/// How many runs it takes until a sync that was left out is found.
fn found_after(sabotage: Sabotage) -> Option<u64> {
    (0..setting_or("CONFORMANCE_SABOTAGE_SEEDS", 4_000))
        .find(|seed| lives(Built::Logged, *seed, sabotage).is_err())
}

#[test]
fn c17_a_log_that_leaves_out_one_sync_in_50_is_found_out() {
    let seed = found_after(Sabotage::Log);
    println!("found with seed {seed:?}");
    assert!(seed.is_some(), "nothing found a log that does not sync");
}

#[test]
fn c17_a_store_that_leaves_out_one_sync_in_50_is_found_out() {
    let seed = found_after(Sabotage::Store);
    println!("found with seed {seed:?}");
    assert!(seed.is_some(), "nothing found a store that does not sync");
}
